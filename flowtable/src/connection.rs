//! Connections: what both directions share, and each direction's own state.
//!
//! A direction's state lies in an array of that direction, so that a worker that only sees one
//! direction writes no line that the worker of the other direction writes. The other direction's
//! state is read, where TCP and SCTP need it. Everything is written by plain loads and stores: a
//! race between two workers that handle the same direction at the same moment (a queue just moved)
//! may lose a count, never more.

use crate::{
    entry::EntryIndex,
    facts::Ticks,
    key::{high32, low32},
    ordering,
    sync::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed},
};

/// What both directions share.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Connection {
    /// Generation above the index of the forward entry. An odd generation is alive.
    life: AtomicU64,
    /// The next connection in a free list.
    pub(crate) next: AtomicU32,
    /// TCP: one past a SYN that was sent in the middle of the connection; zero if there was none.
    /// Written by whoever records such a SYN, or its answer.
    pub(crate) late_syn: AtomicU32,
}

const _: () = assert!(size_of::<Connection>() == 16 || cfg!(loom));

/// A connection's generation and where its entries are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Life {
    pub(crate) generation: u32,
    /// The forward entry.
    pub(crate) entry: EntryIndex,
}

impl Life {
    pub(crate) fn is_alive(self) -> bool {
        self.generation & 1 == 1
    }

    /// The part of the generation that entries and references carry.
    #[expect(clippy::cast_possible_truncation, reason = "takes the lower half")]
    pub(crate) fn short_generation(self) -> u16 {
        self.generation as u16
    }

    fn pack(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.entry.0)
    }
}

impl Connection {
    /// Its generation and entries, as of now.
    #[inline]
    pub(crate) fn life(&self) -> Life {
        let word = self.life.load(Acquire);
        Life { generation: high32(word), entry: EntryIndex(low32(word)) }
    }

    /// The generation it will have when it next comes to life. Called by the owner of a free
    /// connection.
    pub(crate) fn next_generation(&self) -> u32 {
        self.life().generation.wrapping_add(1) | 1
    }

    /// Forgets what an earlier connection left. Called by the owner of a free connection.
    pub(crate) fn reset(&self) {
        self.late_syn.store(0, Relaxed);
    }

    /// Brings it to life, or makes it use other entries. Called under the locks of its buckets.
    pub(crate) fn set_life(&self, life: Life) {
        self.life.store(life.pack(), ordering::publish_life());
    }

    /// Ends it, unless it ended already. Called under the locks of its buckets.
    pub(crate) fn end(&self, life: Life) -> bool {
        let dead = Life { generation: life.generation.wrapping_add(1), ..life };
        self.life.compare_exchange(life.pack(), dead.pack(), AcqRel, Relaxed).is_ok()
    }
}

/// One direction's counters, last-seen time and transport state.
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub(crate) struct DirectionState {
    packets: AtomicU64,
    bytes: AtomicU64,
    last_seen: AtomicU32,
    /// TCP: one past the highest sequence number sent. SCTP: the tag that packets of this direction
    /// carry.
    end: AtomicU32,
    /// TCP: the highest acknowledgement sent.
    acknowledged: AtomicU32,
    /// Window scale (4 bits), [`DirectionState::ANSWERED`] (1), flags (11), largest window in units
    /// of the scale (16).
    flags: AtomicU32,
}

const _: () = assert!(size_of::<DirectionState>() == 32 || cfg!(loom));

/// What conntrack knows about one direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Transport {
    /// One past the highest sequence number sent (TCP), or the verification tag (SCTP).
    pub(crate) end: u32,
    /// The highest acknowledgement sent (TCP).
    pub(crate) acknowledged: u32,
    /// The largest window advertised, in units of `1 << scale` bytes (TCP).
    pub(crate) window: u16,
    /// The window scale that this direction's window fields have: 0 to 14 (RFC 7323, section 2.3).
    pub(crate) scale: u8,
    /// What this direction has sent so far; the bits belong to the protocol's tracker.
    pub(crate) flags: u16,
}

