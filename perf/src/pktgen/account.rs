//! What came of a stream: loss, reordering, duplicates, latency.
//!
//! Flows take turns: packet `n` is of flow `n mod flows`. Order is judged within a flow, since
//! devices promise no more than that:
//!
//! * A packet is *reordered* if its number is smaller than the next one expected of its flow, which
//!   is one more than the largest that has arrived (RFC 4737 section 3.3). So of a late packet it
//!   is the late one that is reordered, not those that overtook it.
//! * An uncorrupted packet that has arrived before is a *duplicate* (RFC 5560 section 3), and is
//!   not looked at again for order or latency.
//! * What was sent and has not arrived once the sink stops waiting is *lost* (RFC 7680 section
//!   2.4).
//!
//! Which packets have arrived is remembered for the last [`WINDOW_PACKETS`] numbers only; one that
//! is older than that is *late*, and counts as lost.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::tag::{Reading, Tag};

/// How far back a packet's arrival is remembered: 128 KiB of bits, so that they stay in a cache,
/// and still a tenth of a second at 10 Mpps.
pub const WINDOW_PACKETS: u64 = 1 << 20;
/// Latencies above this count as this.
const LATENCY_MAX: Duration = Duration::from_mins(1);
/// Digits that a latency is remembered with.
const LATENCY_DIGITS: u8 = 3;

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Packets of the stream that arrived intact, each counted once.
    pub received: u64,
    /// Of them, those that arrived behind a later one of their flow.
    pub reordered: u64,
    /// Further copies of packets that had arrived.
    pub duplicated: u64,
    /// Frames of a generator that were damaged, whatever stream they are of.
    pub corrupted: u64,
    /// Packets too late to be told from duplicates.
    pub late: u64,
    /// Intact packets of other streams: of an earlier run, or another generator.
    pub other_streams: u64,
    /// Frames that no generator made.
    pub foreign: u64,
    /// Packets without a latency: they were sent by another clock.
    pub untimed: u64,
    /// Bytes of the packets received, with FCS.
    pub bytes: u64,
}

/// The account of one stream.
#[derive(Debug)]
pub struct Account {
    stream: u16,
    /// The next number expected of each flow, counted within the stream.
    expected: Vec<u64>,
    window: Window,
    counts: Counts,
    /// Nanoseconds.
    latencies: Histogram<u64>,
    highest: Option<u64>,
}

impl Account {
    /// Of a stream that has so many flows.
    ///
    /// # Errors
    ///
    /// Fails for want of memory for the latencies.
    pub fn new(stream: u16, flows: u32) -> Result<Self, hdrhistogram::CreationError> {
        let latency_max = u64::try_from(LATENCY_MAX.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self {
            stream,
            expected: vec![0; usize::try_from(flows.max(1)).unwrap_or(1)],
            window: Window::new(),
            counts: Counts::default(),
            latencies: Histogram::new_with_bounds(1, latency_max, LATENCY_DIGITS)?,
            highest: None,
        })
    }

    /// Enters a frame of so many bytes, with FCS, that came at `now_ns`.
    pub fn enter(&mut self, reading: Reading, frame_bytes: usize, now_ns: u64) {
        match reading {
            Reading::Foreign => self.counts.foreign += 1,
            Reading::Corrupted => self.counts.corrupted += 1,
            Reading::Intact(tag) if tag.stream != self.stream => self.counts.other_streams += 1,
            Reading::Intact(tag) => self.arrive(tag, frame_bytes, now_ns),
        }
    }

    fn arrive(&mut self, tag: Tag, frame_bytes: usize, now_ns: u64) {
        match self.window.mark(tag.sequence) {
            Mark::TooOld => self.counts.late += 1,
            Mark::Again => self.counts.duplicated += 1,
            Mark::First => {
                self.counts.received += 1;
                self.counts.bytes += frame_bytes as u64;
                self.highest = self.highest.max(Some(tag.sequence));
                self.judge_order(tag.sequence);
                match tag.age_ns(now_ns) {
                    Some(age) => self.latencies.saturating_record(age.max(1)),
                    None => self.counts.untimed += 1,
                }
            }
        }
    }

    fn judge_order(&mut self, sequence: u64) {
        let flows = self.expected.len() as u64;
        let flow = usize::try_from(sequence % flows).unwrap_or(0);
        if let Some(expected) = self.expected.get_mut(flow) {
            if sequence < *expected {
                self.counts.reordered += 1;
            } else {
                *expected = sequence + 1;
            }
        }
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The highest number that arrived.
    #[must_use]
    pub fn highest(&self) -> Option<u64> {
        self.highest
    }

    /// Latencies in nanoseconds.
    #[must_use]
    pub fn latencies(&self) -> &Histogram<u64> {
        &self.latencies
    }
}

enum Mark {
    First,
    Again,
    TooOld,
}

/// Which of the last numbers have arrived: a bit each, in a ring.
#[derive(Debug)]
struct Window {
    bits: Vec<u64>,
    /// One more than the highest number that has arrived, rounded up to whole words.
    end: u64,
}

impl Window {
    fn new() -> Self {
        let words = usize::try_from(WINDOW_PACKETS / 64).unwrap_or(1);
        Self { bits: vec![0; words], end: WINDOW_PACKETS }
    }

    fn mark(&mut self, sequence: u64) -> Mark {
        if sequence >= self.end {
            self.advance(sequence);
        } else if sequence < self.end - WINDOW_PACKETS {
            return Mark::TooOld;
        }
        let bit = 1 << (sequence % 64);
        let Some(word) = self.word(sequence / 64) else { return Mark::TooOld };
        if *word & bit != 0 {
            return Mark::Again;
        }
        *word |= bit;
        Mark::First
    }

    /// Makes room for a number beyond the end.
    fn advance(&mut self, sequence: u64) {
        let end = (sequence / 64 + 1) * 64;
        let first = self.end.max(end.saturating_sub(WINDOW_PACKETS)) / 64;
        for index in first..end / 64 {
            if let Some(word) = self.word(index) {
                *word = 0;
            }
        }
        self.end = end;
    }

    fn word(&mut self, index: u64) -> Option<&mut u64> {
        let words = self.bits.len() as u64;
        self.bits.get_mut(usize::try_from(index % words).ok()?)
    }
}

#[cfg(test)]
mod tests;
