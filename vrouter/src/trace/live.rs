//! Examples of dropped packets for the operator of a running engine.
//!
//! ```text
//! worker: drop ─► within the reason's rate? ─► ring ─► main thread: the last 256 of each worker
//! ```
//!
//! Counters tell how many packets died of what; examples tell which. A flood of one reason neither
//! costs more than a look at its rate nor hides the other reasons: each has a rate of its own. The
//! ring has one producer and one consumer, so neither waits; what finds it full is left out.

use std::{collections::VecDeque, net::IpAddr};

use arrayvec::ArrayVec;
use encap::{
    ethernet::EthernetView,
    ip::{IpProtocol, IpView},
};
use rtrb::{Consumer, Producer, RingBuffer};

use super::{Detail, DropRecord};
use crate::{
    clock::Now, drops::DropReason, memory::Region, packet::Packet, port::PortRef,
    rate_limit::TokenBucket,
};

/// Bytes that are kept of a packet: all headers up to the inner transport header over an IPv6
/// underlay.
pub const EXAMPLE_BYTES_MAX: usize = 128;

/// Examples of one reason a second and worker: enough to see what goes on, and less than 200 if all
/// reasons occur at once.
const EXAMPLES_PER_SECOND: u64 = 4;
/// Examples of one reason at once.
const EXAMPLES_AT_ONCE: u64 = 8;
/// Examples under way to the main thread: those of all reasons at once, and of the time until it
/// looks again.
const RING_EXAMPLES: usize = 512;
/// Examples that are kept of each worker: those of many reasons, for some time.
pub const EXAMPLES_KEPT: usize = 256;

/// A dropped packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DropExample {
    /// When.
    pub now: Now,
    /// The port that the packet came in on.
    pub ingress: PortRef,
    /// Why.
    pub reason: DropReason,
    /// What was known.
    pub detail: Detail,
    /// The length of what was left of it: without its outer headers if it was decapsulated.
    pub packet_bytes: u32,
    /// How it begins, from the Ethernet header on.
    pub head: ArrayVec<u8, EXAMPLE_BYTES_MAX>,
}

/// Where a dropped packet came from and was going to, as far as it can be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ExampleFlow {
    /// The protocol behind the IP header and its extension headers.
    pub protocol: IpProtocol,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source and destination port, of protocols that have them, unless the packet is a later
    /// fragment.
    pub ports: Option<(u16, u16)>,
}

impl DropExample {
    /// What the kept bytes say about the packet; `None` if they are no readable IP packet.
    #[must_use]
    pub fn flow(&self) -> Option<ExampleFlow> {
        let (_, packet) = EthernetView::parse(&self.head).ok()?;
        let (ip, payload) = IpView::parse_header(packet).ok()?;
        let upper = ip.upper_layer(payload).ok()?;
        let is_later = upper.fragment.is_some_and(|fragment| !fragment.is_first());
        let has_ports =
            matches!(upper.protocol, IpProtocol::TCP | IpProtocol::UDP | IpProtocol::SCTP);
        let ports = match upper.bytes.first_chunk() {
            Some([a, b, c, d]) if has_ports && !is_later => {
                Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])))
            }
            _ => None,
        };
        Some(ExampleFlow {
            protocol: upper.protocol,
            source: ip.source(),
            destination: ip.destination(),
            ports,
        })
    }
}

/// The worker's end.
#[derive(Debug)]
pub(super) struct LiveTrace {
    ring: Producer<DropExample>,
    /// By reason.
    rates: Box<[TokenBucket]>,
}

/// The main thread's end, and what it has seen.
#[derive(Debug)]
pub struct DropExamples {
    ring: Consumer<DropExample>,
    kept: VecDeque<DropExample>,
}

/// A trace and who looks at it.
pub(super) fn channel() -> (LiveTrace, DropExamples) {
    let (producer, consumer) = RingBuffer::new(RING_EXAMPLES);
    let rate = TokenBucket::new(EXAMPLES_PER_SECOND, EXAMPLES_AT_ONCE);
    let live = LiveTrace { ring: producer, rates: vec![rate; DropReason::COUNT].into() };
    (live, DropExamples { ring: consumer, kept: VecDeque::with_capacity(EXAMPLES_KEPT) })
}

impl LiveTrace {
    /// Notes a drop, if its reason's rate allows.
    pub(super) fn note(&mut self, record: &DropRecord, packet: &Packet, region: &Region) {
        let rate = self.rates.get_mut(record.reason as usize);
        if rate.is_some_and(|rate| rate.take(record.now)) {
            self.push(record, packet, region);
        }
    }

