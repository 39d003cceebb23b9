//! A worker: one pinned thread that polls its queues and runs the pipeline.
//!
//! ```text
//! poll: commands → hand-offs → for each queue { rx → process → tx } → flush → bells
//! ```
//!
//! A worker never waits for anybody: a full ring drops and counts, commands are taken between
//! bursts, and it sleeps only when there is nothing to do (see [`crate::idle`]). What the pipeline
//! does with packets is not here, nor who opens ports.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub(crate) mod command;
mod egress;
mod queues;
#[cfg(test)]
mod tests;

use std::{hint, sync::Arc};

use self::{
    command::{Command, CommandReceiver, Reply},
    egress::{Egress, count_received},
    queues::QueueSlot,
};
use crate::{
    burst::{BURST_PACKETS_MAX, Burst},
    clock::{Clock, Now},
    drops::DropReason,
    handoff::HandoffRings,
    idle::{Bed, EMPTY_POLLS_BEFORE_SLEEP, IdleMode, Wake},
    memory::{FramePool, Region},
    outbox::Outbox,
    packet::Packet,
    port::{PortQueue, PortRef},
    stats::{Stage, WorkerStats},
};

/// Bursts received in one poll at most: bounds how long a flush, and so a packet on its way out,
/// may have to wait.
pub const BURSTS_PER_POLL_MAX: usize = 8;

/// Polls between two rounds of rare work.
const POLLS_PER_HOUSEKEEPING: u64 = 256;

/// What a worker does with the packets it received: the pipeline, or in tests something simpler.
pub trait Process: Send + 'static {
    /// Takes the newest configuration; returns its version. Called between bursts.
    fn refresh(&mut self) -> u64;

    /// Empties `burst`: each packet goes to `outbox`, or is counted in `stats` as consumed or
    /// dropped and freed in `pool`.
    fn process(
        &mut self,
        ingress: PortRef,
        burst: &mut Burst,
        now: Now,
        pool: &mut FramePool,
        outbox: &mut Outbox,
        stats: &WorkerStats,
    );

    /// Takes note of a packet that is dropped on its way out, behind the pipeline; what is counted
    /// is counted already.
    fn note_drop(&mut self, _packet: &Packet, _reason: DropReason, _now: Now, _region: &Region) {}

    /// Does rare work, such as expiry; bounded.
    fn housekeep(&mut self, now: Now);
}

/// What a worker is made of.
pub(crate) struct WorkerParts<P> {
    pub(crate) pipeline: P,
    pub(crate) pool: FramePool,
    pub(crate) handoffs: HandoffRings,
    pub(crate) commands: CommandReceiver,
    pub(crate) bed: Bed,
    pub(crate) idle: IdleMode,
    pub(crate) clock: Clock,
    pub(crate) stats: Arc<WorkerStats>,
}

/// What a worker leaves when it stops.
pub(crate) struct WorkerRemains<P> {
    /// For the main thread to drop.
    pub(crate) pipeline: P,
    pub(crate) pool: FramePool,
    pub(crate) handoffs: HandoffRings,
    pub(crate) queues: Vec<(PortRef, Box<dyn PortQueue>)>,
}

pub(crate) struct Worker<P> {
    pipeline: P,
    pool: FramePool,
    burst: Burst,
    outbox: Outbox,
    egress: Egress,
    commands: CommandReceiver,
    bed: Bed,
    idle: IdleMode,
    clock: Clock,
    stats: Arc<WorkerStats>,
    /// Queues whose peer turned out to be gone in this poll.
    lost: Vec<QueueSlot>,
    polls: u64,
    /// When the last poll began, if it moved packets.
    busy_since: Option<Now>,
    empty_polls: u32,
    /// The next poll looks at all cold queues: any of them may have woken us.
    visits_all: bool,
    is_stopping: bool,
}

impl<P: Process> Worker<P> {
    /// A worker without queues.
    pub(crate) fn new(parts: WorkerParts<P>) -> Self {
        let WorkerParts { pipeline, pool, handoffs, commands, bed, idle, clock, stats } = parts;
        Self {
            pipeline,
            pool,
            burst: Burst::new(),
            outbox: Outbox::new(),
            egress: Egress::new(handoffs, Arc::clone(&stats)),
            commands,
            bed,
            idle,
            clock,
            stats,
            lost: Vec::with_capacity(queues::QUEUES_MAX),
            polls: 0,
            busy_since: None,
            empty_polls: 0,
            visits_all: false,
            is_stopping: false,
        }
    }

