//! The kernel's bridge and VXLAN device beside our AF_XDP ports, between two veth pairs.
//!
//! ```text
//!   generator's namespace          device's namespace
//!   sender ─► in0 ═══ in1 ─► bridge, VXLAN device, or the engine ─► out1 ═══ out0 ─► sink
//! ```
//!
//! What is found is the highest rate at which next to nothing is lost.

mod engine;
mod links;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use perf::pktgen::{
    frames::{FrameMix, FrameSet},
    search::{self, Goals, search},
    trial::{Bench, Plan, Trial},
};

use self::{engine::VethEngine, links::Links};
use super::{
    Setup,
    contenders::{Contender, Measured},
    options::CompareCase,
};
use crate::interrupt::Interrupt;

/// What may be lost: on a machine with two CPUs something is, now and then.
const LOSS_RATIO: f64 = 0.005;
/// How near good and bad rates have to be, as a part of the rate.
const PRECISION: f64 = 0.05;
/// The frame check sequence, which the generator counts and nobody else here does.
const FCS_BYTES: usize = 4;

/// A generator and a sink around a device.
struct Generator {
    // Its sockets are closed before the interfaces go.
    bench: Bench,
    links: Links,
    frames: Arc<FrameSet>,
    stream: u16,
}

impl Generator {
    fn new(
        name: &str,
        case: CompareCase,
        flows: u32,
        setup: &Setup,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let addressing = links::addressing(case).context("the case has no frames")?;
        let mix = FrameMix::of(setup.frame_bytes + FCS_BYTES);
        let frames = Arc::new(FrameSet::new(addressing, &mix, flows)?);
        let links = Links::new(name)?;
        let plan = Plan {
            tx: Some(links.end("in0", setup.other_cpu)?),
            rx: Some(links.end("out0", setup.other_cpu)?),
            is_busy: false,
            interrupted: interrupt.flag(),
        };
        Ok(Self { bench: Bench::start(&plan)?, links, frames, stream: 1 })
    }

    /// Packets a second that go through.
    fn throughput(&mut self, time: Duration) -> anyhow::Result<Option<Throughput>> {
        let goals = Goals { loss_ratios: vec![LOSS_RATIO], load_max: None, precision: PRECISION };
        let mut is_disturbed = false;
        let Self { bench, frames, stream, .. } = self;
        let found = search(&goals, |load| -> anyhow::Result<search::Measured> {
            *stream = stream.wrapping_add(1);
            let trial = Trial {
                frames: Arc::clone(frames),
                stream: *stream,
                packets_per_second: load,
                packets: None,
                duration: time,
            };
            let outcome = bench.run(&trial, |_, _| ())?;
            let (Some(sent), Some(received)) = (&outcome.sent, &outcome.received) else {
                anyhow::bail!("the generator did not report");
            };
            anyhow::ensure!(!outcome.is_interrupted, "interrupted before the search was over");
            is_disturbed |= sent.sent.stalls > 0 || received.lost_by_port > 0;
            let offered = sent.sent.packets_per_second().context("nothing could be sent")?;
            let arrived = received.account.counts().received;
            let lost = sent.sent.packets.saturating_sub(arrived);
            Ok(search::Measured {
                offered,
                loss_ratio: perf::figures::per(lost, sent.sent.packets),
            })
        })?;
        let throughput = found.first().and_then(|found| {
            let (packets_per_second, _) = found.throughput?;
            Some(Throughput { packets_per_second, is_disturbed })
        });
        Ok(throughput)
    }
}

struct Throughput {
    packets_per_second: f64,
    is_disturbed: bool,
}

/// Our engine over AF_XDP, or the kernel.
pub(super) struct Veth<'a> {
    pub(super) setup: &'a Setup,
    pub(super) flows: u32,
    pub(super) interrupt: &'a Interrupt,
    pub(super) is_ours: bool,
    generator: Option<Generator>,
}

impl<'a> Veth<'a> {
    pub(super) fn new(
        setup: &'a Setup,
        flows: u32,
        interrupt: &'a Interrupt,
        is_ours: bool,
    ) -> Self {
        Self { setup, flows, interrupt, is_ours, generator: None }
    }
}

impl Contender for Veth<'_> {
    fn name(&self) -> &'static str {
        if self.is_ours { super::OURS } else { "linux" }
    }

    fn prepare(&mut self, case: CompareCase) -> anyhow::Result<bool> {
        self.generator = None;
        if !case.is_veth() {
            return Ok(false);
        }
        let generator = Generator::new(self.name(), case, self.flows, self.setup, self.interrupt)?;
        if !self.is_ours {
            generator.links.bridge(case, self.setup.pipeline.cpu)?;
        }
        self.generator = Some(generator);
        Ok(true)
    }

    fn measure(&mut self, case: CompareCase, time: Duration) -> anyhow::Result<Option<Measured>> {
        let cpu = self.setup.pipeline.cpu;
        let generator = self.generator.as_mut().context("measured before it was prepared")?;
        // A busy worker would take the CPU from the kernel's turn.
        let engine = if self.is_ours {
            Some(VethEngine::start(&generator.links, case, self.flows, cpu)?)
        } else {
            None
        };
        let throughput = generator.throughput(time);
        if let Some(engine) = engine {
            engine.stop()?;
        }
        let cycles_per_second = self.setup.pipeline.cycles_per_second;
        Ok(throughput?.map(|found| Measured {
            cycles_per_packet: cycles_per_second / found.packets_per_second,
            is_disturbed: found.is_disturbed,
            ..Measured::default()
        }))
    }

    fn not_fair(&self, case: CompareCase) -> &'static str {
        match (self.is_ours, case) {
            (true, _) => {
                "Cycles between two packets at the highest rate with at most 0.5 % lost. AF_XDP in \
                 copy mode, which is all that veth has: the sender's CPU also runs our XDP program \
                 and the copy into packet memory. Everything else as above: connections, routes."
            }
            (false, CompareCase::VethVxlanEncap) => {
                "Cycles as in vrouter's row. A bridge with a VXLAN device, static entries, no \
                 connection tracking, no routing of inner packets; packets are steered to the same \
                 CPU by RPS. The sink's copy is on this CPU in both rows."
            }
            (false, _) => {
                "Cycles as in vrouter's row. A bridge with a static entry: no connection tracking, \
                 no routing, no netfilter; packets are steered to the same CPU by RPS. The sink's \
                 copy is on this CPU in both rows."
            }
        }
    }
}
