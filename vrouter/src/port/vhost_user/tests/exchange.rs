//! Frames arrive whole, in order and exactly once, whatever the rings' shape.

use std::{collections::VecDeque, os::fd::OwnedFd, sync::Arc};

use proptest::{collection::vec, prelude::*};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::driver::{
    AREA_BYTES, Buffer, Driver, GUEST_ADDRESS, MEMORY_BYTES, Shape, TestMemory, pair,
};
use crate::{
    burst::Burst,
    drops::DropReason,
    memory::{Depot, FramePool, RegionConfig},
    port::{
        PortQueue, PortRef,
        vhost_user::{
            inflight::InflightRegion,
            log::{DirtyLog, RingLog},
            orders::{Answer, QueueControl},
            queue::VhostUserQueue,
            ring::{Ring, RingFeatures, RingFormat, RingPosition, RingSetup},
        },
    },
    stats::{EngineStats, WorkerStats},
};

pub(super) const PORT: PortRef = PortRef { index: 5, generation: 2 };
const FRAMES: u32 = 512;
/// Where the buffers of all rings start.
const BUFFERS: u64 = GUEST_ADDRESS + 4 * AREA_BYTES;

/// A queue, the drivers of both its rings, and a worker's belongings.
pub(super) struct Rig {
    pub(super) memory: TestMemory,
    pub(super) rx: Driver,
    pub(super) tx: Driver,
    pub(super) queue: VhostUserQueue,
    pub(super) control: QueueControl,
    pub(super) depot: Arc<Depot>,
    pub(super) pool: FramePool,
    pub(super) stats: Arc<WorkerStats>,
    next_buffer: u64,
}

impl Rig {
    pub(super) fn new(shape: Shape) -> Self {
        let memory = TestMemory::new();
        let rx = Driver::new(shape, GUEST_ADDRESS, false);
        let tx = Driver::new(shape, GUEST_ADDRESS + AREA_BYTES, true);
        let (queue, control) = VhostUserQueue::new(PORT).unwrap();
        let config = RegionConfig { frame_count: FRAMES, huge_pages: false, ..Default::default() };
        let depot = Depot::new(Arc::new(crate::memory::Region::create(&config).unwrap()));
        let pool = FramePool::new(Arc::clone(&depot));
        let stats = Arc::new(WorkerStats::new());
        control.start(pair(&memory, &rx, &tx)).unwrap();
        let mut rig =
            Self { memory, rx, tx, queue, control, depot, pool, stats, next_buffer: BUFFERS };
        rig.flush();
        rig
    }

    pub(super) fn flush(&mut self) {
        self.queue.flush(&mut self.pool, &self.stats).unwrap();
    }

    /// A place for `bytes` bytes, of memory that is used in turn.
    pub(super) fn buffer(&mut self, bytes: u32) -> Buffer {
        if self.next_buffer + u64::from(bytes) > GUEST_ADDRESS + MEMORY_BYTES {
            self.next_buffer = BUFFERS;
        }
        let address = self.next_buffer;
        self.next_buffer += u64::from(bytes);
        (address, bytes)
    }

