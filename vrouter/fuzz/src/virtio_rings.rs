//! Virtio rings of a guest that writes what it likes.
//!
//! The input picks the rings' shape and says what happens: a well-behaved driver offers buffers,
//! something else writes anywhere into the shared memory and cuts its file short, a worker
//! receives, sends, sleeps and flushes, and the session takes the rings back or dies with its
//! engine. Whatever happens, no packet is longer than it may be, every frame of packet memory comes
//! back, and the session gets its rings back.

use std::{cell::RefCell, fs::File, sync::Arc};

use vrouter::{
    burst::Burst,
    memory::{Depot, FramePool, Region, RegionConfig},
    packet::Offloads,
    port::{
        PortQueue, PortRef,
        vhost_user::{
            driver::{BASE_ADDRESS, DriverMemory, DriverRing, RingShape, RingUse},
            inflight::InflightRegion,
            log::{DirtyLog, RingLog},
            mapping::MappedRegion,
            memory::{GuestMemory, GuestRegion},
            orders::{Answer, QueueControl, QueuePair},
            queue::VhostUserQueue,
            ring::{Ring, RingFeatures, RingFormat, RingPosition},
        },
    },
    stats::WorkerStats,
};

const PORT: PortRef = PortRef { index: 1, generation: 0 };
const MEMORY_BYTES: u64 = 1 << 17;
/// Where the second ring starts.
const SECOND: u64 = 1 << 16;
/// Where a second region starts, if there are two: among the buffers of the first ring.
const REGION_END: u64 = 1 << 14;
/// Bytes of the log, which ends inside the guest's memory, and of a ring's in-flight area.
const LOG_BYTES: u64 = 3;
const INFLIGHT_BYTES: u64 = 64;
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
    let shape = |usage| RingShape { format, size, usage, buffer_bytes: 256, buffers: 0, features };
    let memory = DriverMemory::create(MEMORY_BYTES, false).expect("there is memory");
    let device = Device::new(&memory, *kind);
    let transmit = DriverRing::new(&memory, 0, shape(RingUse::Transmit)).expect("it fits");
    let receive = DriverRing::new(&memory, SECOND, shape(RingUse::Receive)).expect("it fits");
    WORKER.with_borrow_mut(|worker| {
        let mut bench = Bench::new(worker, memory, device, transmit, receive);
        for _ in 0..STEPS_MAX {
            if bench.step(&mut input).is_none() {
                break;
            }
        }
        bench.end();
    });
}

thread_local! {
    static WORKER: RefCell<Worker> = RefCell::new(Worker::new());
}

/// What a worker has for all queues, made once: that takes longer than an input.
struct Worker {
    depot: Arc<Depot>,
    pool: FramePool,
    stats: WorkerStats,
}

impl Worker {
    fn new() -> Self {
        let config = RegionConfig { frame_count: FRAMES, huge_pages: false, ..Default::default() };
        let depot = Depot::new(Arc::new(Region::create(&config).expect("there is memory")));
        let pool = FramePool::new(Arc::clone(&depot));
        Self { depot, pool, stats: WorkerStats::new() }
    }
}

/// What the device has of what a frontend shares.
struct Device {
    memory: Arc<GuestMemory>,
    log: Option<Arc<DirtyLog>>,
    inflight: Option<Arc<MappedRegion>>,
}

impl Device {
    fn new(memory: &DriverMemory, kind: u8) -> Self {
        let map = |file: &File, offset, bytes| {
            Arc::new(MappedRegion::map(file, offset, bytes).expect("it can be mapped"))
        };
        let ends = if kind & 0x80 == 0 { &[MEMORY_BYTES][..] } else { &[REGION_END, MEMORY_BYTES] };
        let mut start = 0;
        let mut regions = Vec::new();
        for end in ends {
            let (guest_address, user_address) = (BASE_ADDRESS + start, BASE_ADDRESS + start);
            let mapped = map(memory.file(), start, end - start);
            regions.push(GuestRegion { guest_address, user_address, mapped });
            start = *end;
        }
        let notes = (kind & 0x60 != 0).then(|| {
            let notes = DriverMemory::create(4096, false).expect("there is memory");
            let log = DirtyLog::new(&map(notes.file(), 0, LOG_BYTES)).expect("a log");
            (Arc::new(log), map(notes.file(), 128, 2 * INFLIGHT_BYTES))
        });
        let (log, inflight) = notes.unzip();
        Self {
            memory: Arc::new(GuestMemory::new(regions).expect("they do not overlap")),
            log: log.filter(|_| kind & 0x40 != 0),
            inflight: inflight.filter(|_| kind & 0x20 != 0),
        }
    }

