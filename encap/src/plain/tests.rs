use std::vec::Vec;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::checksum::Sum;
use crate::ipv4::Ipv4Mut;
use crate::ipv6::Ipv6Mut;

/// A frame that is plain, or nearly.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let protocol = prop_oneof![4 => Just(6_u8), 4 => Just(17_u8), 1 => any::<u8>()];
    let parts = (any::<bool>(), protocol, vec(any::<u8>(), 0..80), vec(any::<u8>(), 54));
    let whim = (vec((0..90_usize, any::<u8>()), 0..3), -3..4_isize, any::<bool>());
    (parts, whim).prop_map(|((is_ipv4, protocol, payload, noise), (flips, off, repairs))| {
        let mut frame = noise;
        frame.truncate(if is_ipv4 { 34 } else { 54 });
        let transport_at = frame.len();
        frame.extend_from_slice(&payload);
        let length =
            |of: usize| u16::try_from(of.saturating_add_signed(off)).unwrap_or(0).to_be_bytes();
        if is_ipv4 {
            frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
            let total = length(frame.len() - 14);
            frame[16..18].copy_from_slice(&total);
            frame[20..22].copy_from_slice(&[0x40, 0]);
            frame[23] = protocol;
        } else {
            frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
            let bytes = length(payload.len());
            frame[18..20].copy_from_slice(&bytes);
            frame[20] = protocol;
        }
        if let Some(place) = frame.get_mut(transport_at + 4..transport_at + 6)
            && protocol == 17
        {
            place.copy_from_slice(&length(payload.len()));
        }
        if let Some(place) = frame.get_mut(transport_at + 12..transport_at + 14)
            && protocol == 6
        {
            place.copy_from_slice(&[0x50 + (payload[0] & 0x10), payload[1] & 0x1d]);
        }
        for (at, bits) in flips {
            if let Some(byte) = frame.get_mut(at) {
                *byte ^= bits;
            }
        }
        if repairs && is_ipv4 {
            frame[24..26].fill(0);
            let checksum = Sum::of(&frame[14..34]).checksum();
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        frame
    })
}

/// Addresses, ports, protocol, length and traffic class.
type Fields = (Vec<u8>, [u8; 4], IpProtocol, u32, TrafficClass);

/// What the views find of a packet that is
/// plain by the definition of the module.
fn by_views(frame: &[u8]) -> Option<Fields> {
    let (ethernet, packet) = EthernetView::parse(frame).ok()?;
    let (addresses, protocol, bytes, class, payload, length) = match ethernet.ether_type().0 {
        0x0800 => {
            let (ip, payload) = Ipv4View::parse(packet).ok()?;
            ip.verify_checksum().ok()?;
            if ip.fragment().is_some() || !ip.options().is_empty() {
                return None;
            }
            let addresses = [ip.source().octets(), ip.destination().octets()].concat();
            let bytes = u32::from(ip.total_length());
            (addresses, ip.protocol(), bytes, ip.traffic_class(), payload, ip.payload_len())
        }
        0x86dd => {
            let (ip, payload) = Ipv6View::parse(packet).ok()?;
            let addresses = [ip.source().octets(), ip.destination().octets()].concat();
            let bytes = u32::try_from(ip.payload_len() + 40).ok()?;
            (addresses, ip.next_header(), bytes, ip.traffic_class(), payload, ip.payload_len())
        }
        _ => return None,
    };
    match protocol {
        IpProtocol::UDP => drop(UdpView::parse_chained(payload, length).ok()?),
        IpProtocol::TCP => {
            let (tcp, _) = TcpView::parse(payload).ok()?;
            if tcp.flags().contains(TcpFlags::SYN) {
                return None;
            }
        }
        _ => return None,
    }
    Some((addresses, *payload.first_chunk()?, protocol, bytes, class))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_frame_is_plain_if_and_only_if_the_views_find_nothing_against_it(frame in frame()) {
        let plain = match (
            PlainIpv4::read(&frame, frame.len()), PlainIpv6::read(&frame, frame.len())
        ) {
            (Some(ip), None) => {
                let bytes = u32::from(ip.total_length());
                prop_assert_eq!([ip.source(), ip.destination()].concat(), ip.addresses());
                Some((ip.addresses().to_vec(), *ip.ports(), ip.protocol(), bytes, ip.traffic_class()))
            }
            (None, Some(ip)) => {
                prop_assert_eq!([ip.source(), ip.destination()].concat(), ip.addresses());
                let (bytes, class) = (ip.packet_length(), ip.traffic_class());
                Some((ip.addresses().to_vec(), *ip.ports(), ip.protocol(), bytes, class))
            }
            (None, None) => None,
            (Some(_), Some(_)) => unreachable!("one family"),
        };
        prop_assert_eq!(plain, by_views(&frame));
    }

    #[test]
    fn one_hop_less_is_what_the_views_make_of_it(frame in frame()) {
        if let Some(ip) = PlainIpv4::read(&frame, frame.len()).filter(|ip| ip.ttl() > 1) {
            let (mut fast, mut full) = (frame.clone(), frame.clone());
            prop_assert_eq!(ip.is_dont_fragment(), frame[20] & 0x40 != 0);
            decrement_ttl(fast.first_chunk_mut().unwrap());
            Ipv4Mut::parse(&mut full[14..]).unwrap().decrement_ttl().unwrap();
            prop_assert_eq!(&fast, &full);
            prop_assert!(PlainIpv4::read(&fast, fast.len()).is_some(), "the checksum is right");
        }
        if PlainIpv6::read(&frame, frame.len()).is_some_and(|ip| ip.hop_limit() > 1) {
            let (mut fast, mut full) = (frame.clone(), frame.clone());
            decrement_hop_limit(fast.first_chunk_mut().unwrap());
            Ipv6Mut::parse(&mut full[14..]).unwrap().decrement_hop_limit().unwrap();
            prop_assert_eq!(&fast, &full);
        }
    }
}

#[test]
fn most_frames_of_the_tests_are_plain() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let is_plain = |frame: &[u8]| {
        PlainIpv4::read(frame, frame.len()).is_some()
            || PlainIpv6::read(frame, frame.len()).is_some()
    };
    let count =
        (0..1000).filter(|_| is_plain(&frame().new_tree(&mut runner).unwrap().current())).count();
    assert!((100..900).contains(&count), "{count} of 1000");
}