    /// Polls until told to stop.
    pub(crate) fn run(mut self) -> WorkerRemains<P> {
        while !self.is_stopping {
            let moved = self.poll();
            self.rest(moved);
        }
        let mut queues = Vec::new();
        while let Some(owned) = self.egress.queues.any().and_then(|slot| self.egress.remove(slot)) {
            queues.push(owned.leave(&mut self.bed));
        }
        let Self { pipeline, pool, egress, .. } = self;
        WorkerRemains { pipeline, pool, handoffs: egress.handoffs, queues }
    }

    /// One round; whether packets moved.
    fn poll(&mut self) -> bool {
        let now = self.clock.now();
        self.begin_poll(now);
        self.obey_commands();
        let mut moved = self.receive_handoffs(now);
        moved |= self.serve_queues(now);
        self.flush();
        if self.polls.is_multiple_of(POLLS_PER_HOUSEKEEPING) {
            self.housekeep(now);
        }
        self.busy_since = moved.then_some(now);
        moved
    }

    /// The quiescent point: nothing of an older configuration is in use after it.
    fn begin_poll(&mut self, now: Now) {
        let busy =
            self.busy_since.map_or(0, |since| now.nanoseconds.saturating_sub(since.nanoseconds));
        let version = self.pipeline.refresh();
        self.stats.poll(now, version, busy);
        self.polls = self.polls.wrapping_add(1);
    }

    /// Packets that other workers received and that leave through our queues.
    fn receive_handoffs(&mut self, now: Now) -> bool {
        let Self { egress, outbox, pool, pipeline, .. } = self;
        let mut note = |packet: &Packet, reason, region: &Region| {
            pipeline.note_drop(packet, reason, now, region);
        };
        let mut moved = false;
        for ring in 0..egress.handoffs.incoming_count() {
            moved |= egress.accept_handoffs(ring, BURST_PACKETS_MAX, outbox, pool, &mut note);
            outbox.drain(|port, burst| egress.deliver(port, burst, pool, &mut note));
        }
        moved
    }

    fn serve_queues(&mut self, now: Now) -> bool {
        let (mut bursts, mut packets) = (0_usize, 0_usize);
        for _ in 0..self.egress.queues.hot_count() {
            let Some(slot) = self.egress.queues.next_hot() else { break };
            let received = self.serve(slot, now);
            packets = packets.saturating_add(received);
            bursts = bursts.saturating_add(usize::from(received > 0));
            if bursts == BURSTS_PER_POLL_MAX {
                break;
            }
        }
        let queues = &mut self.egress.queues;
        let cold_visits =
            if self.visits_all { queues.slot_count() } else { queues.cold_visits(packets) };
        self.visits_all = false;
        for _ in 0..cold_visits {
            if let Some(slot) = self.egress.queues.next_cold() {
                packets = packets.saturating_add(self.serve(slot, now));
            }
        }
        self.egress.queues.cool();
        if self.egress.queues.is_look_due(packets) {
            self.look();
        }
        packets > 0
    }

    /// Finds out which of the queues that ask the kernel have something to receive.
    #[cold]
    fn look(&mut self) {
        let Self { egress, bed, .. } = self;
        let woken = bed.look();
        // There may be more than can be named at once: unless these were known, look again soon.
        let may_be_more = woken.is_full();
        let hot = egress.queues.hot_count();
        woken.into_iter().for_each(|key| egress.queues.heat_woken(key));
        if may_be_more && egress.queues.hot_count() > hot {
            egress.queues.look_again();
        }
    }

    /// Receives, processes and sends one burst; returns how many packets there were.
    fn serve(&mut self, slot: QueueSlot, now: Now) -> usize {
        let Self { egress, pool, burst, outbox, pipeline, stats, .. } = self;
        let Some(owned) = egress.queues.touch(slot) else { return 0 };
        let port = owned.port;
        stats.begin_stages();
        owned.queue.poll(pool, stats);
        let received = owned.queue.rx_burst(pool, burst);
        if received == 0 {
            stats.cancel_stages();
            egress.queues.note_quiet_visit(slot);
            return 0;
        }
        egress.queues.heat(slot);
        count_received(port, burst, stats);
        stats.end_stage(Stage::Receive, received as u64);
        pipeline.process(port, burst, now, pool, outbox, stats);
        debug_assert!(burst.is_empty(), "the pipeline answers for every packet");
        let mut note = |packet: &Packet, reason, region: &Region| {
            pipeline.note_drop(packet, reason, now, region);
        };
        outbox.drain(|port, burst| egress.send(port, burst, pool, &mut note));
        stats.end_stage(Stage::Transmit, received as u64);
        stats.end_stages();
        received
    }

