//! The queues that a worker owns, and which of them it looks at in a poll.
//!
//! A queue is *hot* while packets move through it, and for [`COOLING_VISITS`] visits after. Hot
//! queues are visited in every poll, cold ones in turn: one for every [`PACKETS_PER_COLD_VISIT`]
//! packets that came in, [`COLD_VISITS_MAX`] in an empty poll. So idle ports cost a fixed small
//! share of the time that packets take, however many there are, and a packet on one of 250 of them
//! waits behind 8,000 others at most. What woke a worker from its sleep is hot.
//!
//! A queue that asks the kernel ([`PortQueue::asks_kernel`]) is not visited while it is cold: one
//! system call for all of them ([`Bed::look`]) tells which have something, after
//! [`PACKETS_PER_LOOK`] packets or [`EMPTY_POLLS_PER_LOOK`] empty polls.

use crate::{
    drops::DropReason,
    idle::Bed,
    memory::FramePool,
    packet::Packet,
    port::{PORTS_MAX, PortQueue, PortRef},
    stats::WorkerStats,
};

/// Visits without a packet after which a queue is cold: more than a kernel needs to send a full
/// ring of 1024 packets at 32 a kick, so that what a queue sent is on the wire before it cools
/// down.
const COOLING_VISITS: u16 = 64;

/// As [`COOLING_VISITS`], for queues that ask the kernel: they send all they have in each flush,
/// and a visit in vain costs a system call.
const COOLING_VISITS_ASKING: u16 = 8;

/// Packets for which the worker looks once for queues that ask the kernel: a look costs some
/// 100 ns, less than 1 % of what 256 packets cost, which is also how long a packet may wait.
const PACKETS_PER_LOOK: usize = 256;

/// Empty polls for which it looks once: a few microseconds.
const EMPTY_POLLS_PER_LOOK: usize = 16;

/// Packets for which one cold queue is visited: a visit costs some 40 ns, most of it cache misses,
/// so 1 % of what 32 packets cost.
const PACKETS_PER_COLD_VISIT: usize = 32;

/// Cold queues visited in one poll at most: 250 of them within 16 empty polls, some 5 µs.
const COLD_VISITS_MAX: usize = 16;

/// Queues of one worker at most: one for each port, and as many again for ports with several.
pub(crate) const QUEUES_MAX: usize = 2 * PORTS_MAX;

/// Where a queue is kept; stays as long as the worker has the queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct QueueSlot(u16);

impl QueueSlot {
    /// What the worker's bed calls the queue.
    pub(super) fn key(self) -> u16 {
        self.0
    }
}

/// One queue, and when something last happened to it.
pub(super) struct OwnedQueue {
    pub(super) port: PortRef,
    pub(super) queue: Box<dyn PortQueue>,
    /// Visits since the last packet.
    quiet_visits: u16,
    is_hot: bool,
    is_touched: bool,
    asks_kernel: bool,
}

/// All queues of a worker. Allocates nothing after its making.
pub(super) struct Queues {
    slots: Vec<Option<OwnedQueue>>,
    vacant: Vec<u16>,
    hot: Vec<u16>,
    /// Queues to flush at the end of this poll.
    touched: Vec<u16>,
    /// Where the last poll's look at cold queues ended.
    cold_cursor: usize,
    /// Packets since the last cold visit that was made for packets.
    packets_unvisited: usize,
    /// Where this poll's round over the hot queues starts.
    hot_cursor: usize,
    /// Queues that ask the kernel.
    asking: usize,
    /// What happened since the last look for those, in packets.
    packets_unlooked: usize,
}

