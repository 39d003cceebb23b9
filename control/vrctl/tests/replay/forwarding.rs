//! What comes out.

use std::{fs, net::IpAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::bench::{Bench, CLIENT, CLIENT_V6, DB, DB_V6, WEB, WEB_V6, content, udp_frame};

/// Source and destination address, hop limit, and UDP payload.
fn inner(frame: &[u8]) -> (IpAddr, IpAddr, u8, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (from, to, hop_limit): (IpAddr, IpAddr, u8) = match packet.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into(), header.ttl())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into(), header.hop_limit())
        }
        NetSlice::Arp(_) => panic!("no IP packet"),
    };
    let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
    (from, to, hop_limit, udp.payload().to_vec())
}

#[test]
fn a_packet_to_a_pod_of_the_same_node_leaves_through_its_port() {
    let bench = Bench::new();
    let frames =
        [[CLIENT, WEB], [CLIENT_V6, WEB_V6]].map(|way| bench.udp("node-a", "default/client", way));
    bench.write("in.pcap", &frames);
    let summary = bench.replay_ok("node-a", &["--in", "default/client=in.pcap", "--out", "out"]);
    let sent = bench.read("out/default/web.pcap");
    let input = bench.read("in.pcap");
    let web = bench.port("node-a", "default/web");
    assert_eq!(sent.len(), 2);
    for ((captured, before), way) in
        sent.iter().zip(&input).zip([[CLIENT, WEB], [CLIENT_V6, WEB_V6]])
    {
        assert_eq!(captured.timestamp, before.timestamp);
        assert_eq!(captured.frame[..12], [web.mac, web.gateway_mac].concat());
        let [from, to] = way.map(|address| address.parse::<IpAddr>().unwrap());
        assert_eq!(inner(&captured.frame), (from, to, 63, b"hello".to_vec()));
    }
    assert_eq!(bench.json("out/drops.json"), serde_json::json!([]));
    assert_eq!(summary, bench.json("out/summary.json"));
    assert_eq!(summary["balance"]["received"], 2);
    assert_eq!(summary["balance"]["sent"], 2);
}

#[test]
fn what_one_node_sends_to_the_fabric_another_one_takes() {
    let bench = Bench::new();
    let ways = [[CLIENT, DB], [CLIENT_V6, DB_V6]];
    bench.write("in.pcap", &ways.map(|way| bench.udp("node-a", "default/client", way)));
    bench.replay_ok("node-a", &["--in", "default/client=in.pcap", "--out", "a"]);
    bench.replay_ok("node-b", &["--in", "uplink=a/uplink.pcap", "--out", "b"]);
    let arrived = bench.read("b/back/db.pcap");
    assert_eq!(arrived.len(), 2);
    let [from, to] = [CLIENT, DB].map(|address| address.parse::<IpAddr>().unwrap());
    assert_eq!(inner(&arrived[0].frame), (from, to, 62, b"hello".to_vec()));

    // And back: the answer finds the client, with its own address as the source.
    let answer = [[DB, CLIENT], [DB_V6, CLIENT_V6]].map(|way| bench.udp("node-b", "back/db", way));
    bench.write("answer.pcap", &answer);
    bench.replay_ok("node-b", &["--in", "back/db=answer.pcap", "--out", "b2"]);
    bench.replay_ok("node-a", &["--in", "uplink=b2/uplink.pcap", "--out", "a2"]);
    let arrived = bench.read("a2/default/client.pcap");
    assert_eq!(arrived.len(), 2);
    assert_eq!(inner(&arrived[0].frame), (to, from, 62, b"hello".to_vec()));
}