    #[cold]
    fn push(&mut self, record: &DropRecord, packet: &Packet, region: &Region) {
        let data = packet.data(region);
        let head = data.get(..data.len().min(EXAMPLE_BYTES_MAX)).unwrap_or(&[]);
        // What finds the ring full is left out.
        let _ = self.ring.push(DropExample {
            now: record.now,
            ingress: record.ingress,
            reason: record.reason,
            detail: record.detail,
            packet_bytes: packet.total_bytes(),
            head: head.iter().copied().collect(),
        });
    }
}

impl DropExamples {
    /// Takes over what the worker noted since the last call; the oldest examples make room.
    pub fn poll(&mut self) {
        while let Ok(example) = self.ring.pop() {
            if self.kept.len() == EXAMPLES_KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back(example);
        }
    }

    /// What is kept, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &DropExample> {
        self.kept.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::{Depot, FrameIndex, FramePool, RegionConfig};

    const PORT: PortRef = PortRef { index: 3, generation: 0 };

    struct Rig {
        pool: FramePool,
        live: LiveTrace,
        examples: DropExamples,
    }

    impl Rig {
        fn new() -> Self {
            let config = RegionConfig { frame_count: 64, huge_pages: false, ..Default::default() };
            let pool = FramePool::new(Depot::new(Arc::new(Region::create(&config).unwrap())));
            let (live, examples) = channel();
            Self { pool, live, examples }
        }

        fn drop(&mut self, seconds: u64, reason: DropReason, frame: &[u8]) {
            let packet = self.pool.copy_in(frame, PORT).unwrap();
            let now = Now { nanoseconds: seconds * 1_000_000_000 };
            let record = DropRecord {
                now,
                ingress: PORT,
                frame: FrameIndex(0),
                reason,
                detail: Detail::None,
            };
            self.live.note(&record, &packet, self.pool.region());
            self.pool.free_packet(packet);
        }

        fn reasons(&mut self) -> Vec<DropReason> {
            self.examples.poll();
            self.examples.iter().map(|example| example.reason).collect()
        }
    }

    #[test]
    fn a_flood_of_one_reason_is_limited_and_hides_no_other() {
        let mut rig = Rig::new();
        (0..10_000).for_each(|_| rig.drop(10, DropReason::RouteNone, &[0; 60]));
        rig.drop(10, DropReason::TtlExceeded, &[0; 60]);
        let reasons = rig.reasons();
        assert_eq!(reasons.len(), 9);
        assert_eq!(reasons.last(), Some(&DropReason::TtlExceeded));
        rig.drop(11, DropReason::RouteNone, &[0; 60]);
        assert_eq!(rig.reasons().len(), 10);
    }

    #[test]
    fn the_newest_examples_are_kept() {
        let mut rig = Rig::new();
        let seconds = EXAMPLES_KEPT as u64 + 100;
        for second in 1..=seconds {
            rig.drop(second, DropReason::RouteNone, &[0; 60]);
            rig.examples.poll();
        }
        assert_eq!(rig.examples.iter().count(), EXAMPLES_KEPT);
        let newest = rig.examples.iter().next_back().unwrap();
        assert_eq!(newest.now.nanoseconds, seconds * 1_000_000_000);
    }

    #[test]
    fn a_ring_that_nobody_looks_at_leaves_examples_out() {
        let mut rig = Rig::new();
        for second in 1..=2 * RING_EXAMPLES as u64 {
            rig.drop(second, DropReason::RouteNone, &[0; 60]);
        }
        assert_eq!(rig.reasons().len(), EXAMPLES_KEPT);
    }

    #[test]
    fn an_example_tells_its_flow_and_keeps_the_first_bytes_only() {
        let mut frame = [[0; 12].as_slice(), &[8, 0, 0x45, 0]].concat();
        frame.extend([1, 44, 0, 0, 0, 0, 64, 17, 0, 0, 10, 244, 1, 10, 10, 244, 1, 11]);
        frame.extend([0x13, 0x88, 0x17, 0x70, 1, 24, 0, 0]);
        frame.resize(14 + 300, 7);
        let mut rig = Rig::new();
        rig.drop(1, DropReason::RouteNone, &frame);
        rig.drop(1, DropReason::ParseTruncated, &frame[..20]);
        rig.examples.poll();
        let examples: Vec<_> = rig.examples.iter().collect();
        let expected = ExampleFlow {
            protocol: IpProtocol::UDP,
            source: [10, 244, 1, 10].into(),
            destination: [10, 244, 1, 11].into(),
            ports: Some((5000, 6000)),
        };
        assert_eq!(examples[0].flow(), Some(expected));
        assert_eq!(examples[0].packet_bytes, 314);
        assert_eq!(examples[0].head[..], frame[..EXAMPLE_BYTES_MAX]);
        assert_eq!((examples[1].flow(), examples[1].head.len()), (None, 20));
    }
}