/// One direction's counters.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowCounters {
    /// Packets that were recorded and not found invalid.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl DirectionState {
    /// The other direction has packets, too: told by that one's first packet, so that this one need
    /// not read the other's line. Only of protocols without states: trackers write over it.
    const ANSWERED: u32 = 1 << 27;

    /// Notes that the other direction has packets.
    #[cold]
    pub(crate) fn answer(&self) {
        self.flags.store(self.flags.load(Relaxed) | Self::ANSWERED, Relaxed);
    }

    /// Whether it was noted that the other direction has packets.
    #[inline]
    pub(crate) fn is_answered(&self) -> bool {
        self.flags.load(Relaxed) & Self::ANSWERED != 0
    }

    /// Starts anew.
    pub(crate) fn reset(&self, now: Ticks) {
        self.packets.store(0, Relaxed);
        self.bytes.store(0, Relaxed);
        self.last_seen.store(now, Relaxed);
        self.set_transport(&Transport::default());
    }

    /// Counts a packet; returns whether it was the first.
    #[inline]
    pub(crate) fn count(&self, bytes: u32) -> bool {
        let packets = self.packets.load(Relaxed);
        self.packets.store(packets.wrapping_add(1), Relaxed);
        self.bytes.store(self.bytes.load(Relaxed).wrapping_add(u64::from(bytes)), Relaxed);
        packets == 0
    }

    /// Notes when the direction was last seen; writes only if that changes.
    #[inline]
    pub(crate) fn see(&self, now: Ticks) {
        if self.last_seen.load(Relaxed) != now {
            self.last_seen.store(now, Relaxed);
        }
    }

    pub(crate) fn last_seen(&self) -> Ticks {
        self.last_seen.load(Relaxed)
    }

    pub(crate) fn counters(&self) -> FlowCounters {
        FlowCounters { packets: self.packets.load(Relaxed), bytes: self.bytes.load(Relaxed) }
    }

    /// Whether a packet was counted in this direction.
    #[inline]
    pub(crate) fn has_packets(&self) -> bool {
        self.packets.load(Relaxed) != 0
    }

    #[inline]
    pub(crate) fn transport(&self) -> Transport {
        let packed = self.flags.load(Relaxed);
        Transport {
            end: self.end.load(Relaxed),
            acknowledged: self.acknowledged.load(Relaxed),
            window: low16(packed),
            scale: low16(packed >> 28).to_le_bytes()[0],
            flags: low16(packed >> 16) & Transport::FLAGS,
        }
    }

    #[inline]
    pub(crate) fn set_transport(&self, transport: &Transport) {
        let flags = (transport.flags & Transport::FLAGS) | (u16::from(transport.scale & 15) << 12);
        self.end.store(transport.end, Relaxed);
        self.acknowledged.store(transport.acknowledged, Relaxed);
        self.flags.store((u32::from(flags) << 16) | u32::from(transport.window), Relaxed);
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "takes the lower half")]
fn low16(word: u32) -> u16 {
    word as u16
}

impl Transport {
    /// The flag bits there is room for: the scale takes the upper four of sixteen, and one says that
    /// there were answers.
    pub(crate) const FLAGS: u16 = 0x07ff;
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_directions_transport_state_gives_back_what_was_set() {
        let state = DirectionState::default();
        let transport = Transport {
            end: 0xffff_fff0,
            acknowledged: 77,
            window: 0xabcd,
            scale: 14,
            flags: 0x70f,
        };
        state.set_transport(&transport);
        assert_eq!(state.transport(), transport);
        assert!(!state.is_answered());
        state.answer();
        assert!(state.is_answered());
        assert_eq!(state.transport(), transport);
    }

    #[test]
    fn a_connection_ends_once() {
        let connection = Connection::default();
        let life = Life { generation: connection.next_generation(), entry: EntryIndex(6) };
        connection.set_life(life);
        assert!(connection.life().is_alive());
        assert!(connection.end(life) && !connection.end(life));
        assert!(!connection.life().is_alive());
        assert_eq!(connection.next_generation(), life.generation + 2);
    }
}
