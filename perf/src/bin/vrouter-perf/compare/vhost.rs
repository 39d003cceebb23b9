//! Dataplanes between vhost-user ports, all driven by the same frontend: prepared frames that it
//! sends round and round.
//!
//! ```text
//!   frontend, one thread ══ rings ══► device on the measured CPU ══ rings ══► the same thread
//! ```

mod echo;
mod engine;

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use encap::MacAddress;
use perf::{
    figures::per,
    machine::Preemptions,
    peers::{
        PeerError,
        open_vswitch::{VhostForwarding, VhostSwitch},
        testpmd::{VhostTestpmd, VirtioTestpmd},
    },
    pktgen::prepared::{Course, Flow, Load, PreparedPort, RING_ENTRIES, Rings},
    traffic::{self, Way},
};
use vrouter::port::vhost_user::ring::RingFormat;

use self::{echo::Echo, engine::VhostEngine};
use super::{
    Setup,
    contenders::{Contender, Measured},
    files,
    options::CompareCase,
};

/// Before each window: every flow is known, and caches are as they stay.
const WARM_UP: Duration = Duration::from_millis(100);
/// Windows are cut into slices, whose median is the figure.
const SLICE: Duration = Duration::from_millis(5);
/// Above this part of lost frames, a round is not one of forwarding.
const LOSS_RATIO_MAX: f64 = 0.01;
/// How often connections are made established, and how often each of their frames comes.
const ESTABLISH_ATTEMPTS: u32 = 20;
const ESTABLISH_ROUNDS: u32 = 4;

/// Who forwards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Who {
    /// Our engine, or its bare port layer.
    Ours(RingFormat),
    /// Our bare port layer, driven by testpmd instead of our generator.
    OursBesideTestpmd,
    OpenVSwitch,
    Testpmd(RingFormat),
}

impl Who {
    pub(super) const ALL: [Self; 6] = [
        Self::Ours(RingFormat::Split),
        Self::Ours(RingFormat::Packed),
        Self::OursBesideTestpmd,
        Self::OpenVSwitch,
        Self::Testpmd(RingFormat::Split),
        Self::Testpmd(RingFormat::Packed),
    ];

    fn takes_part(self, case: CompareCase) -> bool {
        let is_macswap = case == CompareCase::VhostMacswap;
        case.is_vhost()
            && match self {
                Self::Ours(_) => true,
                Self::OursBesideTestpmd | Self::Testpmd(_) => is_macswap,
                Self::OpenVSwitch => !is_macswap,
            }
    }
}

/// One dataplane, and what it is while it is measured.
pub(super) struct Vhost<'a> {
    pub(super) setup: &'a Setup,
    pub(super) flows: u32,
    pub(super) who: Who,
    device: Option<Device>,
}

/// A peer that stays from round to round.
enum Device {
    Switch(VhostSwitch, Option<Box<Ends>>),
    Testpmd(VhostTestpmd, Box<PreparedPort>),
}

/// The frontends of a device with several ports.
struct Ends {
    from: PreparedPort,
    to: PreparedPort,
}

impl<'a> Vhost<'a> {
    pub(super) fn new(setup: &'a Setup, flows: u32, who: Who) -> Self {
        Self { setup, flows, who, device: None }
    }

    fn frames(&self, way: Way) -> Vec<Vec<u8>> {
        let flows = traffic::shuffled(self.flows).into_iter();
        flows.map(|flow| traffic::frame(way, 0, flow, self.setup.frame_bytes)).collect()
    }

    fn cpus(&self) -> (usize, usize) {
        (self.setup.pipeline.cpu, self.setup.other_cpu)
    }

    fn rings(&self) -> Rings {
        let format = match self.who {
            Who::Ours(format) | Who::Testpmd(format) => format,
            Who::OursBesideTestpmd | Who::OpenVSwitch => RingFormat::Split,
        };
        Rings { format, entries: RING_ENTRIES }
    }

    fn connect(&self, socket: &Path, frames: &[Vec<u8>]) -> anyhow::Result<PreparedPort> {
        Ok(PreparedPort::connect(socket, self.rings(), frames)?)
    }

    /// Sets Open vSwitch up for a case; it runs.
    fn set_switch_up(&self, switch: &mut VhostSwitch, case: CompareCase) -> anyhow::Result<Ends> {
        let how = match case {
            CompareCase::VhostConntrack => VhostForwarding::Conntrack,
            CompareCase::VhostConntrackVxlanEncap => VhostForwarding::ConntrackEncap,
            CompareCase::VhostVxlanEncap => VhostForwarding::Encap,
            _ => VhostForwarding::Decap,
        };
        let sockets = switch.forward(how)?;
        let frames = self.frames(way(case));
        let replies: Vec<Vec<u8>> = frames.iter().map(|frame| files::reply(frame)).collect();
        let answers = sockets.replies.as_ref() == Some(&sockets.to);
        let mut ends = Ends {
            from: self.connect(&sockets.from, &frames)?,
            to: self.connect(&sockets.to, if answers { &replies } else { &[] })?,
        };
        let mut separate = match &sockets.replies {
            Some(socket) if !answers => Some(self.connect(socket, &replies)?),
            _ => None,
        };
        if sockets.replies.is_some() {
            establish(switch, &mut ends, separate.as_mut())?;
        }
        Ok(ends)
    }

