//! Dataplanes that are measured in turns.

use std::time::Duration;

use perf::{
    figures::per,
    peers::{PeerError, Window, open_vswitch::OpenVSwitch, testpmd::Testpmd},
};

use super::{Setup, files::Files, options::CompareCase};
use crate::pipeline::{self, options::PipelineOptions};

/// What one round gave.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    pub(super) cycles_per_packet: f64,
    pub(super) is_disturbed: bool,
    /// The part of packets that were lost, where it is known.
    pub(super) loss_ratio: Option<f64>,
    /// The part of a generator's polls that found the dataplane with nothing to do, or without a
    /// buffer to send into; where there is a generator.
    pub(super) starved_ratio: Option<f64>,
}

/// A dataplane that takes part in a case.
pub(super) trait Contender {
    fn name(&self) -> &'static str;

    /// Gets ready for the case; whether it takes part in it.
    fn prepare(&mut self, case: CompareCase) -> anyhow::Result<bool>;

    /// Forwards for a while, alone on the CPU, and is still before and after. `None` if there was
    /// nothing to tell.
    fn measure(&mut self, case: CompareCase, time: Duration) -> anyhow::Result<Option<Measured>>;

    /// What is not alike between its row and ours.
    fn not_fair(&self, case: CompareCase) -> &'static str;
}

/// A peer's name, and itself unless there is a reason why not.
type Peer<'a> = (&'static str, Result<Box<dyn Contender + 'a>, PeerError>);

/// All but ours, started.
pub(super) fn peers<'a>(setup: &Setup, files: &'a Files) -> Vec<Peer<'a>> {
    let (cpu, other_cpu) = (setup.pipeline.cpu, setup.other_cpu);
    let switch = OpenVSwitch::start(cpu, other_cpu);
    let switch = switch.map(|switch| Box::new(Switch { switch, files }) as _);
    let frames = &files.of(CompareCase::Forward).frames;
    let testpmd = Testpmd::start(frames, cpu, other_cpu);
    vec![
        (OpenVSwitch::NAME, switch),
        (Testpmd::NAME, testpmd.map(|testpmd| Box::new(testpmd) as _)),
    ]
}

/// Our engine: a new one each round.
pub(super) struct Ours<'a> {
    pub(super) setup: &'a Setup,
    pub(super) flows: u32,
}

impl Contender for Ours<'_> {
    fn name(&self) -> &'static str {
        super::OURS
    }

    fn prepare(&mut self, case: CompareCase) -> anyhow::Result<bool> {
        Ok(case.is_memory())
    }

    fn measure(&mut self, case: CompareCase, time: Duration) -> anyhow::Result<Option<Measured>> {
        let options = PipelineOptions::one_window(self.setup.frame_bytes, time.as_secs_f64());
        let row = pipeline::measure_case(case.ours(), self.flows, &options, &self.setup.pipeline)?;
        Ok(Some(Measured {
            cycles_per_packet: row.cycles_per_packet.median,
            is_disturbed: row.is_disturbed(),
            ..Measured::default()
        }))
    }

    fn not_fair(&self, _case: CompareCase) -> &'static str {
        "Bursts of 64 from a file in memory, each frame copied once, to a sink that frees it. \
         Every packet's connection is looked up and its state kept, its source checked, its TTL \
         and MAC addresses rewritten. Connections have seen no reply, which costs a packet the \
         same. The figure holds the whole worker: poll, counters, clock."
    }
}

/// Open vSwitch: one for all cases.
struct Switch<'a> {
    switch: OpenVSwitch,
    files: &'a Files,
}

impl Contender for Switch<'_> {
    fn name(&self) -> &'static str {
        OpenVSwitch::NAME
    }

    fn prepare(&mut self, case: CompareCase) -> anyhow::Result<bool> {
        if case.is_memory() {
            self.switch.forward(case.forwarding(), self.files.of(case))?;
        }
        Ok(case.is_memory())
    }

    fn measure(&mut self, _case: CompareCase, time: Duration) -> anyhow::Result<Option<Measured>> {
        Ok(Some(self.switch.measure(time)?.into()))
    }

    fn not_fair(&self, case: CompareCase) -> &'static str {
        match case {
            CompareCase::Forward => {
                "Does less: one OpenFlow rule from port to port, no connection, no TTL, no MAC \
                 address. Bursts of 32 from DPDK's net_pcap, each frame copied once, to net_null; \
                 as it is configured by default."
            }
            CompareCase::VxlanEncap => {
                "Does less: one OpenFlow rule from port to tunnel, no connection, no TTL. Bursts \
                 of 32 from DPDK's net_pcap, each frame copied once, to net_null; as it is \
                 configured by default."
            }
            CompareCase::Conntrack => {
                "Looks the connection up and keeps its state, as we do; no TTL, no MAC address. \
                 Established by replies before. Bursts of 32 from DPDK's net_pcap, each \
                 frame copied once, to net_null; as it is configured by default."
            }
            CompareCase::ConntrackVxlanEncap => {
                "Looks the connection up and keeps its state, as we do; no TTL. Established by \
                 replies before. Bursts of 32 from DPDK's net_pcap, each frame copied \
                 once, to net_null; as it is configured by default."
            }
            _ => "Takes no part.",
        }
    }
}

impl Contender for Testpmd {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn prepare(&mut self, case: CompareCase) -> anyhow::Result<bool> {
        Ok(case == CompareCase::Forward)
    }

    fn measure(&mut self, _case: CompareCase, time: Duration) -> anyhow::Result<Option<Measured>> {
        Ok(Some(Self::measure(self, time)?.into()))
    }

    fn not_fair(&self, _case: CompareCase) -> &'static str {
        "The floor: swaps two MAC addresses and looks nothing up. What is left is DPDK's \
         net_pcap, which copies each frame once, and net_null, in bursts of 32."
    }
}

impl From<Window> for Measured {
    fn from(window: Window) -> Self {
        Self {
            cycles_per_packet: per(window.cycles, window.packets),
            is_disturbed: window.preemptions > 0,
            ..Self::default()
        }
    }
}