    /// Offers `bytes` for the device to read, cut at `cuts`.
    pub(super) fn offer_frame(&mut self, bytes: &[u8], cuts: &[usize], is_indirect: bool) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % bytes.len()).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let buffers: Vec<Buffer> = cuts
            .windows(2)
            .map(|ends| {
                let part = &bytes[ends[0]..ends[1]];
                let buffer = self.buffer(u32::try_from(part.len()).unwrap());
                self.memory.write(buffer.0, part);
                buffer
            })
            .collect();
        let table = is_indirect.then(|| self.buffer(16 * 64).0);
        self.rx.offer(&self.memory, &buffers, table);
    }

    pub(super) fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut burst = Burst::new();
        self.queue.rx_burst(&mut self.pool, &mut burst);
        let mut frames = Vec::new();
        for packet in burst.drain(..) {
            assert_eq!(packet.ingress, PORT);
            let mut bytes = Vec::new();
            packet.for_each_segment(self.pool.region(), |part| bytes.extend_from_slice(part));
            assert_eq!(bytes.len(), packet.total_bytes() as usize);
            frames.push(bytes);
            self.pool.free_packet(packet);
        }
        frames
    }

    /// Sends frames; returns those that the queue took.
    pub(super) fn send(&mut self, frames: &[Vec<u8>]) -> usize {
        let mut burst = Burst::new();
        for frame in frames {
            burst.push(self.pool.copy_in(frame, PORT).unwrap());
        }
        let taken = self.queue.tx_burst(&mut self.pool, &mut burst, &self.stats);
        assert_eq!(taken + burst.len(), frames.len());
        burst.drain(..).for_each(|packet| self.pool.free_packet(packet));
        taken
    }

    /// What the device wrote to the guest's buffers, frame by frame.
    pub(super) fn written(&mut self) -> Vec<Vec<u8>> {
        let header_bytes = self.tx.shape.features.header_bytes();
        let mut frames = Vec::new();
        let mut left = 0;
        while let Some((_, bytes, offered)) = self.tx.take_used(&self.memory) {
            let mut chain = Vec::new();
            for (address, length) in offered.buffers {
                chain.extend(self.memory.read(address, length as usize));
            }
            assert!(bytes as usize <= chain.len());
            chain.truncate(bytes as usize);
            if left == 0 {
                let header: Vec<u8> = chain.drain(..header_bytes).collect();
                left = if header_bytes == 12 {
                    u16::from_le_bytes([header[10], header[11]])
                } else {
                    1
                };
                frames.push(Vec::new());
            }
            frames.last_mut().unwrap().extend(chain);
            left -= 1;
        }
        assert_eq!(left, 0, "a frame has as many buffers as its header says");
        frames
    }

    pub(super) fn totals(&self) -> crate::stats::PortTotals {
        EngineStats::new([Arc::clone(&self.stats)]).port(PORT)
    }

    /// All but that of an example of what was dropped, which is looked at here.
    pub(super) fn frames_are_back(&mut self) -> bool {
        if let Some((packet, _)) = self.queue.take_refused() {
            self.pool.free_packet(packet);
        }
        self.pool.frames_cached() + self.depot.frames_free() == FRAMES as usize
    }
}

pub(super) fn frame(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|at| at.to_le_bytes()[0].wrapping_mul(31).wrapping_add(seed)).collect()
}