    fn measure_ours(&self, case: CompareCase, course: &Course) -> anyhow::Result<Option<Flow>> {
        let (cpu, _) = self.cpus();
        if case == CompareCase::VhostMacswap {
            let echo = Echo::start(cpu)?;
            let flow = self.connect(&echo.socket, &self.frames(way(case))).and_then(|mut port| {
                Load::new(&mut port, None).run(course).context("the echo takes no frames")
            });
            echo.stop()?;
            return flow;
        }
        let engine = VhostEngine::start(way(case), self.flows, cpu)?;
        let flow = self.load_engine(&engine.sockets, case, course);
        engine.stop()?;
        flow
    }

    fn load_engine(
        &self,
        [from, to]: &[PathBuf; 2],
        case: CompareCase,
        course: &Course,
    ) -> anyhow::Result<Option<Flow>> {
        let mut from = self.connect(from, &self.frames(way(case)))?;
        let mut to = self.connect(to, &[])?;
        // First packets are another matter: they come before the load.
        from.send_each(1)?;
        to.receive()?;
        Load::new(&mut from, Some(&mut to)).run(course).context("the engine takes no frames")
    }

    /// Our port layer, driven by testpmd.
    fn measure_beside_testpmd(&self, time: Duration) -> anyhow::Result<Option<Measured>> {
        let (cpu, other_cpu) = self.cpus();
        let echo = Echo::start(cpu)?;
        let measured = VirtioTestpmd::start(&echo.socket, false, other_cpu)
            .and_then(|mut testpmd| testpmd.measure(time));
        echo.stop()?;
        let (packets, cycles) = measured?;
        Ok(Some(Measured { cycles_per_packet: per(cycles, packets), ..Measured::default() }))
    }

    fn measured(flow: Option<Flow>, preemptions: u64) -> anyhow::Result<Option<Measured>> {
        let Some(flow) = flow else { return Ok(None) };
        let loss_ratio = flow.loss_ratio();
        if loss_ratio > LOSS_RATIO_MAX {
            bail!("{} of {} frames were lost", flow.sent.saturating_sub(flow.received), flow.sent);
        }
        Ok(Some(Measured {
            cycles_per_packet: flow.cycles_per_packet.median,
            is_disturbed: preemptions > 0,
            loss_ratio: Some(loss_ratio),
            starved_ratio: Some(flow.starved_ratio),
        }))
    }
}

