//! AF_XDP ports without an engine: what a worker does with them, in small.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use vrouter::{
    burst::Burst,
    memory::{Depot, FramePool, HEADROOM_BYTES, Region, RegionConfig, Segment},
    packet::Packet,
    port::{
        AfXdpBackend, AfXdpMode, Backend, OpenPortError, OpenedPort, PortDevice, PortOpener,
        PortQueue, PortRef, PortRequest, Role, Steering, af_xdp::AfXdpOpener,
    },
    stats::WorkerStats,
};

use crate::namespace::Namespace;

/// How long a test waits for what must happen: the machine may stall for seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Packet memory and an opener.
pub(crate) struct Memory {
    pub(crate) depot: Arc<Depot>,
    pub(crate) pool: FramePool,
    pub(crate) opener: AfXdpOpener,
    frames: usize,
}

impl Memory {
    pub(crate) fn new(frame_count: u32) -> Self {
        let config = RegionConfig { frame_count, frame_bytes: 2048, huge_pages: false };
        let region = Arc::new(Region::create(&config).unwrap());
        let depot = Depot::new(Arc::clone(&region));
        let frames = depot.frames_free();
        let pool = FramePool::new(Arc::clone(&depot));
        Self { depot, pool, opener: AfXdpOpener::new(region, None), frames }
    }

    /// Asserts that every frame is back in the pool or the depot.
    pub(crate) fn assert_all_frames_are_back(&self) {
        assert_eq!(self.pool.frames_cached() + self.depot.frames_free(), self.frames);
    }
}

/// What to open.
pub(crate) fn request(namespace: &Namespace, interface: &str, queues: Option<u16>) -> PortRequest {
    PortRequest {
        name: interface.to_owned(),
        port: PortRef { index: 7, generation: 1 },
        role: Role::Guest,
        backend: Backend::AfXdp(AfXdpBackend {
            interface: interface.to_owned(),
            netns_path: Some(namespace.path()),
            queues,
            mode: AfXdpMode::Auto,
            partial_checksums: false,
        }),
        mtu_bytes: None,
        mac_address: None,
        worker_count: 2,
    }
}

/// An open port.
pub(crate) struct Port {
    pub(crate) queues: Vec<Box<dyn PortQueue>>,
    pub(crate) device: Box<dyn PortDevice>,
    /// What its queues count.
    pub(crate) stats: Arc<WorkerStats>,
}

impl Port {
    /// Opens a port that gets every frame.
    pub(crate) fn open(memory: &mut Memory, request: &PortRequest) -> Self {
        let mut port = Self::try_open(memory, request).unwrap();
        port.device.steer(&Steering::Everything).unwrap();
        port
    }

    pub(crate) fn try_open(
        memory: &mut Memory,
        request: &PortRequest,
    ) -> Result<Self, OpenPortError> {
        let OpenedPort { queues, device } = memory.opener.open(request, &mut memory.pool)?;
        Ok(Self { queues, device, stats: Arc::new(WorkerStats::new()) })
    }

    /// One poll of all queues: appends what came in to `burst`.
    pub(crate) fn poll(&mut self, pool: &mut FramePool, burst: &mut Burst) -> usize {
        let mut received = 0;
        for queue in &mut self.queues {
            received += queue.rx_burst(pool, burst);
            queue.flush(pool, &self.stats).unwrap();
        }
        received
    }

    /// One poll of all queues by somebody who expects nothing: stray packets of the stacks around
    /// go back to the pool.
    pub(crate) fn poll_aside(&mut self, pool: &mut FramePool) {
        let mut burst = Burst::new();
        self.poll(pool, &mut burst);
        for packet in burst {
            pool.free_packet(packet);
        }
    }

    /// Sends all of a burst through one queue.
    pub(crate) fn send(&mut self, queue: usize, pool: &mut FramePool, burst: &mut Burst) {
        wait_for("room in the tx ring", || {
            self.queues[queue].tx_burst(pool, burst, &self.stats);
            self.queues[queue].flush(pool, &self.stats).unwrap();
            burst.is_empty()
        });
    }

    /// Closes the port and gets all of its frames back.
    pub(crate) fn close(mut self, pool: &mut FramePool) {
        // A device that is gone cannot be steered any more.
        let _ = self.device.steer(&Steering::Nothing);
        for queue in &mut self.queues {
            wait_for("the kernel to return the frames", || queue.drain(pool, &self.stats) == 0);
        }
    }
}

/// Calls `happened` until it says yes.
pub(crate) fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        thread::yield_now();
    }
}

/// A packet of these bytes, in as many segments as it takes.
pub(crate) fn packet(pool: &mut FramePool, bytes: &[u8]) -> Packet {
    const SEGMENT_BYTES: usize = 1500;
    let mut packet: Option<Packet> = None;
    for chunk in bytes.chunks(SEGMENT_BYTES) {
        let mut frame = pool.allocate().expect("packet memory is large enough");
        let region = pool.region();
        let (offset, len) = (HEADROOM_BYTES, u16::try_from(chunk.len()).unwrap());
        let start = usize::from(offset);
        region.bytes_mut(&mut frame)[start..start + chunk.len()].copy_from_slice(chunk);
        match &mut packet {
            Some(packet) => packet.append(region, Segment { frame, offset, len }),
            None => packet = Some(Packet::new(frame, offset, len, PortRef::ENGINE)),
        }
    }
    packet.expect("no packet is empty")
}

/// All bytes of a packet.
pub(crate) fn bytes_of(packet: &Packet, region: &Region) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.for_each_segment(region, |segment| bytes.extend_from_slice(segment));
    bytes
}
