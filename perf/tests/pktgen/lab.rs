//! What needs drivers and modules that this machine does not have: run by `scripts/lab` in a
//! virtual machine, where `up0` and `peer0` are the two ends of a cable between virtio-net NICs.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use crate::{assert_all_arrived, command, row, wait_for};

/// The kernel's generator (Documentation/networking/pktgen.rst).
const PKTGEN: &str = "/proc/net/pktgen";

/// Leaves the test, loudly, outside of the lab.
macro_rules! skip_unless_lab {
    () => {
        if env::var_os("VROUTER_LAB").is_none() {
            eprintln!("SKIPPED: needs the virtual lab; run scripts/lab");
            return;
        }
    };
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}");
}

/// Brings the cable up; nothing is on it but what a test sends.
fn cable() {
    for nic in ["up0", "peer0"] {
        run(&format!("sysctl -q -w net.ipv6.conf.{nic}.disable_ipv6=1"));
        // A NIC drops what is not for it.
        run(&format!("ip link set {nic} promisc on up"));
    }
}

#[test]
fn every_packet_crosses_a_cable_in_zero_copy() {
    skip_unless_lab!();
    cable();
    let ports = "--tx af_xdp:up0,mode=zero-copy --rx af_xdp:peer0,mode=zero-copy";
    for frames in ["--frame imix", "--ipv6 --frame 1518"] {
        assert_all_arrived(&row(&format!("{ports} {frames} --packets 2000 --rate 1000")), 2000);
    }
}

#[test]
fn every_packet_of_the_kernels_generator_is_received_and_known_to_be_foreign() {
    skip_unless_lab!();
    cable();
    run("modprobe pktgen");
    let mut sink = command("--rx af_xdp:peer0 --seconds 120")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(sink.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("receiving on af_xdp:peer0")));
    let before = received();
    let say = |file: &str, text: &str| fs::write(format!("{PKTGEN}/{file}"), text).unwrap();
    say("kpktgend_0", "rem_device_all");
    say("kpktgend_0", "add_device up0");
    for setting in ["count 3000", "pkt_size 60", "delay 500000", "dst 198.19.0.1"] {
        say("up0", setting);
    }
    // Ends once all are sent.
    say("pgctrl", "start");
    let result = fs::read_to_string(format!("{PKTGEN}/up0")).unwrap();
    assert!(result.contains("pkts-sofar: 3000"), "{result}");
    wait_for("the packets of the kernel", || received() - before >= 3000);
    run(&format!("kill -INT {}", sink.id()));
    let told = lines.find(|line| line.contains("nothing arrived")).unwrap();
    sink.wait().unwrap();
    assert!(told.contains("besides 3000 other frames"), "{told}");
}

/// Packets that the NIC at the far end received.
fn received() -> u64 {
    fs::read_to_string("/sys/class/net/peer0/statistics/rx_packets")
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}