impl Queues {
    /// No queues.
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::with_capacity(QUEUES_MAX),
            vacant: Vec::with_capacity(QUEUES_MAX),
            hot: Vec::with_capacity(QUEUES_MAX),
            touched: Vec::with_capacity(QUEUES_MAX),
            cold_cursor: 0,
            packets_unvisited: 0,
            hot_cursor: 0,
            asking: 0,
            packets_unlooked: 0,
        }
    }

    /// Takes a queue over; gives it back if there are too many.
    pub(super) fn insert(
        &mut self,
        port: PortRef,
        queue: Box<dyn PortQueue>,
    ) -> Result<QueueSlot, Box<dyn PortQueue>> {
        let vacant = self.vacant.pop().or_else(|| {
            let next = u16::try_from(self.slots.len()).ok()?;
            (self.slots.len() < QUEUES_MAX).then(|| {
                self.slots.push(None);
                next
            })
        });
        let Some(index) = vacant else { return Err(queue) };
        let Some(slot) = self.slots.get_mut(usize::from(index)) else { return Err(queue) };
        let asks_kernel = queue.asks_kernel();
        self.asking = self.asking.saturating_add(asks_kernel.into());
        let (is_hot, is_touched) = (false, false);
        *slot = Some(OwnedQueue { port, queue, quiet_visits: 0, is_hot, is_touched, asks_kernel });
        self.heat(QueueSlot(index));
        Ok(QueueSlot(index))
    }

    /// Gives a queue up.
    pub(super) fn remove(&mut self, slot: QueueSlot) -> Option<OwnedQueue> {
        let owned = self.slots.get_mut(usize::from(slot.0))?.take()?;
        self.asking = self.asking.saturating_sub(owned.asks_kernel.into());
        self.vacant.push(slot.0);
        self.hot.retain(|index| *index != slot.0);
        self.touched.retain(|index| *index != slot.0);
        Some(owned)
    }

    /// Some queue of `port`, if there is one.
    pub(super) fn find(&self, port: PortRef) -> Option<QueueSlot> {
        let position = self
            .slots
            .iter()
            .position(|slot| slot.as_ref().is_some_and(|owned| owned.port == port))?;
        u16::try_from(position).ok().map(QueueSlot)
    }

    /// Asks all far sides to wake the worker up; true if one of them has sent something already.
    pub(super) fn arm(&mut self) -> bool {
        let mut is_any_ready = false;
        for index in 0..self.slots.len() {
            if let Some(Some(owned)) = self.slots.get_mut(index)
                && owned.queue.arm()
                && let Ok(index) = u16::try_from(index)
            {
                self.heat(QueueSlot(index));
                is_any_ready = true;
            }
        }
        is_any_ready
    }

    /// What the bed calls `key` has something to receive.
    pub(super) fn heat_woken(&mut self, key: u16) {
        if let Some(Some(owned)) = self.slots.get_mut(usize::from(key)) {
            owned.queue.disarm();
        }
        self.heat(QueueSlot(key));
    }

    /// Some queue, if there is one.
    pub(super) fn any(&self) -> Option<QueueSlot> {
        let position = self.slots.iter().position(Option::is_some)?;
        u16::try_from(position).ok().map(QueueSlot)
    }

    /// Whether the queue in a slot sends anything now.
    pub(super) fn is_open(&self, slot: QueueSlot) -> bool {
        let owned = self.slots.get(usize::from(slot.0));
        owned.is_some_and(|it| it.as_ref().is_some_and(|it| it.queue.is_open()))
    }

    /// The queue in a slot, to be flushed at the end of this poll.
    pub(super) fn touch(&mut self, slot: QueueSlot) -> Option<&mut OwnedQueue> {
        let owned = self.slots.get_mut(usize::from(slot.0))?.as_mut()?;
        if !owned.is_touched {
            owned.is_touched = true;
            self.touched.push(slot.0);
        }
        Some(owned)
    }

    /// Packets moved through the queue: it is visited in each of the next polls.
    pub(super) fn heat(&mut self, slot: QueueSlot) {
        if let Some(Some(owned)) = self.slots.get_mut(usize::from(slot.0)) {
            owned.quiet_visits = 0;
            if !owned.is_hot {
                owned.is_hot = true;
                self.hot.push(slot.0);
            }
        }
    }

    /// Nothing came through the queue in a visit.
    pub(super) fn note_quiet_visit(&mut self, slot: QueueSlot) {
        if let Some(Some(owned)) = self.slots.get_mut(usize::from(slot.0)) {
            owned.quiet_visits = owned.quiet_visits.saturating_add(1);
        }
    }

    /// How many queues a poll visits at most in its round over the hot ones.
    pub(super) fn hot_count(&self) -> usize {
        self.hot.len()
    }

    /// The next hot queue in turn.
    pub(super) fn next_hot(&mut self) -> Option<QueueSlot> {
        if self.hot_cursor >= self.hot.len() {
            self.hot_cursor = 0;
        }
        let index = *self.hot.get(self.hot_cursor)?;
        self.hot_cursor = self.hot_cursor.saturating_add(1);
        Some(QueueSlot(index))
    }

    /// How many slots a poll looks at for cold queues, after hot ones gave it `packets`.
    pub(super) fn cold_visits(&mut self, packets: usize) -> usize {
        if packets == 0 {
            return COLD_VISITS_MAX.min(self.slots.len());
        }
        self.packets_unvisited = self.packets_unvisited.saturating_add(packets);
        let visits = self.packets_unvisited / PACKETS_PER_COLD_VISIT;
        self.packets_unvisited %= PACKETS_PER_COLD_VISIT;
        visits.min(COLD_VISITS_MAX).min(self.slots.len())
    }

    /// Whether it is time to look for queues that ask the kernel, after a poll that brought
    /// `packets`.
    pub(super) fn is_look_due(&mut self, packets: usize) -> bool {
        if self.asking == 0 {
            return false;
        }
        let weight = if packets == 0 { PACKETS_PER_LOOK / EMPTY_POLLS_PER_LOOK } else { packets };
        self.packets_unlooked = self.packets_unlooked.saturating_add(weight);
        let is_due = self.packets_unlooked >= PACKETS_PER_LOOK;
        if is_due {
            self.packets_unlooked = 0;
        }
        is_due
    }

    /// Another look is due after the next poll.
    pub(super) fn look_again(&mut self) {
        self.packets_unlooked = PACKETS_PER_LOOK;
    }

    /// How many slots there are to look at.
    pub(super) fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// The queue in the next slot in turn, if there is one and it is cold.
    pub(super) fn next_cold(&mut self) -> Option<QueueSlot> {
        if self.cold_cursor >= self.slots.len() {
            self.cold_cursor = 0;
        }
        let index = self.cold_cursor;
        self.cold_cursor = index.saturating_add(1);
        let owned = self.slots.get(index)?.as_ref()?;
        if owned.is_hot || owned.asks_kernel {
            return None;
        }
        u16::try_from(index).ok().map(QueueSlot)
    }

    /// Flushes what was touched in this poll; hands queues whose peer is gone to `lost`.
    pub(super) fn flush(
        &mut self,
        pool: &mut FramePool,
        stats: &WorkerStats,
        mut lost: impl FnMut(QueueSlot),
    ) {
        let Self { touched, slots, .. } = self;
        for index in touched.drain(..) {
            let Some(Some(owned)) = slots.get_mut(usize::from(index)) else { continue };
            owned.is_touched = false;
            if owned.queue.flush(pool, stats).is_err() {
                lost(QueueSlot(index));
            }
        }
    }

    /// Calls `see` with examples of what queues have dropped, one a queue at most.
    pub(super) fn take_refused(&mut self, mut see: impl FnMut(Packet, DropReason)) {
        for owned in self.slots.iter_mut().flatten() {
            if let Some((packet, reason)) = owned.queue.take_refused() {
                see(packet, reason);
            }
        }
    }

    /// Takes queues off the hot list that have been quiet for long.
    pub(super) fn cool(&mut self) {
        let Self { hot, slots, .. } = self;
        hot.retain(|index| {
            let Some(Some(owned)) = slots.get_mut(usize::from(*index)) else { return false };
            let cooling = if owned.asks_kernel { COOLING_VISITS_ASKING } else { COOLING_VISITS };
            owned.is_hot = owned.quiet_visits < cooling;
            owned.is_hot
        });
    }
}

impl OwnedQueue {
    /// The port and its queue, no longer woken up for.
    pub(super) fn leave(self, bed: &mut Bed) -> (PortRef, Box<dyn PortQueue>) {
        bed.forget(&*self.queue);
        (self.port, self.queue)
    }
}
