//! Tables in this process.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use flowtable::{CreateTableError, FlowKey};
use perf::{
    figures::Figures,
    flow_tables::{ALL, Access, FlowMap, MakeFlowMap, key},
    machine::{Preemptions, move_to},
};

use super::{CHURN_PAIRS, CHURN_PER_SECOND, CHURN_TIME, Contender, Measured, PAIRS, Setup};
use crate::{allocations::heap_bytes, cli::Case};

/// A table, filled, and its users.
struct Filled {
    map: Box<dyn FlowMap>,
    access: Box<dyn Access>,
    /// The other thread's, while it does not run.
    churner: Option<Box<dyn Access>>,
    churn_cpu: usize,
    bytes_per_direction: f64,
    connections: u32,
    keys: Arc<[FlowKey]>,
}

/// Every table that is asked for.
pub(super) fn contenders(setup: &Setup) -> anyhow::Result<Vec<Box<dyn Contender>>> {
    let keys: Arc<[FlowKey]> = setup.keys().into();
    let wanted = ALL.iter().filter(|(name, _)| setup.wants(name));
    wanted
        .map(|(name, make)| {
            let filled = Filled::new(*make, setup, &keys);
            filled
                .map(|it| Box::new(it) as _)
                .with_context(|| format!("cannot make a table of {name}"))
        })
        .collect()
}

impl Contender for Filled {
    fn name(&self) -> &'static str {
        self.map.name()
    }

    fn bytes_per_direction(&self) -> f64 {
        self.bytes_per_direction
    }

    fn is_on_huge_pages(&self) -> Option<bool> {
        self.map.is_on_huge_pages()
    }

    fn measure(&mut self, case: Case, round: u32) -> anyhow::Result<Measured> {
        let preemptions = Preemptions::watch();
        let (nanoseconds, churn_per_second) = match case {
            Case::LookupHit => (self.look_up(self.keys.len())?, None),
            Case::LookupMiss => (self.look_up(0)?, None),
            Case::InsertPair => (self.insert(round), None),
            Case::LookupUnderChurn => self.look_up_under_churn()?,
        };
        Ok(Measured { nanoseconds, is_preempted: preemptions.count() > 0, churn_per_second })
    }
}

impl Filled {
    fn new(
        make: MakeFlowMap,
        setup: &Setup,
        keys: &Arc<[FlowKey]>,
    ) -> Result<Self, CreateTableError> {
        let connections = setup.connections();
        let before = heap_bytes();
        let map = make(setup.flows, setup.load_percent())?;
        let mut access = map.access();
        for first in (0..connections).step_by(4096) {
            let keys: Vec<FlowKey> =
                (first..connections.min(first.saturating_add(4096))).map(key).collect();
            access.insert_pairs(&keys);
        }
        let bytes = map.bytes_outside_heap() + heap_bytes().saturating_sub(before);
        Ok(Self {
            churner: Some(map.access()),
            churn_cpu: setup.churn_cpu,
            bytes_per_direction: per(bytes, connections as usize * 2),
            map,
            access,
            connections,
            keys: Arc::clone(keys),
        })
    }

    /// Nanoseconds a lookup.
    fn look_up(&mut self, expected: usize) -> anyhow::Result<f64> {
        let keys = &self.keys;
        let start = Instant::now();
        let hits = black_box(self.access.look_up(black_box(keys)));
        let took = start.elapsed();
        if hits != expected {
            bail!("{} found {hits} of {} keys, not {expected}", self.map.name(), keys.len());
        }
        Ok(nanoseconds(took, keys.len()))
    }

    /// Nanoseconds a connection. They are removed again, apart from the time.
    fn insert(&mut self, round: u32) -> f64 {
        let first = self.connections.wrapping_add(round.wrapping_mul(PAIRS));
        let keys: Vec<FlowKey> = (0..PAIRS).map(|index| key(first.wrapping_add(index))).collect();
        let start = Instant::now();
        self.access.insert_pairs(black_box(&keys));
        let took = start.elapsed();
        self.access.remove_pairs(&keys);
        nanoseconds(took, keys.len())
    }

    /// Nanoseconds a lookup, over [`CHURN_TIME`] at least, and connections a second meanwhile.
    fn look_up_under_churn(&mut self) -> anyhow::Result<(f64, Option<f64>)> {
        let is_over = Arc::new(AtomicBool::new(false));
        let access = self.churner.take().unwrap_or_else(|| self.map.access());
        let (first, cpu) = (self.connections, self.churn_cpu);
        let churn = Churn { access, first, cpu, is_over: Arc::clone(&is_over) };
        let start = Instant::now();
        let thread = thread::spawn(move || churn.run());
        let mut runs = Vec::new();
        let result = loop {
            match self.look_up(self.keys.len()) {
                Ok(took) => runs.push(took),
                Err(error) => break Err(error),
            }
            if start.elapsed() >= CHURN_TIME {
                break Ok(());
            }
        };
        is_over.store(true, Relaxed);
        let (access, pairs) =
            thread.join().map_err(|_| anyhow::anyhow!("the churning thread failed"))?;
        self.churner = Some(access);
        let per_second = f64::from(pairs) / start.elapsed().as_secs_f64();
        result?;
        Ok((Figures::of(&runs).map_or(0.0, |figures| figures.median), Some(per_second)))
    }
}

/// The other thread of a case.
struct Churn {
    access: Box<dyn Access>,
    first: u32,
    cpu: usize,
    is_over: Arc<AtomicBool>,
}

impl Churn {
    /// Inserts and removes at its rate until it is over; tells how many connections.
    fn run(mut self) -> (Box<dyn Access>, u32) {
        // Else it would share the CPU of the thread that started it, if that one is pinned.
        move_to(self.cpu);
        let period = Duration::from_secs(1) * CHURN_PAIRS / CHURN_PER_SECOND;
        let mut due = Instant::now();
        let mut pairs = 0_u32;
        while !self.is_over.load(Relaxed) {
            let first = self.first.wrapping_add(pairs);
            let keys: Vec<FlowKey> =
                (0..CHURN_PAIRS).map(|index| key(first.wrapping_add(index))).collect();
            self.access.insert_pairs(&keys);
            self.access.remove_pairs(&keys);
            pairs = pairs.wrapping_add(CHURN_PAIRS);
            due += period;
            while Instant::now() < due && !self.is_over.load(Relaxed) {
                std::hint::spin_loop();
            }
        }
        (self.access, pairs)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn per(total: usize, count: usize) -> f64 {
    total as f64 / count.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn nanoseconds(took: Duration, count: usize) -> f64 {
    took.as_secs_f64() * 1e9 / count as f64
}
