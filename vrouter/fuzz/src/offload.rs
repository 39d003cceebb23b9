//! Frames behind virtio-net headers, as a TAP device or a guest hands them in.
//!
//! The input is frames, one behind the other:
//!
//! ```text
//! flags   bit 0    from pod 10, or from the node
//!         bit 1    mend the MAC addresses, and the checksum of an IPv4 header
//! header  10 bytes, little-endian (VirtIO 1.2 section 5.1.6)
//! length  16 bits, then the frame
//! ```
//!
//! Nothing panics; the packet balance holds; no packet memory is lost; and what leaves in a tunnel
//! is finished, and no larger than the uplink carries.

use vrouter::{
    packet::{Checksum, Offload},
    virtio_net::{VirtioNetHeader, VirtioNetView},
};

use crate::{
    bench::Bench,
    rig::{Node, fix_ipv4_checksum, objects},
};

/// Frames looked at of one input.
const FRAMES_MAX: usize = 64;
/// Connections of each family.
const CONNECTIONS_MAX: u32 = 16;
/// Flags, header and length.
const HEAD_BYTES: usize = 1 + VirtioNetHeader::LEN_LEGACY + 2;
/// The longest frame that the uplink sends: its MTU, and Ethernet.
const UPLINK_FRAME_BYTES_MAX: usize = 1514;

const FROM_NODE: u8 = 1;
const MEND: u8 = 2;

pub(crate) fn run(mut data: &[u8]) {
    let mut bench = Bench::with(objects(Node::A), CONNECTIONS_MAX);
    let frames_free = bench.frames_free();
    for _ in 0..FRAMES_MAX {
        let Some((head, rest)) = data.split_first_chunk::<HEAD_BYTES>() else { break };
        let [flags, header @ .., high, low] = head;
        let header = VirtioNetView::parse(header).expect("all of it is there").header();
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        data = rest;
        let is_from_node = flags & FROM_NODE != 0;
        let mut frame = frame.to_vec();
        if flags & MEND != 0 {
            mend(&mut frame, is_from_node);
        }
        let port = if is_from_node { "host" } else { "default/pod10" };
        // The bench checks the packet balance.
        let outcome = bench.send_headed(port, &[(frame, header)]);
        for ((port, frame), offload) in outcome.sent.iter().zip(&outcome.offloads) {
            if port == "uplink" {
                assert_eq!(*offload, Offload::NONE);
                assert!(frame.len() <= UPLINK_FRAME_BYTES_MAX, "{} bytes", frame.len());
            }
            assert!(offload.gso.is_none() || offload.checksum == Checksum::Partial);
        }
    }
    assert_eq!(bench.frames_free(), frames_free, "packet memory was lost");
}

fn mend(frame: &mut [u8], is_from_node: bool) {
    let Some(macs) = frame.first_chunk_mut::<12>() else { return };
    let from = if is_from_node { Node::A.mac() } else { Node::A.pod_mac(10) };
    macs[..6].copy_from_slice(&Node::A.gateway_mac().octets());
    macs[6..].copy_from_slice(&from.octets());
    if frame.len() >= 34 && frame[12..15] == [8, 0, 0x45] {
        fix_ipv4_checksum(frame);
    }
}
