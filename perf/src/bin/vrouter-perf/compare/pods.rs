//! Pods with ordinary sockets: TCP and round trips between two of them, beside the kernel's bridge.
//!
//! ```text
//!   pod a                    node                     pod b
//!   client ─► eth0 ═══ engine, or veth and bridge ═══ eth0 ─► server
//!                  (across nodes: two, and VXLAN)
//! ```
//!
//! Clients and servers run on one CPU in all rows that are held against each other; the kernel does
//! all of its work there, too. Our engines have the other CPU, which is said in their rows.

mod echo;
mod engine;
mod idle;
mod objects;
pub(super) mod row;
mod scene;

use std::{fs, net::IpAddr, time::Duration};

use anyhow::{Context, bail};
use perf::peers::iperf3::Iperf3;

use self::{
    engine::PodEngines,
    row::{PodRow, Taken},
    scene::{Dataplane, Scene},
};
use super::{
    Missing, Setup,
    options::{CompareCase, CompareOptions},
};
use crate::interrupt::Interrupt;

/// How long bulk TCP runs for each second that other cases take: its window has to open first.
const BULK_SECONDS: f64 = 4.0;

/// Traffic between two pods.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct PodTraffic {
    /// The pods are on two nodes.
    pub(super) is_across: bool,
    pub(super) what: What,
}

/// Who decides how much TCP has under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Congestion {
    /// Linux's own default: as much as goes through without a loss, all at once.
    Cubic,
    /// At the rate that it has measured, by a timer: one for each packet of 64 KiB.
    Bbr,
}

impl Congestion {
    /// The kernel's name for it.
    fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
        }
    }

    /// Whether the kernel has it.
    fn is_there(self) -> bool {
        let known = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
        known.is_ok_and(|known| known.split_whitespace().any(|it| it == self.name()))
    }
}

/// What clients do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum What {
    /// Bulk TCP over so many connections.
    Bulk { streams: u32, congestion: Congestion },
    /// A byte to and fro, again and again.
    RoundTrips,
    /// They are many, and silent.
    Nothing,
}

/// One dataplane's pods, and what was measured between them.
struct Entrant {
    dataplane: Dataplane,
    scene: Scene,
    taken: Vec<Taken>,
}

/// Measures a case in all rounds. Whoever fails is out of it, and the others go on.
pub(super) fn measure(
    case: CompareCase,
    setup: &Setup,
    options: &CompareOptions,
    interrupt: &Interrupt,
    missing: &mut Missing,
) -> anyhow::Result<Vec<PodRow>> {
    let Some(traffic) = case.pod_traffic() else { return Ok(Vec::new()) };
    if traffic.what == What::Nothing {
        let time = Duration::from_secs_f64(options.seconds);
        return Ok(idle::measure(case.name(), setup, options.rounds, time).unwrap_or_else(
            |error| {
                missing.failed.push(format!("{}: {error:#}", case.name()));
                Vec::new()
            },
        ));
    }
    if let What::Bulk { congestion, .. } = traffic.what
        && !congestion.is_there()
    {
        let name = congestion.name();
        missing.skipped.push(format!("{}: the kernel has no {name}", case.name()));
        return Ok(Vec::new());
    }
    let mut fail = |dataplane: Dataplane, error: anyhow::Error| {
        missing.failed.push(format!("{}, {}: {error:#}", dataplane.name(), case.name()));
    };
    let mut entrants = Vec::new();
    for dataplane in Dataplane::all(traffic) {
        interrupt.check()?;
        match Scene::new(dataplane, traffic.is_across) {
            Ok(scene) => entrants.push(Entrant { dataplane, scene, taken: Vec::new() }),
            Err(error) => fail(dataplane, error),
        }
    }
    for _ in 0..options.rounds.div_ceil(2) {
        let mut going_on = Vec::new();
        for mut entrant in entrants {
            interrupt.check()?;
            match entrant.measure(traffic, setup, options.seconds) {
                Ok(taken) => {
                    entrant.taken.push(taken);
                    going_on.push(entrant);
                }
                Err(error) => fail(entrant.dataplane, error),
            }
        }
        entrants = going_on;
    }
    let ours = entrants.iter().find(|entrant| entrant.dataplane == Dataplane::OURS);
    let ours = ours.map(|entrant| entrant.taken.clone()).unwrap_or_default();
    Ok(entrants
        .iter()
        .filter_map(|it| PodRow::new(case.name(), traffic, it.dataplane, &it.taken, &ours))
        .collect())
}

impl Entrant {
    /// One round: the engines, if there are any, are there for as long as it takes.
    fn measure(&self, traffic: PodTraffic, setup: &Setup, seconds: f64) -> anyhow::Result<Taken> {
        let Self { dataplane, scene, .. } = self;
        let engines = if dataplane.is_ours() {
            Some(PodEngines::start(scene, setup.pipeline.cpu)?)
        } else {
            None
        };
        let taken = self.run(traffic, setup, seconds);
        if let Some(engines) = engines {
            engines.stop()?;
        }
        taken.context("between the pods")
    }

    fn run(&self, traffic: PodTraffic, setup: &Setup, seconds: f64) -> anyhow::Result<Taken> {
        let (mut cpus, cpu) = (vec![setup.other_cpu], setup.pipeline.cpu);
        if self.dataplane.has_both_cpus() {
            cpus.push(cpu);
        }
        let [from, to] = &self.scene.pods;
        let address = IpAddr::V4(self.scene.address(1));
        match traffic.what {
            What::Bulk { streams, congestion } => {
                self.scene.choose_congestion(congestion.name())?;
                let mut server = Iperf3::serve(to, address, &cpus)?;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a few seconds"
                )]
                let seconds = (seconds * BULK_SECONDS).ceil() as u32;
                Ok(Taken::Bulk(server.send(from, streams, seconds)?))
            }
            What::RoundTrips => {
                let time = Duration::from_secs_f64(seconds);
                Ok(Taken::RoundTrips(echo::run([from, to], address, &cpus, time)?))
            }
            What::Nothing => bail!("nothing is to be measured between them"),
        }
    }
}
