//! Tables in processes of their own.

use perf::peers::{
    PeerError,
    rte_hash::{self, Round, RteHash},
    sketch::Sketch,
};

use super::{CHURN_PER_SECOND, CHURN_TIME, Contender, LOOKUPS, Measured, PAIRS, Setup};
use crate::cli::Case;

/// A peer's name, and itself unless there is a reason why not.
type Peer = (&'static str, Result<Box<dyn Contender>, PeerError>);

/// Every one that is asked for and takes part in the case.
pub(super) fn contenders(setup: &Setup) -> Vec<Peer> {
    let mut peers = Vec::new();
    if setup.wants(RteHash::NAME) {
        let table = RteHash::start(&rte_hash::Setup {
            cpus: setup.cpus.to_vec(),
            churn_cpu: setup.churn_cpu,
            connections: setup.connections(),
            load_percent: setup.load_percent(),
            lookups: LOOKUPS,
            pairs: PAIRS,
        });
        peers.push((RteHash::NAME, table.map(|table| Box::new(table) as _)));
    }
    // All it does is look up what is there.
    if setup.case == Case::LookupHit && setup.wants(Sketch::NAME) {
        let sketch = Sketch::new(&setup.options.sketch, setup.flows);
        peers.push((Sketch::NAME, sketch.map(|sketch| Box::new(sketch) as _)));
    }
    peers
}

impl Contender for RteHash {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn bytes_per_direction(&self) -> f64 {
        self.bytes_per_direction
    }

    fn is_on_huge_pages(&self) -> Option<bool> {
        Some(self.is_on_huge_pages)
    }

    fn measure(&mut self, case: Case, _round: u32) -> anyhow::Result<Measured> {
        let round = match case {
            Case::LookupHit => Round::Hit,
            Case::LookupMiss => Round::Miss,
            Case::InsertPair => Round::Insert,
            Case::LookupUnderChurn => {
                Round::Churn { time: CHURN_TIME, per_second: CHURN_PER_SECOND }
            }
        };
        Ok(Self::measure(self, round)?.into())
    }
}

impl Contender for Sketch {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn bytes_per_direction(&self) -> f64 {
        self.bytes_per_direction()
    }

    fn is_on_huge_pages(&self) -> Option<bool> {
        Some(self.is_on_huge_pages())
    }

    fn makes_passes(&self) -> bool {
        true
    }

    fn measure(&mut self, _case: Case, _round: u32) -> anyhow::Result<Measured> {
        Ok(Self::measure(self)?.into())
    }
}

impl From<rte_hash::Measured> for Measured {
    fn from(measured: rte_hash::Measured) -> Self {
        Self {
            nanoseconds: measured.nanoseconds,
            is_preempted: measured.is_preempted,
            churn_per_second: measured.churn_per_second,
        }
    }
}