    /// A ring where `driver` has it; `position` if this engine goes on where it left off.
    fn ring(&self, driver: &DriverRing, position: Option<RingPosition>) -> Ring {
        let mut setup = driver.setup();
        setup.memory = Arc::clone(&self.memory);
        // Guest addresses below the log's end, so that it is used.
        let log = |log| RingLog { log: Arc::clone(log), ring_address: Some(0x1000) };
        setup.log = self.log.as_ref().map(log);
        let offset = if setup.descriptor_area == BASE_ADDRESS { 0 } else { INFLIGHT_BYTES };
        let offset = usize::try_from(offset).expect("it is small");
        let mapped = self.inflight.as_ref();
        setup.inflight = mapped.map(|it| InflightRegion { mapped: Arc::clone(it), offset });
        setup.position = position.unwrap_or(setup.position);
        setup.is_resumed = position.is_some();
        // The shape is right; only what the areas hold may be wrong.
        Ring::new(setup).expect("a ring")
    }
}

struct Bench<'a> {
    worker: &'a mut Worker,
    memory: DriverMemory,
    device: Device,
    transmit: DriverRing,
    receive: DriverRing,
    queue: VhostUserQueue,
    control: QueueControl,
}

impl<'a> Bench<'a> {
    fn new(
        worker: &'a mut Worker,
        memory: DriverMemory,
        device: Device,
        mut transmit: DriverRing,
        receive: DriverRing,
    ) -> Self {
        for slot in 0..transmit.shape().size {
            assert!(transmit.write(slot.into(), &[slot.to_le_bytes()[0]; 60]));
        }
        let (queue, control) = VhostUserQueue::new(PORT).expect("there are descriptors");
        let mut bench = Self { worker, memory, device, transmit, receive, queue, control };
        bench.start(None);
        bench
    }

    /// Starts the rings at their positions, or as an engine does whose predecessor has died.
    fn start(&mut self, positions: Option<[RingPosition; 2]>) {
        let rx = self.device.ring(&self.transmit, positions.map(|[rx, _]| rx));
        let tx = self.device.ring(&self.receive, positions.map(|[_, tx]| tx));
        let pair = QueuePair { rx, tx, offloads: Offloads::NONE };
        assert!(self.control.start(Box::new(pair)).is_ok());
        self.flush();
    }

    /// Takes the rings back; where they stood.
    fn stop(&mut self) -> Option<[RingPosition; 2]> {
        assert!(self.control.stop().is_ok());
        self.flush();
        let mut positions = None;
        while let Some(answer) = self.control.answer() {
            if let Answer::Stopped(Some(pair)) | Answer::Broken(pair, _) = answer {
                positions = Some([pair.rx.position(), pair.tx.position()]);
            }
        }
        positions
    }

    fn flush(&mut self) {
        assert!(self.queue.flush(&mut self.worker.pool, &self.worker.stats).is_ok());
    }

