//! Bytes of a packet that may lie in several segments: sums and copies.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use encap::{checksum::Sum, sctp::Crc32c};

use crate::{memory::Region, packet::Packet};

/// The sum over `bytes` bytes of the packet from `start` on, as if they started at an even offset.
#[must_use]
pub(crate) fn sum(packet: &Packet, region: &Region, start: usize, bytes: usize) -> Sum {
    let mut sum = Sum::ZERO;
    visit(packet, region, start, bytes, |at, part| sum = sum.add_at(Sum::of(part), at));
    sum
}

/// The CRC-32C over the same bytes.
#[must_use]
pub(crate) fn crc32c(packet: &Packet, region: &Region, start: usize, bytes: usize) -> Crc32c {
    let mut crc = Crc32c::EMPTY;
    visit(packet, region, start, bytes, |_, part| crc = crc.with(part));
    crc
}

/// Copies bytes of the packet from `start` on into `out`, as many as both have; returns how many.
pub(crate) fn copy(packet: &Packet, region: &Region, start: usize, out: &mut [u8]) -> usize {
    let mut copied = 0;
    visit(packet, region, start, out.len(), |at, part| {
        if let Some(place) = out.get_mut(at..).and_then(|out| out.get_mut(..part.len())) {
            place.copy_from_slice(part);
            copied = at.saturating_add(part.len());
        }
    });
    copied
}

/// Calls `see` with each part of the range and where the part starts in it.
fn visit(
    packet: &Packet,
    region: &Region,
    start: usize,
    bytes: usize,
    mut see: impl FnMut(usize, &[u8]),
) {
    // Bytes still to skip, and where we are in the range.
    let (mut skip, mut at) = (start, 0);
    packet.for_each_segment(region, |segment| {
        let part = segment.get(skip.min(segment.len())..).unwrap_or(&[]);
        skip = skip.saturating_sub(segment.len());
        let part = part.get(..part.len().min(bytes.saturating_sub(at))).unwrap_or(&[]);
        if !part.is_empty() {
            see(at, part);
            at = at.saturating_add(part.len());
        }
    });
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Arc;

    use encap::checksum::Sum;
    use proptest::{collection::vec, prelude::*};

    use super::{copy, crc32c, sum};
    use crate::{
        memory::{Depot, FramePool, Region, RegionConfig, Segment},
        packet::Packet,
        port::PortRef,
    };

    fn chained(pool: &mut FramePool, segments: &[Vec<u8>]) -> Packet {
        let mut frames = segments.iter().map(|bytes| {
            let mut frame = pool.allocate().unwrap();
            pool.region().bytes_mut(&mut frame)[7..7 + bytes.len()].copy_from_slice(bytes);
            Segment { frame, offset: 7, len: u16::try_from(bytes.len()).unwrap() }
        });
        let Segment { frame, offset, len } = frames.next().unwrap();
        let rest: Vec<_> = frames.collect();
        let mut packet = Packet::new(frame, offset, len, PortRef::ENGINE);
        for segment in rest {
            packet.append(pool.region(), segment);
        }
        packet
    }

    proptest! {
        #[test]
        fn sums_and_copies_do_not_depend_on_the_segments(
            segments in vec(vec(any::<u8>(), 0..40), 1..5),
            start in 0_usize..60,
            bytes in 0_usize..100,
        ) {
            let config = RegionConfig { frame_count: 64, huge_pages: false, ..Default::default() };
            let region = Arc::new(Region::create(&config).unwrap());
            let mut pool = FramePool::new(Depot::new(region));
            let packet = chained(&mut pool, &segments);
            let whole = segments.concat();
            let from = start.min(whole.len());
            let expected = &whole[from..(from + bytes).min(whole.len())];
            prop_assert_eq!(
                sum(&packet, pool.region(), start, bytes).checksum(),
                Sum::of(expected).checksum()
            );
            prop_assert_eq!(
                crc32c(&packet, pool.region(), start, bytes).checksum(),
                encap::sctp::checksum(expected)
            );
            let mut out = vec![0; bytes];
            let copied = copy(&packet, pool.region(), start, &mut out);
            prop_assert_eq!(&out[..copied], expected);
            pool.free_packet(packet);
        }
    }
}
