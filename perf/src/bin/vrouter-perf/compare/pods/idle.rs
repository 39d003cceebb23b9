//! What TAP ports cost that nobody uses: time of the worker, and memory.

use std::{fmt::Write as _, fs, io::Write as _, process::Stdio, thread, time::Duration};

use anyhow::{Context, ensure};
use control_api::engine::{self as api, object::Kind};
use encap::MacAddress;
use perf::{
    figures::{Figures, per},
    peers::Namespace,
    traffic,
};
use vrouter::{engine::Engine, idle::IdleMode, pipeline::Pipeline, stats::ActivityTotals};

use super::{engine, objects, row::PodRow};
use crate::compare::{self, Setup};

/// As many as a node may have pods, and more.
const PORTS: u16 = 250;
/// The namespace and its devices are made once for all rounds.
const PURPOSE: &str = "idle";
/// After its ports were opened, a worker looks at each for a moment.
const SETTLE: Duration = Duration::from_millis(100);
/// Page size, in KiB, in which the kernel counts resident memory.
const PAGE_KIB: f64 = 4.0;

/// What one engine cost.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// Of a worker that never sleeps: cycles of the time-stamp counter.
    cycles_per_poll: f64,
    /// Of one that does: its time on a CPU.
    cpu_percent: f64,
    /// Of the process, with the ports open.
    resident_kib: f64,
}

/// Measures engines without ports and with many, round by round.
pub(super) fn measure(
    case: &'static str,
    setup: &Setup,
    rounds: u32,
    time: Duration,
) -> anyhow::Result<Vec<PodRow>> {
    let namespace = Namespace::new(PURPOSE)?;
    make_devices(&namespace)?;
    let mut costs = Vec::new();
    for _ in 0..rounds {
        let without = cost(&namespace, 0, setup, time)?;
        costs.push([without, cost(&namespace, PORTS, setup, time)?]);
    }
    let memory = |[without, with]: &[Cost; 2]| {
        [(with.resident_kib - without.resident_kib).max(0.0) / f64::from(PORTS); 2]
    };
    let both = |read: fn(&Cost) -> f64| move |pair: &[Cost; 2]| pair.each_ref().map(read);
    let mut rows = Vec::new();
    rows.extend(pair(case, "cycles/poll", BUSY, &costs, both(|cost| cost.cycles_per_poll)));
    rows.extend(pair(case, "% of a CPU", ADAPTIVE, &costs, both(|cost| cost.cpu_percent)));
    rows.extend(pair(case, "KiB/port", MEMORY, &costs, memory).pop());
    Ok(rows)
}

const BUSY: &str = "A worker that never sleeps and receives nothing: from one poll to the next.";
const ADAPTIVE: &str = "A worker that sleeps when there is nothing to do, and wakes up every 10 ms \
                        for housekeeping: its time on a CPU.";
const MEMORY: &str = "Memory of the process that 250 open ports add, a port; without the kernel's, \
                      and without packet memory, which is there before.";

/// The rows without ports and with them.
fn pair(
    case: &'static str,
    unit: &'static str,
    what: &'static str,
    costs: &[[Cost; 2]],
    read: impl Fn(&[Cost; 2]) -> [f64; 2],
) -> Vec<PodRow> {
    let taken: Vec<[f64; 2]> = costs.iter().map(read).collect();
    let names = ["no-port", "250-idle-taps"];
    let rows = names.into_iter().enumerate().filter_map(|(index, dataplane)| {
        let of = |index: usize| taken.iter().filter_map(move |pair| pair.get(index).copied());
        let figures: Vec<f64> = of(index).collect();
        // What the ports make of it.
        let ratios: Vec<f64> = of(1).zip(of(index)).map(|(with, it)| with / it).collect();
        Some(PodRow {
            case,
            dataplane,
            unit,
            figures: Figures::of(&figures)?,
            p99: None,
            vrouter_ratio: Figures::of(&ratios)?,
            goal: None,
            rounds: figures.len(),
            retransmits: 0,
            not_fair: what,
        })
    });
    rows.collect()
}

