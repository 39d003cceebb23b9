//! Whatever comes in: no panic, and every packet is accounted for.

use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{
    bench::Bench,
    gateway::{arp_request, solicitation},
    rig::{Node, Udp, echo_request, input, objects, run, run_from, sent},
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
