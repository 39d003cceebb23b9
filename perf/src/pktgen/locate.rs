//! Where in a frame a generator's payload is.
//!
//! Headers may differ from those that were sent: rewritten addresses, a VLAN tag, a tunnel header
//! that came on. Not looked into: fragments, IPv6 extension headers, tunnels in tunnels.

use std::ops::Range;

use encap::vxlan::VxlanView;

const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_IPV6: u16 = 0x86dd;
const ETHER_TYPE_VLAN: u16 = 0x8100;
const UDP: u8 = 17;
const UDP_HEADER_BYTES: usize = 8;
/// UDP ports of VXLAN: IANA's (RFC 7348 section 8.1) and Linux's.
const VXLAN_PORTS: [u16; 2] = [4789, 8472];

/// The bytes of the UDP payload, or of the UDP payload inside of a VXLAN packet.
#[must_use]
pub fn payload(frame: &[u8]) -> Option<&[u8]> {
    let (port, outer) = udp_payload(frame)?;
    if VXLAN_PORTS.contains(&port)
        && let Ok((_, inner)) = VxlanView::parse(outer)
        && let Some((_, payload)) = udp_payload(inner)
    {
        return Some(payload);
    }
    Some(outer)
}

/// The destination port and the payload of a frame that holds UDP.
fn udp_payload(frame: &[u8]) -> Option<(u16, &[u8])> {
    let mut at = 12;
    let mut ether_type = u16_at(frame, at)?;
    at += 2;
    if ether_type == ETHER_TYPE_VLAN {
        ether_type = u16_at(frame, at + 2)?;
        at += 4;
    }
    at = match ether_type {
        ETHER_TYPE_IPV4 => behind_ipv4(frame, at)?,
        ETHER_TYPE_IPV6 if frame.get(at + 6) == Some(&UDP) => at + 40,
        _ => return None,
    };
    // What Ethernet padded is behind the end of UDP.
    let bytes = usize::from(u16_at(frame, at + 4)?);
    let payload: Range<usize> = at + UDP_HEADER_BYTES..at.checked_add(bytes)?;
    Some((u16_at(frame, at + 2)?, frame.get(payload)?))
}

fn behind_ipv4(frame: &[u8], at: usize) -> Option<usize> {
    let header_bytes = usize::from(frame.get(at)? & 0xf) * 4;
    // Neither a later fragment nor one that has a later one (RFC 791 section 3.1).
    let is_whole = u16_at(frame, at + 6)?.trailing_zeros() >= 14;
    (is_whole && *frame.get(at + 9)? == UDP).then_some(at + header_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    const PAYLOAD: &[u8] = b"what the generator put in";

    fn frame(is_ipv6: bool, vlan: Option<u16>, port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        match (vlan, is_ipv6) {
            (None, false) => ethernet
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .udp(1, port)
                .write(&mut frame, payload),
            (None, true) => {
                ethernet.ipv6([1; 16], [2; 16], 64).udp(1, port).write(&mut frame, payload)
            }
            (Some(id), false) => ethernet
                .single_vlan(id.try_into().unwrap())
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .udp(1, port)
                .write(&mut frame, payload),
            (Some(id), true) => ethernet
                .single_vlan(id.try_into().unwrap())
                .ipv6([1; 16], [2; 16], 64)
                .udp(1, port)
                .write(&mut frame, payload),
        }
        .unwrap();
        frame
    }

    #[test]
    fn a_payload_is_found_behind_either_family_a_vlan_tag_and_padding() {
        for is_ipv6 in [false, true] {
            for vlan in [None, Some(7)] {
                let mut frame = frame(is_ipv6, vlan, 9, PAYLOAD);
                frame.extend_from_slice(&[0; 12]);
                assert_eq!(payload(&frame), Some(PAYLOAD));
            }
        }
    }

    #[test]
    fn a_payload_is_found_inside_a_vxlan_packet() {
        for (is_ipv6, port) in [(false, 4789), (true, 8472)] {
            let mut vxlan = encap::vxlan::header_bytes(encap::vxlan::Vni::new(5).unwrap()).to_vec();
            vxlan.extend(frame(!is_ipv6, None, 9, PAYLOAD));
            assert_eq!(payload(&frame(is_ipv6, None, port, &vxlan)), Some(PAYLOAD));
        }
    }

    #[test]
    fn a_fragment_has_no_payload_of_ours() {
        for flags in [[0x20, 0], [0, 1]] {
            let mut frame = frame(false, None, 9, PAYLOAD);
            frame[20..22].copy_from_slice(&flags);
            assert_eq!(payload(&frame), None);
        }
    }

    proptest! {
        #[test]
        fn noise_and_cut_off_frames_do_not_panic(
            noise in prop::collection::vec(any::<u8>(), 0..100), is_ipv6: bool, cut in 0..90_usize,
        ) {
            let _ = payload(&noise);
            let frame = frame(is_ipv6, None, 4789, PAYLOAD);
            if let Some(short) = frame.get(..cut) && cut < frame.len() {
                prop_assert_eq!(payload(short), None);
            }
        }
    }
}
