//! Sends a stream of frames at its rate.

use std::io;

use super::{
    BURST_FRAMES,
    frames::FrameSet,
    port::TxPort,
    schedule::Schedule,
    tag::{Tag, WRAP},
};

/// When a sender is done.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// After so many packets.
    pub packets: u64,
    /// At this time, in nanoseconds of the caller's clock.
    pub until_ns: u64,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Some packets were sent.
    Sent,
    /// The port took none of those that are due.
    PortFull,
    /// None is due before this time.
    WaitUntil(u64),
    /// Everything has been sent, or the time is over.
    Done,
}

/// What a sender has done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sent {
    /// Packets that the port took.
    pub packets: u64,
    /// From the first packet to the last, in nanoseconds.
    pub elapsed_ns: u64,
    /// How often the port took fewer packets than were due.
    pub port_full: u64,
    /// How often the sender came too late to catch up.
    pub stalls: u64,
    /// How long in all.
    pub stalled_ns: u64,
}

/// A stream that is being sent.
#[derive(Debug)]
pub struct Sender<'a> {
    frames: &'a FrameSet,
    stream: u16,
    schedule: Schedule,
    limit: Limit,
    first_ns: Option<u64>,
    sent: Sent,
}

impl<'a> Sender<'a> {
    /// Begins a stream now.
    #[must_use]
    pub fn new(
        frames: &'a FrameSet,
        stream: u16,
        packets_per_second: Option<f64>,
        limit: Limit,
        now_ns: u64,
    ) -> Self {
        let schedule = Schedule::new(packets_per_second, now_ns);
        Self { frames, stream, schedule, limit, first_ns: None, sent: Sent::default() }
    }

    /// Sends what is due, up to a burst.
    ///
    /// # Errors
    ///
    /// Fails if the port is gone.
    pub fn step(&mut self, port: &mut dyn TxPort, now_ns: u64) -> io::Result<Step> {
        let left = self.limit.packets.saturating_sub(self.sent.packets);
        if left == 0 || now_ns >= self.limit.until_ns {
            return Ok(Step::Done);
        }
        let due = self.schedule.due(now_ns).min(left).min(BURST_FRAMES as u64);
        if due == 0 {
            return Ok(Step::WaitUntil(self.schedule.next_ns()));
        }
        let (frames, stream) = (self.frames, self.stream);
        let mut sequence = self.sent.packets;
        let mut write = |buffer: &mut [u8]| {
            let tag = Tag { stream, sequence: sequence % WRAP, sent_ns: now_ns % WRAP };
            sequence += 1;
            frames.write(tag, buffer)
        };
        let taken = port.send(usize::try_from(due).unwrap_or(BURST_FRAMES), &mut write)? as u64;
        self.schedule.take(taken);
        self.sent.packets += taken;
        self.sent.port_full += u64::from(taken < due);
        if taken == 0 {
            return Ok(Step::PortFull);
        }
        let first_ns = *self.first_ns.get_or_insert(now_ns);
        self.sent.elapsed_ns = now_ns - first_ns;
        Ok(Step::Sent)
    }

    /// What has been done so far.
    #[must_use]
    pub fn sent(&self) -> Sent {
        Sent { stalls: self.schedule.stalls(), stalled_ns: self.schedule.stalled_ns(), ..self.sent }
    }
}

impl Sent {
    /// Packets a second from the first to the last; none of fewer than two.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub fn packets_per_second(&self) -> Option<f64> {
        let intervals = self.packets.checked_sub(1).filter(|&count| count > 0)?;
        (self.elapsed_ns > 0).then(|| intervals as f64 * 1e9 / self.elapsed_ns as f64)
    }
}
