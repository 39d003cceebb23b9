//! Whatever comes in: no panic, and every packet is accounted for.

use std::net::{IpAddr, Ipv4Addr};

use control_api::engine as api;
use encap::MacAddress;
use etherparse::{PacketBuilder, TcpOptionElement};
use flowtable::TableCounters;
use proptest::{collection::vec, prelude::*, sample::Index};
use vrouter::next_hop::Adjacency;

use crate::{
    bench::Bench,
    gateway::{arp_request, solicitation},
    rig::{
        Node, Udp, changed, echo_request, fix_ipv4_checksum, frame_from_b, input, objects, route,
        run, run_from, sent, via_tunnel,
    },
    sizes::pieces,
};

const PORTS: [&str; 4] = ["default/pod10", "default/pod11", "host", "uplink"];

/// Well-formed frames of every kind that the engine treats differently.
fn seeds() -> Vec<Vec<u8>> {
    let mut frames = vec![
        Udp::from_pod(Node::A.pod(11)).frame(),
        Udp::from_pod(Node::B.pod(10)).frame(),
        Udp::from_pod(Node::B.pod6(10)).frame(),
        Udp::from_pod(Node::A.ip6()).frame(),
        echo_request(Node::A.gateway(), b"ping"),
        echo_request(Node::A.gateway6(), b"ping"),
        arp_request(Node::A.pod(10), Node::A.gateway()),
        solicitation(Node::A.pod6(10), Node::A.gateway6()),
    ];
    frames.extend(pieces(true));
    frames.extend(pieces(false));
    // What node b sends to us in its tunnel, and an error about what we sent.
    let mut answer = Udp::from_pod(Node::A.pod(10));
    answer.macs = (Node::B.pod_mac(10), Node::B.gateway_mac());
    answer.source = Node::B.pod(10).into();
    let output = run(objects(Node::B), &[input("default/pod10", [answer.frame()])]);
    frames.extend(sent(&output, "uplink").iter().map(|frame| frame.to_vec()));
    let expired = Udp { ttl: 1, ..Udp::from_pod(Node::B.pod(10)) }.frame();
    let output = run_from("default/pod10", [expired]);
    frames.extend(sent(&output, "default/pod10").iter().map(|frame| frame.to_vec()));
    frames
}

#[derive(Clone, Debug)]
enum Damage {
    None,
    Cut(Index),
    Flip(Vec<(Index, u8)>),
    Grow(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        Just(Damage::None),
        any::<Index>().prop_map(Damage::Cut),
        vec((any::<Index>(), any::<u8>()), 1..6).prop_map(Damage::Flip),
        vec(any::<u8>(), 1..80).prop_map(Damage::Grow),
    ]
}

fn damaged(mut frame: Vec<u8>, damage: &Damage) -> Vec<u8> {
    match damage {
        Damage::None => {}
        Damage::Cut(at) => frame.truncate(at.index(frame.len() + 1)),
        Damage::Flip(flips) => {
            for (at, bits) in flips {
                let at = at.index(frame.len());
                frame[at] ^= bits;
            }
        }
        Damage::Grow(more) => frame.extend_from_slice(more),
    }
    frame
}

/// Makes headers right again that damage has spoiled, so that more than checksums is judged: of an
/// IPv4 packet, and of one in a tunnel.
fn repaired(mut frame: Vec<u8>) -> Vec<u8> {
    for start in [0, 50] {
        if frame.get(start + 12..start + 15) == Some(&[8, 0, 0x45]) && frame.len() >= start + 34 {
            fix_ipv4_checksum(&mut frame[start..]);
        }
    }
    frame
}

/// A TCP segment from pod 10 of node `a`, with options if there is a time stamp.
fn segment(destination: impl Into<IpAddr>, flags: u8, stamp: Option<u32>) -> Vec<u8> {
    let udp = Udp::from_pod(destination);
    let ethernet = PacketBuilder::ethernet2(udp.macs.0.octets(), udp.macs.1.octets());
    let ip = match (udp.source, udp.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("one family"),
    };
    let mut tcp = ip.tcp(5000, 80, 1000, 4000);
    tcp = if flags & 1 != 0 { tcp.syn() } else { tcp.ack(77) };
    tcp = if flags & 2 != 0 { tcp.fin() } else { tcp };
    tcp = if flags & 4 != 0 { tcp.rst() } else { tcp };
    if let Some(stamp) = stamp {
        tcp = tcp.options(&[TcpOptionElement::Timestamp(stamp, 0)]).unwrap();
    }
    let mut frame = Vec::new();
    tcp.write(&mut frame, b"data").unwrap();
    frame
}