    /// One flush for each queue that was visited or sent through, one bell for each worker that
    /// packets went to.
    fn flush(&mut self) {
        let Self { egress, pool, lost, stats, .. } = self;
        egress.queues.flush(pool, stats, |slot| lost.push(slot));
        egress.handoffs.ring_bells();
        while let Some(slot) = self.lost.pop() {
            self.give_back(slot, |port, queue| Reply::Lost { port, queue });
        }
    }

    #[cold]
    fn give_back(
        &mut self,
        slot: QueueSlot,
        reply: impl FnOnce(PortRef, Box<dyn PortQueue>) -> Reply,
    ) {
        let Some(owned) = self.egress.remove(slot) else { return };
        let (port, queue) = owned.leave(&mut self.bed);
        if let Err(Reply::Lost { port, queue } | Reply::Returned { port, queue }) =
            self.commands.reply(reply(port, queue))
        {
            // The ring holds more replies than a worker has queues; should it be full nevertheless,
            // the queue stays, and its next flush finds out once more that the peer is gone.
            let _ = self.attach(port, queue);
        }
    }

    #[cold]
    fn attach(
        &mut self,
        port: PortRef,
        queue: Box<dyn PortQueue>,
    ) -> Result<(), Box<dyn PortQueue>> {
        let slot = self.egress.attach(port, queue)?;
        if let Some(owned) = self.egress.queues.touch(slot) {
            self.bed.watch(&*owned.queue, slot.key());
        }
        Ok(())
    }

    fn obey_commands(&mut self) {
        while let Some(command) = self.commands.pop() {
            match command {
                Command::Attach { port, queue } => {
                    if let Err(queue) = self.attach(port, queue) {
                        let _ = self.commands.reply(Reply::Lost { port, queue });
                    }
                }
                Command::SendVia { port, worker } => self.egress.send_via(port, worker),
                Command::Detach { port } => {
                    for _ in 0..queues::QUEUES_MAX {
                        let Some(slot) = self.egress.queues.find(port) else { break };
                        self.give_back(slot, |port, queue| Reply::Returned { port, queue });
                    }
                    self.egress.close(port);
                }
                Command::Stop => self.is_stopping = true,
            }
            self.commands.done();
        }
    }

    #[cold]
    fn housekeep(&mut self, now: Now) {
        self.pipeline.housekeep(now);
        let Self { pipeline, pool, egress, .. } = self;
        egress.queues.take_refused(|packet, reason| {
            pipeline.note_drop(&packet, reason, now, pool.region());
            pool.free_packet(packet);
        });
        self.stats.frames_cached(self.pool.frames_cached() as u64);
    }

    /// After an empty poll: spins, or sleeps if there were enough of them.
    fn rest(&mut self, moved: bool) {
        if moved {
            self.empty_polls = 0;
            return;
        }
        self.stats.empty_poll();
        self.empty_polls = self.empty_polls.saturating_add(1);
        if self.idle == IdleMode::Busy || self.empty_polls < EMPTY_POLLS_BEFORE_SLEEP {
            hint::spin_loop();
            return;
        }
        self.sleep();
    }

    #[cold]
    fn sleep(&mut self) {
        if self.egress.queues.arm() {
            self.empty_polls = 0;
            return;
        }
        self.stats.sleep();
        let Self { egress, commands, bed, .. } = self;
        let wake = bed.sleep(|| !egress.handoffs.is_empty() || !commands.is_empty());
        self.empty_polls = 0;
        match wake {
            Wake::Called(woken) => woken.into_iter().for_each(|key| egress.queues.heat_woken(key)),
            Wake::CalledByMany => {
                self.visits_all = true;
                self.look();
            }
            Wake::TimedOut => {
                // One look around, then back to sleep.
                self.visits_all = true;
                self.empty_polls = EMPTY_POLLS_BEFORE_SLEEP;
                self.housekeep(self.clock.now());
            }
        }
    }
}