fn make_devices(at: &Namespace) -> anyhow::Result<()> {
    let mut commands = String::new();
    for port in 0..PORTS {
        let name = device(port);
        let _ = writeln!(commands, "tuntap add dev {name} mode tap multi_queue vnet_hdr");
        let _ = writeln!(commands, "link set {name} addrgenmode none");
        let _ = writeln!(commands, "link set {name} up");
    }
    let mut command = at.command("ip");
    let mut child = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("no way to ip")?;
    input.write_all(commands.as_bytes())?;
    drop(input);
    ensure!(child.wait()?.success(), "{PORTS} TAP devices cannot be made");
    Ok(())
}

fn device(port: u16) -> String {
    format!("tap{port}")
}

fn cost(at: &Namespace, ports: u16, setup: &Setup, time: Duration) -> anyhow::Result<Cost> {
    let cpu = setup.pipeline.cpu;
    let mut cost = Cost::default();
    for idle in [IdleMode::Busy, IdleMode::Adaptive] {
        let mut engine = engine::start(cpu, idle)?;
        compare::engine::apply(&mut engine, idle_objects(at, ports), traffic::adjacency)?;
        thread::sleep(SETTLE);
        let (before, ran_before) = (activity(&engine)?, worker_nanoseconds());
        thread::sleep(time);
        let (after, ran) = (activity(&engine)?, worker_nanoseconds());
        let seconds = time.as_secs_f64();
        if idle == IdleMode::Busy {
            let polls = after.polls.saturating_sub(before.polls);
            let cycles = setup.pipeline.cycles_per_second * seconds;
            cost.cycles_per_poll = cycles / per(polls, 1);
            cost.resident_kib = resident_kib()?;
        } else {
            let ran = Duration::from_nanos(ran.saturating_sub(ran_before));
            cost.cpu_percent = 100.0 * ran.as_secs_f64() / seconds;
        }
        compare::engine::stop(engine)?;
    }
    Ok(cost)
}

fn activity(engine: &Engine<Pipeline>) -> anyhow::Result<ActivityTotals> {
    let stats = engine.stats();
    let worker = stats.workers().first().context("the engine has no worker")?;
    Ok(worker.activity())
}

/// Time on a CPU of this process's workers so far.
fn worker_nanoseconds() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    tasks
        .filter(|task| read(task.path().join("comm")).starts_with("worker-"))
        .filter_map(|task| {
            let stat = read(task.path().join("schedstat"));
            stat.split_whitespace().next()?.parse::<u64>().ok()
        })
        .sum()
}

fn resident_kib() -> anyhow::Result<f64> {
    let pages = fs::read_to_string("/proc/self/statm")?;
    let resident = pages.split_whitespace().nth(1).context("statm has no second number")?;
    Ok(resident.parse::<f64>()? * PAGE_KIB)
}

fn idle_objects(at: &Namespace, ports: u16) -> Vec<api::Object> {
    let ports = (0..ports).map(|port| {
        let [high, low] = (port + 512).to_be_bytes();
        let address = std::net::Ipv4Addr::new(10, 244, high, low);
        Kind::Port(api::Port {
            name: format!("default/idle{port}"),
            role: api::port::Role::Guest.into(),
            addresses: vec![address.octets().to_vec()],
            mac: MacAddress::from_ip(address.into()).octets().to_vec(),
            backend: Some(api::port::Backend::Tap(api::TapBackend {
                interface: device(port),
                netns_path: format!("/run/netns/{}", at.name()),
                ..api::TapBackend::default()
            })),
            ..api::Port::default()
        })
    });
    let ports = ports.map(|kind| api::Object { kind: Some(kind) });
    objects::node(1, "").into_iter().chain(ports).collect()
}