pub(super) fn shapes() -> impl Strategy<Value = Shape> {
    let features = (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(event_index, mergeable, version_1)| RingFeatures {
            event_index,
            indirect: true,
            mergeable,
            version_1,
        },
    );
    let sizes = prop_oneof![
        (2_u32..8).prop_map(|log| (RingFormat::Split, 1_u16 << log)),
        (4_u16..130).prop_map(|size| (RingFormat::Packed, size)),
    ];
    (sizes, features).prop_map(|((format, size), features)| Shape { format, size, features })
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1_usize..200, 2 => 200_usize..2100, 1 => 2100_usize..12_000, 1 => 60_000_usize..65_554]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_from_the_guest_arrive_whole_in_order_and_once(
        shape in shapes(),
        steps in vec((lengths(), vec(any::<usize>(), 0..4), any::<bool>(), 0_u8..4), 1..120),
    ) {
        let mut rig = Rig::new(shape);
        let mut expected = VecDeque::new();
        let mut arrived = 0;
        for (seed, (bytes, cuts, is_indirect, polls)) in (0_u8..).zip(steps) {
            if rig.rx.room() >= 5 || is_indirect && rig.rx.room() >= 1 || shape.size < 5 {
                let is_indirect = is_indirect || shape.size < 5;
                if rig.rx.room() > 0 {
                    let sent = frame(bytes, seed);
                    let whole = [vec![0; shape.features.header_bytes()], sent.clone()].concat();
                    rig.offer_frame(&whole, &cuts, is_indirect);
                    expected.push_back(sent);
                }
            }
            if polls == 0 {
                for received in rig.receive() {
                    prop_assert!(Some(received) == expected.pop_front());
                    arrived += 1;
                }
                rig.flush();
                while rig.rx.take_used(&rig.memory).is_some() {}
            }
        }
        while !expected.is_empty() {
            let received = rig.receive();
            prop_assert!(!received.is_empty());
            for received in received {
                prop_assert!(Some(received) == expected.pop_front());
                arrived += 1;
            }
        }
        while rig.rx.take_used(&rig.memory).is_some() {}
        prop_assert!(rig.rx.offered.is_empty());
        prop_assert!(rig.frames_are_back());
        rig.flush();
        prop_assert_eq!(rig.totals().rx_packets, 0, "what arrived, the worker counts");
        prop_assert!(arrived > 0 || rig.rx.offered.is_empty());
    }

    #[test]
    fn frames_to_the_guest_arrive_whole_in_order_and_once(
        shape in shapes(),
        steps in vec((vec(lengths(), 0..6), vec(vec(30_u32..5000, 1..4), 0..30), any::<bool>()), 1..30),
    ) {
        let mut rig = Rig::new(shape);
        let (mut seed, mut sent, mut arrived, mut refused) = (0_u8, Vec::new(), Vec::new(), 0);
        for (lengths, chains, is_indirect) in steps {
            for chain in chains {
                if usize::from(rig.tx.room()) >= chain.len() {
                    let buffers: Vec<_> = chain.iter().map(|bytes| rig.buffer(*bytes)).collect();
                    let table = is_indirect.then(|| rig.buffer(16 * 64).0);
                    rig.tx.offer(&rig.memory, &buffers, table);
                }
            }
            let frames: Vec<_> = lengths
                .iter()
                .map(|bytes| {
                    seed = seed.wrapping_add(1);
                    frame(*bytes, seed)
                })
                .collect();
            let before = rig.totals().dropped_for(DropReason::VhostBufferTooSmall);
            let taken = rig.send(&frames);
            refused += rig.totals().dropped_for(DropReason::VhostBufferTooSmall) - before;
            sent.extend(frames.into_iter().take(taken));
            arrived.extend(rig.written());
            rig.flush();
        }
        // Those that no buffer could hold are missing; the others are there, in order.
        prop_assert_eq!(arrived.len() as u64 + refused, sent.len() as u64);
        prop_assert!(!shape.features.mergeable || refused == 0);
        let mut rest = sent.iter();
        for frame in &arrived {
            prop_assert!(rest.any(|sent| sent == frame), "a frame that was not sent, or out of order");
        }
        prop_assert!(rig.frames_are_back());
        let totals = rig.totals();
        prop_assert_eq!(totals.tx_packets, arrived.len() as u64);
        prop_assert_eq!(totals.forwarded, arrived.len() as u64);
        prop_assert_eq!(totals.tx_bytes, arrived.iter().map(|it| it.len() as u64).sum::<u64>());
    }

    #[test]
    fn a_ring_goes_on_where_it_stopped(
        shape in shapes(),
        frames in vec((1_usize..300, 0_u8..3), 1..200),
    ) {
        let mut rig = Rig::new(shape);
        let mut expected = VecDeque::new();
        for (seed, (bytes, step)) in (0_u8..=255).cycle().zip(frames) {
            if rig.rx.room() > 0 {
                let sent = frame(bytes, seed);
                let whole = [vec![0; shape.features.header_bytes()], sent.clone()].concat();
                rig.offer_frame(&whole, &[], false);
                expected.push_back(sent);
            }
            if step == 0 {
                for received in rig.receive() {
                    prop_assert!(Some(received) == expected.pop_front());
                }
                while rig.rx.take_used(&rig.memory).is_some() {}
                rig.control.stop().unwrap();
                rig.flush();
                let Some(Answer::Stopped(Some(stopped))) = rig.control.answer() else {
                    panic!("the rings come back")
                };
                // What a successor is told is where this one stands.
                let position = stopped.rx.position();
                let format = shape.format;
                let again = RingPosition::from_base(format, position.to_base());
                prop_assert_eq!(again, position);
                let mut next = pair(&rig.memory, &rig.rx, &rig.tx);
                let mut setup = rig.rx.setup(&rig.memory);
                setup.position = position;
                next.rx = Ring::new(setup).unwrap();
                rig.control.start(next).unwrap();
                rig.flush();
            }
        }
        while !expected.is_empty() {
            let received = rig.receive();
            prop_assert!(!received.is_empty());
            for received in received {
                prop_assert!(Some(received) == expected.pop_front());
            }
        }
    }
}

