//! A link in memory: what is sent is received, except for what the link is told to do to it.
//!
//! Without options it loses nothing: a sender that is too fast has to wait. So it shows what
//! generator and sink cost by themselves. With options it is a device whose faults are known, on
//! which the generator's figures can be checked.

use std::{io, sync::Arc, thread, time::Duration};

use rtrb::{Consumer, Producer, RingBuffer};

use super::{Halves, Options, PortSpecError, RxPort, TxPort};
use crate::pktgen::{BURST_FRAMES, frames::FRAME_BYTES_MAX};

/// Frames that the link holds.
const LINK_FRAMES: usize = 1024;
/// What a sink that finds the link empty waits: shorter than it takes to fill.
const WAIT: Duration = Duration::from_micros(20);
/// Frames that a link with a limited rate lets pass at once, if not told.
const BURST_DEFAULT: u32 = 64;

/// A clock: nanoseconds since some moment.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A link in memory. Every `*_every` is a count of frames; 0 is never.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MemorySpec {
    /// Frames a second; what exceeds it is lost. 0 is no limit.
    pub packets_per_second: u32,
    /// Frames that pass at once in spite of the rate.
    pub burst: u32,
    /// Which frame is lost.
    pub drop_every: u32,
    /// Which frame arrives twice.
    pub duplicate_every: u32,
    /// Which frame arrives behind the one after it.
    pub swap_every: u32,
    /// Which frame has a byte changed.
    pub corrupt_every: u32,
}

impl MemorySpec {
    pub(super) fn parse(options: &mut Options) -> Result<Self, PortSpecError> {
        let mut number = |name| options.number(name);
        Ok(Self {
            packets_per_second: number("pps")?.unwrap_or(0),
            burst: number("burst")?.unwrap_or(BURST_DEFAULT).max(1),
            drop_every: number("drop-every")?.unwrap_or(0),
            duplicate_every: number("duplicate-every")?.unwrap_or(0),
            swap_every: number("swap-every")?.unwrap_or(0),
            corrupt_every: number("corrupt-every")?.unwrap_or(0),
        })
    }
}

/// A link that knows the time from `clock`.
#[must_use]
pub fn memory_link(spec: &MemorySpec, clock: Clock) -> Halves {
    let (full, received) = RingBuffer::new(LINK_FRAMES);
    let (mut returned, empty) = RingBuffer::new(LINK_FRAMES);
    for _ in 0..LINK_FRAMES {
        // There is room: the ring is as large.
        let _ = returned.push(Vec::with_capacity(FRAME_BYTES_MAX));
    }
    let now_ns = clock();
    let tx = MemoryTx {
        spec: *spec,
        bucket: Bucket { tokens: f64::from(spec.burst), filled_ns: now_ns },
        clock,
        frames: 0,
        scratch: vec![0; FRAME_BYTES_MAX],
        held: None,
        full,
        empty,
    };
    (Box::new(tx), Box::new(MemoryRx { received, returned }))
}

/// A token bucket.
struct Bucket {
    tokens: f64,
    filled_ns: u64,
}

impl Bucket {
    fn take(&mut self, spec: &MemorySpec, now_ns: u64) -> bool {
        let seconds = Duration::from_nanos(now_ns.saturating_sub(self.filled_ns)).as_secs_f64();
        let more = seconds * f64::from(spec.packets_per_second);
        self.tokens = (self.tokens + more).min(f64::from(spec.burst));
        self.filled_ns = now_ns;
        let has_one = self.tokens >= 1.0;
        if has_one {
            self.tokens -= 1.0;
        }
        has_one
    }
}

struct MemoryTx {
    spec: MemorySpec,
    bucket: Bucket,
    clock: Clock,
    /// Frames sent so far.
    frames: u64,
    scratch: Vec<u8>,
    /// The frame that waits for the next one, to arrive behind it.
    held: Option<Vec<u8>>,
    full: Producer<Vec<u8>>,
    empty: Consumer<Vec<u8>>,
}

impl MemoryTx {
    fn pass(&mut self, bytes: usize) {
        self.frames += 1;
        let number = self.frames;
        let is_now = |every: u32| every != 0 && number.is_multiple_of(u64::from(every));
        if is_now(self.spec.drop_every) {
            return;
        }
        if self.spec.packets_per_second != 0 && !self.bucket.take(&self.spec, (self.clock)()) {
            return;
        }
        if is_now(self.spec.corrupt_every)
            && let Some(byte) = self.scratch.get_mut(bytes.saturating_sub(1))
        {
            *byte ^= 0xff;
        }
        if is_now(self.spec.swap_every) && self.held.is_none() {
            self.held = self.copy(bytes);
            return;
        }
        for _ in 0..=u8::from(is_now(self.spec.duplicate_every)) {
            if let Some(frame) = self.copy(bytes) {
                let _ = self.full.push(frame);
            }
        }
        if let Some(held) = self.held.take() {
            let _ = self.full.push(held);
        }
    }

    fn copy(&mut self, bytes: usize) -> Option<Vec<u8>> {
        let mut frame = self.empty.pop().ok()?;
        frame.clear();
        frame.extend_from_slice(self.scratch.get(..bytes)?);
        Some(frame)
    }
}

impl TxPort for MemoryTx {
    fn frame_bytes_max(&self) -> usize {
        FRAME_BYTES_MAX
    }

    fn send(
        &mut self,
        count: usize,
        write: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> io::Result<usize> {
        // A frame may come out twice.
        let count = count.min(BURST_FRAMES).min(self.empty.slots() / 2);
        for _ in 0..count {
            let bytes = write(&mut self.scratch);
            self.pass(bytes);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<usize> {
        Ok(0)
    }
}

struct MemoryRx {
    received: Consumer<Vec<u8>>,
    returned: Producer<Vec<u8>>,
}

impl RxPort for MemoryRx {
    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let count = self.received.slots().min(BURST_FRAMES);
        for _ in 0..count {
            let Ok(frame) = self.received.pop() else { break };
            take(&frame);
            let _ = self.returned.push(frame);
        }
        Ok(count)
    }

    fn wait(&mut self, limit: Duration) -> io::Result<()> {
        thread::sleep(limit.min(WAIT));
        Ok(())
    }

    fn lost(&self) -> io::Result<u64> {
        Ok(0)
    }
}