    fn step(&mut self, input: &mut &[u8]) -> Option<()> {
        let [operation, argument] = take(input)?;
        match operation % 16 {
            0 => _ = self.transmit.offer(u16::from(argument)),
            1 => _ = self.receive.offer(u16::from(argument)),
            2 => {
                let mut burst = Burst::new();
                self.queue.rx_burst(&mut self.worker.pool, &mut burst);
                for packet in burst.drain(..) {
                    assert!((1..=FRAME_BYTES_MAX).contains(&packet.total_bytes()));
                    self.worker.pool.free_packet(packet);
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
            7 => {
                self.stop();
                self.start(None);
            }
            8 => {
                let positions = self.stop();
                self.start(positions);
            }
            9 => self.describe(argument, take(input)?),
            10 => self.fill_table(argument, take(input)?),
            11 => {
                self.queue.arm();
                self.queue.disarm();
            }
            12 => self.offer_chain(argument, take(input)?),
            13 => self.send(1, u16::from_le_bytes(take(input)?) | 1 << 15),
            14 => _ = self.transmit.take_used(argument.into(), |_, _| ()),
            _ if argument == 0xff => {
                // What is left of it ends in a page, or between two.
                let [pages] = take(input)?;
                let length = u64::from(pages % 32) * 4096;
                self.memory.file().set_len(length).expect("a file can be cut");
            }
            _ => _ = self.receive.take_used(argument.into(), |_, _| ()),
        }
        Some(())
    }

    fn send(&mut self, count: usize, bytes: u16) {
        let mut burst = Burst::new();
        // The highest bit: a long one.
        let bytes = usize::from(if bytes >> 15 == 0 { bytes % 4096 } else { bytes });
        for _ in 0..count {
            burst.extend(self.worker.pool.copy_in(&vec![0x5a; bytes + 1], PORT));
        }
        self.queue.tx_burst(&mut self.worker.pool, &mut burst, &self.worker.stats);
        burst.drain(..).for_each(|packet| self.worker.pool.free_packet(packet));
    }

    /// Writes eight bytes to the first half of either ring's memory, where its areas are.
    fn write(&self, which: u8, place: [u8; 2], bytes: [u8; 8]) {
        let start = if which & 1 == 0 { 0 } else { SECOND };
        let address = BASE_ADDRESS + start + u64::from(u16::from_le_bytes(place) & 0x7fff);
        let place = self.memory.guest_memory().translate(address, bytes.len());
        place.expect("it is inside").copy_from(&bytes);
    }

    /// Writes a descriptor of a ring: the second word, and an address that is inside.
    fn describe(&self, which: u8, bytes: [u8; 8]) {
        let [slot, address_low, address_high, length_low, length_high, flags, next, wrap] = bytes;
        let ring = if which & 1 == 0 { &self.transmit } else { &self.receive };
        let address = BASE_ADDRESS + u64::from(u16::from_le_bytes([address_low, address_high]));
        let [areas, ..] = ring.areas();
        let place = areas + 16 * u64::from(u16::from(slot) % ring.shape().size);
        let word = match ring.shape().format {
            RingFormat::Split => [length_low, length_high, 0, 0, flags & 7, 0, next, 0],
            RingFormat::Packed => {
                [length_low, length_high, 0, 0, next, 0, flags & 0x87, wrap & 0x80]
            }
        };
        self.put(place, &address.to_le_bytes());
        self.put(place + 8, &word);
    }

    /// Writes an indirect table of equal parts at a place of the second region.
    fn fill_table(&self, which: u8, bytes: [u8; 4]) {
        let [count, length, place, flags] = bytes;
        let table = BASE_ADDRESS + REGION_END + 16 * u64::from(place);
        let is_split = self.transmit.shape().format == RingFormat::Split;
        for index in 0..u64::from(count % 64) {
            let last = index + 1 == u64::from(count % 64);
            let flags = flags & 6 | u8::from(is_split && !last);
            let [next, _] = u16::try_from(index + 1).unwrap_or(0).to_le_bytes();
            let address = BASE_ADDRESS + 64 * (u64::from(which) + index);
            let word = if is_split {
                [length, 0, 0, 0, flags, 0, next, 0]
            } else {
                [length, 0, 0, 0, 0, 0, flags, 0]
            };
            self.put(table + 16 * index, &address.to_le_bytes());
            self.put(table + 16 * index + 8, &word);
        }
    }

    /// Makes descriptors that follow one another a chain, and offers the first.
    fn offer_chain(&mut self, which: u8, [slot, count]: [u8; 2]) {
        let ring = if which & 1 == 0 { &mut self.transmit } else { &mut self.receive };
        let size = ring.shape().size;
        let is_split = ring.shape().format == RingFormat::Split;
        let [areas, driver_area, _] = ring.areas();
        if !is_split {
            ring.offer(u16::from(count % 8));
        }
        for index in 0..u16::from(count % 8) {
            let at = (u16::from(slot) + index) % size;
            let flags = areas + 16 * u64::from(at) + if is_split { 12 } else { 14 };
            if let Some(place) = self.device.memory.translate(flags, 2) {
                let [mut low, high] = place.read().unwrap_or([0; 2]);
                low = low & !1 | u8::from(index + 1 < u16::from(count % 8));
                place.copy_from(&[low, high]);
            }
            if is_split {
                let [low, high] = ((at + 1) % size).to_le_bytes();
                self.put(flags + 2, &[low, high]);
            }
        }
        if is_split {
            let ring = if which & 1 == 0 { &mut self.transmit } else { &mut self.receive };
            // The driver offers slots in turn: the entry is written over.
            ring.offer(1);
            let entry = driver_area + 4 + 2 * u64::from(which / 2) % (2 * u64::from(size));
            let [low, high] = (u16::from(slot) % size).to_le_bytes();
            self.put(entry & !1, &[low, high]);
        }
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        if let Some(place) = self.memory.guest_memory().translate(address, bytes.len()) {
            place.copy_from(bytes);
        }
    }

    fn end(mut self) {
        self.flush();
        assert_eq!(self.queue.drain(&mut self.worker.pool, &self.worker.stats), 0);
        assert!(self.control.answer().is_some(), "the rings come back");
        let free = self.worker.pool.frames_cached() + self.worker.depot.frames_free();
        assert_eq!(free, FRAMES as usize, "a frame is lost");
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(*head)
}