fn features(event_index: bool) -> RingFeatures {
    RingFeatures { event_index, indirect: true, mergeable: true, version_1: true }
}

/// Offers frames with these numbers, and receives as many as there are.
fn pass(rig: &mut Rig, numbers: std::ops::Range<u8>) {
    let expected: Vec<_> = numbers.map(|seed| frame(60, seed)).collect();
    for sent in &expected {
        rig.offer_frame(&[&[0; 12], &sent[..]].concat(), &[], false);
    }
    assert_eq!(rig.receive(), expected);
    while rig.rx.take_used(&rig.memory).is_some() {}
}

#[test]
fn a_packed_ring_goes_on_where_an_engine_died() {
    let inflight = TestMemory::new();
    let region = InflightRegion { mapped: inflight.region(), offset: 64 };
    let mut rig =
        Rig::new(Shape { format: RingFormat::Packed, size: 7, features: features(false) });
    for (round, has_published) in [(0, true), (1, true), (2, false), (3, true)] {
        let mut rings = pair(&rig.memory, &rig.rx, &rig.tx);
        // The frontend does not know where the engine before stood.
        let setup = RingSetup { inflight: Some(region.clone()), ..rig.rx.setup(&rig.memory) };
        rings.rx = Ring::new(setup).unwrap();
        rig.control.start(rings).unwrap();
        rig.flush();
        while rig.control.answer().is_some() {}
        pass(&mut rig, 5 * round..5 * round + 5);
        if !has_published {
            // It died after noting, and before the driver had its chains back: what it noted is
            // ahead of the ring.
            rig.offer_frame(&[&[0; 12], &frame(60, 99)[..]].concat(), &[], false);
            let next = 64 + 16;
            let noted = inflight.read_u16(GUEST_ADDRESS + next);
            inflight.write(GUEST_ADDRESS + next, &((noted + 1) % 7).to_le_bytes());
            let mut rings = pair(&rig.memory, &rig.rx, &rig.tx);
            let setup = RingSetup { inflight: Some(region.clone()), ..rig.rx.setup(&rig.memory) };
            rings.rx = Ring::new(setup).unwrap();
            rig.control.start(rings).unwrap();
            rig.flush();
            assert_eq!(rig.receive(), [frame(60, 99)]);
            while rig.rx.take_used(&rig.memory).is_some() {}
        }
    }
}

#[test]
fn what_is_written_is_marked_in_the_log() {
    for format in [RingFormat::Split, RingFormat::Packed] {
        let mut rig = Rig::new(Shape { format, size: 8, features: features(false) });
        let marks = TestMemory::new();
        let log = Arc::new(DirtyLog::new(&marks.region()).unwrap());
        rig.control.stop().unwrap();
        rig.flush();
        let Some(Answer::Stopped(Some(mut rings))) = rig.control.answer() else { panic!() };
        let (_, used) = rig.tx.areas();
        let ring_address = if format == RingFormat::Split { used } else { rig.tx.base };
        rings.tx.set_log(Some(RingLog { log, ring_address: Some(ring_address) }));
        rig.control.start(rings).unwrap();
        rig.flush();
        let buffer = (GUEST_ADDRESS + 0x40_0ff0, 2000);
        rig.tx.offer(&rig.memory, &[buffer], None);
        assert_eq!(rig.send(&[frame(1000, 1)]), 1);
        let is_marked = |address: u64| {
            let page = address / 4096;
            // The log is larger than guest memory is far up: it starts at page 0.
            marks.read(GUEST_ADDRESS + page / 8, 1)[0] & 1 << (page % 8) != 0
        };
        assert!(is_marked(ring_address));
        assert!(is_marked(buffer.0) && is_marked(buffer.0 + 4096));
        assert!(!is_marked(buffer.0 + 8192) && !is_marked(buffer.0 - 4096));
    }
}