/// Frames of which most are plain, from each port.
fn plain_seeds() -> Vec<Vec<u8>> {
    let mut frames = seeds();
    let targets: [IpAddr; 5] = [
        Node::A.pod(11).into(),
        Node::A.pod6(11).into(),
        Node::B.pod(10).into(),
        Node::B.pod6(10).into(),
        Node::A.ip().into(),
    ];
    for target in targets {
        frames.push(Udp::from_pod(target).frame());
        frames.push(Udp { payload: vec![7; 1300], ..Udp::from_pod(target) }.frame());
        for flags in [0, 0, 1, 2, 4] {
            frames.push(segment(target, flags, None));
            frames.push(segment(target, flags, Some(5)));
        }
    }
    let tunnelled: Vec<_> = frames
        .iter()
        .filter(|frame| frame.len() > 34)
        .map(|frame| {
            let mut frame = frame.clone();
            frame[..6].copy_from_slice(&Node::A.mac().octets());
            // From the other node's pod to ours.
            if frame[12] == 0x08 {
                frame[26..30].copy_from_slice(&Node::B.pod(10).octets());
                frame[30..34].copy_from_slice(&Node::A.pod(10).octets());
            }
            let mut outer = frame_from_b(&repaired(frame));
            // Without a checksum, as tunnels over IPv4 send it.
            outer[40..42].fill(0);
            outer
        })
        .collect();
    frames.extend(tunnelled);
    frames
}