#[test]
fn a_dropped_frame_is_listed_with_its_index_port_and_reason() {
    let bench = Bench::new();
    let spoofed = bench.udp("node-a", "default/client", [WEB, DB]);
    let good = bench.udp("node-a", "default/client", [CLIENT, WEB]);
    let nowhere = bench.udp("node-a", "default/client", [CLIENT, "198.51.100.1"]);
    bench.write("in.pcap", &[spoofed, good, nowhere, vec![0; 5]]);
    let summary = bench.replay_ok("node-a", &["--in", "default/client=in.pcap", "--out", "out"]);
    let drops = bench.json("out/drops.json");
    let drops: Vec<_> = drops
        .as_array()
        .unwrap()
        .iter()
        .map(|drop| {
            assert_eq!(drop["port"], "default/client");
            assert!(drop["detail"].is_string());
            (drop["index"].as_u64().unwrap(), drop["reason"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = [(0, "rpf_spoofed_source"), (2, "route_none"), (3, "parse_truncated")];
    assert_eq!(drops, expected.map(|(index, reason)| (index, reason.to_owned())));
    assert_eq!(summary["drops"]["rpf_spoofed_source"], 1);
}

#[test]
fn the_same_input_makes_the_same_files() {
    let bench = Bench::new();
    let frames: Vec<_> = (0..50)
        .map(|index| {
            let way = [[CLIENT, WEB], [CLIENT, DB], [WEB, DB], [CLIENT_V6, DB_V6]][index % 4];
            bench.udp("node-a", "default/client", way)
        })
        .collect();
    bench.write("in.pcap", &frames);
    for out in ["one", "two"] {
        bench.replay_ok("node-a", &["--in", "default/client=in.pcap", "--out", out]);
    }
    let one = content(&bench.path("one"));
    assert!(one.len() >= 4, "{:?}", one.iter().map(|(path, _)| path).collect::<Vec<_>>());
    assert_eq!(one, content(&bench.path("two")));
}

#[test]
fn frames_of_several_ports_go_in_by_their_times() {
    let bench = Bench::new();
    // The second port's only frame lies between the two of the first.
    let client = bench.udp("node-a", "default/client", [CLIENT, DB]);
    let web = bench.udp("node-a", "default/web", [WEB, DB]);
    bench.write("client.pcap", &[client.clone(), client.clone(), client]);
    bench.write("web.pcap", &[web.clone(), web]);
    let inputs = ["--in", "default/web=web.pcap", "--in", "default/client=client.pcap"];
    bench.replay_ok("node-a", &[&inputs[..], &["--out", "out"]].concat());
    let sent = bench.read("out/uplink.pcap");
    let times: Vec<_> = sent.iter().map(|captured| captured.timestamp.as_millis()).collect();
    assert_eq!(times, [1000, 1000, 1001, 1001, 1002]);
}

#[test]
fn a_folder_that_is_used_again_tells_of_the_last_replay_only() {
    let bench = Bench::new();
    bench.write("local.pcap", &[bench.udp("node-a", "default/client", [CLIENT, WEB])]);
    bench.write("far.pcap", &[bench.udp("node-a", "default/client", [CLIENT, DB])]);
    bench.replay_ok("node-a", &["--in", "default/client=local.pcap", "--out", "out"]);
    assert!(bench.path("out/default/web.pcap").exists());
    fs::write(bench.path("out/notes.txt"), "mine").unwrap();
    bench.replay_ok("node-a", &["--in", "default/client=far.pcap", "--out", "out"]);
    assert!(!bench.path("out/default/web.pcap").exists());
    assert!(bench.path("out/uplink.pcap").exists());
    assert!(bench.path("out/notes.txt").exists(), "what is not ours stays");
}

#[test]
fn a_packet_to_the_node_leaves_through_the_host_port_and_back() {
    let bench = Bench::new();
    bench.write("in.pcap", &[bench.udp("node-a", "default/client", [CLIENT, "192.0.2.1"])]);
    bench.replay_ok("node-a", &["--in", "default/client=in.pcap", "--out", "out"]);
    assert_eq!(bench.read("out/host.pcap").len(), 1);

    let host = bench.port("node-a", "host");
    let way = ["192.0.2.1", CLIENT].map(|address| address.parse().unwrap());
    bench.write("probe.pcap", &[udp_frame(host.mac, host.gateway_mac, way, b"probe")]);
    bench.replay_ok("node-a", &["--in", "host=probe.pcap", "--out", "back"]);
    assert_eq!(bench.read("back/default/client.pcap").len(), 1);
}

#[test]
fn people_get_a_table() {
    let bench = Bench::new();
    bench.write("in.pcap", &[bench.udp("node-a", "default/client", [WEB, DB])]);
    let output = bench.replay("node-a", &["--in", "default/client=in.pcap", "--out", "out"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("PORT "), "{text}");
    assert!(text.contains("rpf_spoofed_source        1"), "{text}");
}