impl Contender for Vhost<'_> {
    fn name(&self) -> &'static str {
        match self.who {
            Who::Ours(RingFormat::Split) => super::OURS,
            Who::Ours(RingFormat::Packed) => "vrouter-packed",
            Who::OursBesideTestpmd => "vrouter-testpmd-drives",
            Who::OpenVSwitch => "open-vswitch-dpdk",
            Who::Testpmd(RingFormat::Split) => VhostTestpmd::NAME,
            Who::Testpmd(RingFormat::Packed) => "testpmd-net_vhost-packed",
        }
    }

    fn prepare(&mut self, case: CompareCase) -> anyhow::Result<bool> {
        if !self.who.takes_part(case) {
            // Its huge pages are others' now.
            self.device = None;
            return Ok(false);
        }
        let (cpu, other_cpu) = self.cpus();
        match self.who {
            Who::OpenVSwitch => {
                let device = match self.device.take() {
                    Some(Device::Switch(switch, ends)) => {
                        // Its ports see the frontends go while it runs.
                        switch.resume();
                        drop(ends);
                        Ok(switch)
                    }
                    _ => VhostSwitch::start(cpu, other_cpu, &own_mac().to_string()),
                };
                let mut switch = device?;
                let ends = self.set_switch_up(&mut switch, case);
                switch.pause();
                switch.check()?;
                self.device = Some(Device::Switch(switch, Some(Box::new(ends?))));
            }
            Who::Testpmd(_) => {
                self.device = None;
                let testpmd = VhostTestpmd::start(self.name(), cpu, other_cpu)?;
                let port = self.connect(&testpmd.socket(), &self.frames(way(case)))?;
                self.device = Some(Device::Testpmd(testpmd, Box::new(port)));
            }
            Who::OursBesideTestpmd => VirtioTestpmd::find()?,
            Who::Ours(_) => {}
        }
        Ok(true)
    }

    fn measure(&mut self, case: CompareCase, time: Duration) -> anyhow::Result<Option<Measured>> {
        let course = Course { warm_up: WARM_UP, window: time, slice: SLICE };
        let generator = Preemptions::watch();
        match &mut self.device {
            None if self.who == Who::OursBesideTestpmd => self.measure_beside_testpmd(time),
            None => {
                let flow = self.measure_ours(case, &course)?;
                Self::measured(flow, generator.count())
            }
            Some(Device::Switch(switch, ends)) => {
                let Ends { from, to } = ends.as_deref_mut().context("it is not set up")?;
                switch.resume();
                let before = switch.preemptions();
                let flow = Load::new(from, Some(to)).run(&course);
                let preemptions = switch.preemptions() - before;
                switch.pause();
                switch.check()?;
                Self::measured(flow.context("it takes no frames")?, preemptions + generator.count())
            }
            Some(Device::Testpmd(testpmd, port)) => {
                testpmd.resume()?;
                let before = testpmd.preemptions();
                let flow = Load::new(port, None).run(&course);
                let preemptions = testpmd.preemptions() - before;
                testpmd.pause()?;
                Self::measured(flow.context("it takes no frames")?, preemptions + generator.count())
            }
        }
    }

    fn not_fair(&self, case: CompareCase) -> &'static str {
        match (self.who, case) {
            (Who::Ours(RingFormat::Split), CompareCase::VhostMacswap) => {
                "A loop of receive, exchange of MAC addresses, send, in bursts of 64, over split \
                 rings; no pipeline."
            }
            (Who::Ours(RingFormat::Packed), CompareCase::VhostMacswap) => {
                "As vrouter's, over packed rings."
            }
            (Who::Ours(format), _) => match format {
                RingFormat::Split => {
                    "Split rings. Every packet's connection is looked up and its state kept, its \
                     source checked, its TTL and MAC addresses rewritten; every pod has a policy of \
                     16 rules in both directions. Connections have seen no reply, which costs a \
                     packet the same."
                }
                RingFormat::Packed => "As vrouter's, over packed rings.",
            },
            (Who::OursBesideTestpmd, _) => {
                "vrouter's macswap over split rings, but driven by DPDK's testpmd with virtio-user, \
                 which sends 768 frames round and round: an independent check of the generator. If \
                 testpmd takes longer than the engine, this is testpmd's figure."
            }
            (Who::OpenVSwitch, CompareCase::VhostConntrack) => {
                "Looks the connection up and keeps its state, as we do, from port to port; no TTL, \
                 no MAC address, no policy. Established by replies before. Split rings, as it is \
                 configured by default."
            }
            (Who::OpenVSwitch, CompareCase::VhostConntrackVxlanEncap) => {
                "Looks the connection up and keeps its state, as we do; no TTL, no policy. \
                 Established by replies before. Split rings, as it is configured by default."
            }
            (Who::OpenVSwitch, _) => {
                "Does less: one OpenFlow rule, no connection, no TTL. Split rings, as it is \
                 configured by default."
            }
            (Who::Testpmd(RingFormat::Split), _) => {
                "DPDK's vhost library in testpmd's macswap, in bursts of 32, over split rings."
            }
            (Who::Testpmd(RingFormat::Packed), _) => "As testpmd's, over packed rings.",
        }
    }
}

/// Which frames come in.
fn way(case: CompareCase) -> Way {
    match case {
        CompareCase::VhostVxlanDecap => Way::Decap,
        CompareCase::VhostConntrackVxlanEncap | CompareCase::VhostVxlanEncap => Way::Encap,
        _ => Way::PodToPod,
    }
}

/// Where frames in the tunnel are sent to.
fn own_mac() -> MacAddress {
    let frame = traffic::frame(Way::Decap, 0, 0, 64);
    frame.first_chunk().map_or(MacAddress::new([0; 6]), |mac| MacAddress::new(*mac))
}

/// Sends every connection's frame and its reply, until the switch takes all of them for
/// established.
fn establish(
    switch: &VhostSwitch,
    ends: &mut Ends,
    mut separate: Option<&mut PreparedPort>,
) -> anyhow::Result<()> {
    for _ in 0..ESTABLISH_ATTEMPTS {
        ends.from.send_each(ESTABLISH_ROUNDS)?;
        ends.to.receive()?;
        separate.as_deref_mut().unwrap_or(&mut ends.to).send_each(ESTABLISH_ROUNDS)?;
        let before = switch.tracked()?;
        ends.from.send_each(ESTABLISH_ROUNDS)?;
        ends.to.receive()?;
        // Counters of the datapath's flows are told when it has done a burst.
        thread::sleep(SLICE);
        let after = switch.tracked()?;
        if after.new == before.new && after.established > before.established {
            return Ok(());
        }
    }
    Err(PeerError::Waited { program: "open-vswitch-dpdk", what: "established connections" }.into())
}