/// Node `a`, whose pods leave checksums to their ports if they may.
fn with_checksums_left_to_ports(has_partial_checksums: bool) -> Vec<api::Object> {
    changed(objects(Node::A), |kind| {
        if let api::object::Kind::Port(port) = kind {
            let partial_checksums = has_partial_checksums && port.name.starts_with("default");
            let interface = "veth0".into();
            let af_xdp = api::AfXdpBackend { interface, partial_checksums, ..Default::default() };
            port.backend = Some(api::port::Backend::AfXdp(af_xdp));
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_fast_path_does_what_the_rest_does(
        bursts in vec((0..PORTS.len(), vec((any::<Index>(), damage(), any::<bool>()), 1..64)), 1..16),
        has_partial_checksums: bool,
    ) {
        let seeds = plain_seeds();
        let objects = with_checksums_left_to_ports(has_partial_checksums);
        let mut benches = [true, false].map(|is_fast| {
            let mut bench = Bench::with(objects.clone(), 1 << 10);
            bench.set_fast_path(is_fast);
            bench
        });
        for (port, frames) in bursts {
            let frames: Vec<_> = frames
                .iter()
                .map(|(seed, damage, repairs)| {
                    let frame = damaged(seed.get(&seeds).clone(), damage);
                    if *repairs { repaired(frame) } else { frame }
                })
                .collect();
            let [fast, full] = benches.each_mut().map(|bench| {
                let mut outcome = bench.send_burst(0, PORTS[port], &frames);
                // In which stage a packet dies, and so the order of drops, is no part of it.
                outcome.drops.sort_by_key(|reason| *reason as usize);
                outcome
            });
            prop_assert_eq!(fast.sent, full.sent);
            prop_assert_eq!(fast.drops, full.drops);
        }
        // A packet whose addresses no flow has is looked up before it is refused.
        let [fast, full] = benches.each_ref().map(|bench| {
            let counters = TableCounters { misses: 0, ..bench.counters() };
            (bench.tunnel("peer/ipv4"), counters, bench.connections())
        });
        prop_assert_eq!(fast, full);
    }
}

/// What the node is told between two bursts.
#[derive(Clone, Debug)]
enum Change {
    Nothing,
    Mtu(u32),
    NewPort,
    Route(u8),
    Adjacency(u8),
    Gateway(bool),
    Endpoint(bool),
    Time(u16),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => Just(Change::Nothing),
        1 => prop_oneof![Just(1280u32), Just(600), Just(9000)].prop_map(Change::Mtu),
        1 => Just(Change::NewPort),
        1 => (0u8..4).prop_map(Change::Route),
        1 => (0u8..4).prop_map(Change::Adjacency),
        1 => any::<bool>().prop_map(Change::Gateway),
        1 => any::<bool>().prop_map(Change::Endpoint),
        1 => any::<u16>().prop_map(Change::Time),
    ]
}

/// Tells the node, and the workers of `told`.
fn make(bench: &mut Bench, base: &[api::Object], change: &Change, told: &[usize]) {
    let with = |edit: &dyn Fn(&mut api::object::Kind)| changed(base.to_vec(), |kind| edit(kind));
    match change {
        Change::Nothing => {}
        Change::Mtu(mtu) => {
            let objects = with(&|kind| {
                if let api::object::Kind::Port(port) = kind
                    && port.name.starts_with("default")
                {
                    port.mtu_bytes = *mtu;
                }
            });
            bench.apply_unpublished(objects, vec![]);
            bench.publish_to(told);
        }
        Change::NewPort => {
            let name = "default/pod11";
            // No route through it is left.
            bench.apply_unpublished(base.to_vec(), vec![]);
            bench.apply_unpublished(vec![], vec![api::object_key::Kind::Port(name.into())]);
            bench.apply(base.to_vec(), vec![]);
        }
        Change::Route(way) => {
            let via = match way {
                0 => api::next_hop::Via::Port("default/pod11".into()),
                1 => api::next_hop::Via::Port("host".into()),
                _ => via_tunnel(),
            };
            let prefix = Ipv4Addr::from([10, 244, 2, 0]);
            bench.apply_unpublished(vec![route(prefix, 24, via)], vec![]);
            bench.publish_to(told);
        }
        Change::Adjacency(state) => match state {
            0 => bench.tell(Adjacency::Pending),
            1 => bench.tell(Adjacency::Unreachable),
            _ => bench.resolve(MacAddress::new([2, 2, 2, 2, 2, *state])),
        },
        Change::Gateway(is_moved) => {
            let objects = with(&|kind| {
                if let api::object::Kind::Vrf(vrf) = kind
                    && *is_moved
                {
                    // An address that flows lead to.
                    vrf.gateway_addresses = vec![vec![10, 244, 2, 10]];
                }
            });
            bench.apply_unpublished(objects, vec![]);
            bench.publish_to(told);
        }
        Change::Endpoint(is_moved) => {
            let objects = with(&|kind| {
                if let api::object::Kind::Node(node) = kind
                    && *is_moved
                {
                    node.vtep_addresses = vec![vec![192, 0, 2, 9]];
                }
            });
            bench.apply_unpublished(objects, vec![]);
            bench.publish_to(told);
        }
        Change::Time(milliseconds) => {
            bench.now.nanoseconds += u64::from(*milliseconds) * 1_000_000;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_fast_path_follows_changes_as_the_rest_does(
        bursts in vec(
            (
                (change(), 0..3usize),
                (0..2usize, 0..PORTS.len()),
                vec((any::<Index>(), prop_oneof![8 => Just(Damage::None), 1 => damage()]), 1..64),
            ),
            1..24,
        ),
        has_partial_checksums: bool,
    ) {
        let mut seeds = plain_seeds();
        seeds.push(Udp { payload: vec![7; 5000], ..Udp::from_pod(Node::A.pod(11)) }.frame());
        let base = with_checksums_left_to_ports(has_partial_checksums);
        let mut benches = [true, false].map(|is_fast| {
            let mut bench = Bench::with(base.clone(), 1 << 10);
            bench.set_fast_path(is_fast);
            bench
        });
        for ((change, told), (worker, port), frames) in bursts {
            let frames: Vec<_> = frames
                .iter()
                .map(|(seed, damage)| repaired(damaged(seed.get(&seeds).clone(), damage)))
                .collect();
            let told: &[usize] = [&[0, 1][..], &[0], &[1]][told];
            let [fast, full] = benches.each_mut().map(|bench| {
                make(bench, &base, &change, told);
                let mut outcome = bench.send_burst(worker, PORTS[port], &frames);
                outcome.drops.sort_by_key(|reason| *reason as usize);
                outcome
            });
            prop_assert_eq!(fast.sent, full.sent);
            prop_assert_eq!(fast.drops, full.drops);
        }
        let [fast, full] = benches.each_mut().map(|bench| {
            let counters = TableCounters { misses: 0, ..bench.counters() };
            let mut seen = Vec::new();
            bench.flows.table().for_each_connection(bench.now.ticks(), |view| {
                seen.push(format!("{view:?}"));
            });
            seen.sort();
            (bench.tunnel("peer/ipv4"), counters, seen, bench.frames_free())
        });
        prop_assert_eq!(fast, full);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn damaged_frames_are_accounted_for(
        bursts in vec((0..PORTS.len(), vec((any::<Index>(), damage()), 1..64)), 1..12),
    ) {
        let seeds = seeds();
        let mut bench = Bench::new();
        for (port, frames) in bursts {
            let frames: Vec<_> = frames
                .iter()
                .map(|(seed, damage)| damaged(seed.get(&seeds).clone(), damage))
                .collect();
            // The bench checks the balance after each burst.
            bench.send_burst(0, PORTS[port], &frames);
        }
    }

    #[test]
    fn noise_is_accounted_for(
        frames in vec(vec(any::<u8>(), 0..200), 1..64),
        port in 0..PORTS.len(),
        ether_type in prop_oneof![Just(0x0800_u16), Just(0x0806), Just(0x86dd)],
    ) {
        let mut bench = Bench::new();
        let frames: Vec<_> = frames
            .into_iter()
            .map(|mut frame| {
                if frame.len() > 15 {
                    frame[..6].copy_from_slice(&Node::A.gateway_mac().octets());
                    frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
                    frame[14] = if ether_type == 0x0800 { 0x45 } else { 0x60 };
                }
                frame
            })
            .collect();
        bench.send_burst(0, PORTS[port], &frames);
    }
}

#[test]
fn every_truncation_of_every_kind_of_frame_is_accounted_for() {
    let mut bench = Bench::new();
    for frame in seeds() {
        for port in PORTS {
            let cuts: Vec<_> = (0..=frame.len().min(200)).map(|at| frame[..at].to_vec()).collect();
            for burst in cuts.chunks(64) {
                bench.send_burst(0, port, burst);
            }
        }
    }
}

#[test]
fn no_frame_of_packet_memory_is_lost() {
    let mut bench = Bench::new();
    let before = bench.frames_free();
    for frame in seeds() {
        for port in PORTS {
            bench.send(port, &frame);
        }
    }
    assert_eq!(bench.frames_free(), before);
}