#[test]
fn a_driver_is_called_when_it_wants_to_be() {
    for (format, has_events) in [
        (RingFormat::Split, false),
        (RingFormat::Split, true),
        (RingFormat::Packed, false),
        (RingFormat::Packed, true),
    ] {
        let mut rig = Rig::new(Shape { format, size: 8, features: features(has_events) });
        let call = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let is_called = |call: &OwnedFd| rustix::io::read(call, &mut [0; 8]).is_ok();
        rig.control.stop().unwrap();
        rig.flush();
        let Some(Answer::Stopped(Some(mut rings))) = rig.control.answer() else { panic!() };
        rings.rx.set_call(Some(call.try_clone().unwrap()));
        rig.control.start(rings).unwrap();
        rig.flush();
        let (driver_area, _) = rig.rx.areas();
        // The driver asks for no calls, then for some; with event indices for one at the fourth.
        let (off, on) = match (format, has_events) {
            (RingFormat::Split, false) => ((0, 1_u16), (0, 0_u16)),
            (RingFormat::Split, true) => ((4 + 16, 0x8000), (4 + 16, 3)),
            (RingFormat::Packed, false) => ((2, 1), (2, 0)),
            (RingFormat::Packed, true) => ((2, 1), (2, 2)),
        };
        rig.memory.write(driver_area + off.0, &off.1.to_le_bytes());
        pass(&mut rig, 0..3);
        rig.flush();
        assert!(!is_called(&call), "{format:?} {has_events}");
        if format == RingFormat::Packed {
            rig.memory.write(driver_area, &(3_u16 | 1 << 15).to_le_bytes());
        }
        rig.memory.write(driver_area + on.0, &on.1.to_le_bytes());
        pass(&mut rig, 3..4);
        rig.flush();
        assert!(is_called(&call), "{format:?} {has_events}");
        pass(&mut rig, 4..12);
        rig.flush();
        assert_eq!(is_called(&call), !has_events || format == RingFormat::Packed);
        rig.flush();
        assert!(!is_called(&call));
    }
}

#[test]
fn a_worker_is_woken_by_a_kick_and_by_an_order() {
    for (format, has_events) in
        [(RingFormat::Split, false), (RingFormat::Split, true), (RingFormat::Packed, false)]
    {
        let mut rig = Rig::new(Shape { format, size: 8, features: features(has_events) });
        let kick = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let is_woken = |rig: &Rig| {
            let wait = rig.queue.wait_descriptor().unwrap();
            let mut waits = [PollFd::from_borrowed_fd(wait, PollFlags::IN)];
            poll(&mut waits, Some(&Timespec::default())).unwrap() > 0
        };
        rig.control.stop().unwrap();
        assert!(is_woken(&rig), "by the order");
        rig.queue.disarm();
        rig.flush();
        let Some(Answer::Stopped(Some(mut rings))) = rig.control.answer() else { panic!() };
        rings.rx.set_kick(Some(kick.try_clone().unwrap()));
        rig.control.start(rings).unwrap();
        rig.queue.disarm();
        rig.flush();
        assert!(!rig.queue.arm() && !is_woken(&rig));
        rig.offer_frame(&[0; 72], &[], false);
        rustix::io::write(&kick, &1_u64.to_ne_bytes()).unwrap();
        assert!(is_woken(&rig));
        assert!(rig.queue.arm(), "there is something already");
        rig.queue.disarm();
        assert_eq!(rig.receive().len(), 1);
        rig.flush();
        assert!(!is_woken(&rig) && !rig.queue.arm());
        // While it slept without a kick, it finds out by itself.
        rig.offer_frame(&[0; 72], &[], false);
        assert!(rig.queue.arm());
    }
}
