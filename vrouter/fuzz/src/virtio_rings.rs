//! Virtio rings of a guest that writes what it likes.
//!
//! The input picks the rings' shape and says what happens: a well-behaved driver offers buffers,
//! something else writes anywhere into the shared memory, and a worker receives, sends and flushes.
//! Whatever happens, no packet is longer than it may be, every frame of packet memory comes back,
//! and the session gets its rings back.

use std::sync::Arc;

use vrouter::{
    burst::Burst,
    memory::{Depot, FramePool, Region, RegionConfig},
    packet::Offloads,
    port::{
        PortQueue, PortRef,
        vhost_user::{
            driver::{BASE_ADDRESS, DriverMemory, DriverRing, RingShape, RingUse},
            orders::{QueueControl, QueuePair},
            queue::VhostUserQueue,
            ring::{Ring, RingFeatures, RingFormat},
        },
    },
    stats::WorkerStats,
};

const PORT: PortRef = PortRef { index: 1, generation: 0 };
const MEMORY_BYTES: u64 = 1 << 17;
/// Where the second ring starts.
const SECOND: u64 = 1 << 16;
const FRAMES: u32 = 128;
const FRAME_BYTES_MAX: u32 = 65_553;
const STEPS_MAX: usize = 256;

pub(crate) fn run(mut input: &[u8]) {
    let [kind, size, rest @ ..] = input else { return };
    input = rest;
    let format = if kind & 1 == 0 { RingFormat::Split } else { RingFormat::Packed };
    let size = match format {
        RingFormat::Split => 1 << (size % 7),
        RingFormat::Packed => u16::from(size % 64) + 1,
    };
    let features = RingFeatures {
        event_index: kind & 2 != 0,
        indirect: kind & 4 != 0,
        mergeable: kind & 8 != 0,
        version_1: kind & 16 != 0,
    };
    let shape = |usage| RingShape { format, size, usage, buffer_bytes: 256, features };
    let memory = DriverMemory::create(MEMORY_BYTES, false).expect("there is memory");
    let transmit = DriverRing::new(&memory, 0, shape(RingUse::Transmit)).expect("it fits");
    let receive = DriverRing::new(&memory, SECOND, shape(RingUse::Receive)).expect("it fits");
    let mut bench = Bench::new(memory, transmit, receive);
    for _ in 0..STEPS_MAX {
        if bench.step(&mut input).is_none() {
            break;
        }
    }
    bench.end();
}

struct Bench {
    memory: DriverMemory,
    transmit: DriverRing,
    receive: DriverRing,
    queue: VhostUserQueue,
    control: QueueControl,
    depot: Arc<Depot>,
    pool: FramePool,
    stats: WorkerStats,
}

impl Bench {
    fn new(memory: DriverMemory, mut transmit: DriverRing, receive: DriverRing) -> Self {
        for slot in 0..transmit.shape().size {
            assert!(transmit.write(slot, &[slot.to_le_bytes()[0]; 60]));
        }
        let config = RegionConfig { frame_count: FRAMES, huge_pages: false, ..Default::default() };
        let depot = Depot::new(Arc::new(Region::create(&config).expect("there is memory")));
        let pool = FramePool::new(Arc::clone(&depot));
        let (queue, control) = VhostUserQueue::new(PORT).expect("there are descriptors");
        let stats = WorkerStats::new();
        let mut bench = Self { memory, transmit, receive, queue, control, depot, pool, stats };
        bench.start();
        bench
    }

    fn start(&mut self) {
        let rx = Ring::new(self.transmit.setup());
        let tx = Ring::new(self.receive.setup());
        // The shape is right; only what the areas hold may be wrong.
        let (rx, tx) = (rx.expect("a ring"), tx.expect("a ring"));
        let pair = QueuePair { rx, tx, offloads: Offloads::NONE };
        assert!(self.control.start(Box::new(pair)).is_ok());
        self.flush();
    }

    fn flush(&mut self) {
        assert!(self.queue.flush(&mut self.pool, &self.stats).is_ok());
    }

    fn step(&mut self, input: &mut &[u8]) -> Option<()> {
        let [operation, argument] = take(input)?;
        match operation % 8 {
            0 => _ = self.transmit.offer(u16::from(argument)),
            1 => _ = self.receive.offer(u16::from(argument)),
            2 => {
                let mut burst = Burst::new();
                self.queue.rx_burst(&mut self.pool, &mut burst);
                for packet in burst.drain(..) {
                    assert!((1..=FRAME_BYTES_MAX).contains(&packet.total_bytes()));
                    self.pool.free_packet(packet);
                }
            }
            3 => self.send(usize::from(argument % 8) + 1, u16::from_le_bytes(take(input)?)),
            4 => self.flush(),
            5 => {
                let [a, b] = take(input)?;
                self.write(argument, [a, b], take(input)?);
            }
            6 => {
                // An address that is inside.
                let [a, b, c, d] = take(input)?;
                let address = BASE_ADDRESS + u64::from(u16::from_le_bytes([c, d]));
                self.write(argument, [a, b], address.to_le_bytes());
            }
            _ => {
                assert!(self.control.stop().is_ok());
                self.flush();
                while self.control.answer().is_some() {}
                self.start();
            }
        }
        Some(())
    }

    fn send(&mut self, count: usize, bytes: u16) {
        let mut burst = Burst::new();
        for _ in 0..count {
            burst.extend(self.pool.copy_in(&vec![0x5a; usize::from(bytes % 4096) + 1], PORT));
        }
        self.queue.tx_burst(&mut self.pool, &mut burst, &self.stats);
        burst.drain(..).for_each(|packet| self.pool.free_packet(packet));
    }

    /// Writes eight bytes to the first half of either ring's memory, where its areas are.
    fn write(&self, which: u8, place: [u8; 2], bytes: [u8; 8]) {
        let start = if which & 1 == 0 { 0 } else { SECOND };
        let address = BASE_ADDRESS + start + u64::from(u16::from_le_bytes(place) & 0x7fff);
        let place = self.memory.guest_memory().translate(address, bytes.len());
        place.expect("it is inside").copy_from(&bytes);
    }

    fn end(mut self) {
        self.flush();
        assert_eq!(self.queue.drain(&mut self.pool, &self.stats), 0);
        assert!(self.control.answer().is_some(), "the rings come back");
        let free = self.pool.frames_cached() + self.depot.frames_free();
        assert_eq!(free, FRAMES as usize, "a frame is lost");
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(*head)
}
