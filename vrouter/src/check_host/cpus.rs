//! The CPUs that workers run on.

use std::collections::BTreeSet;

use super::{
    Finding, HostQuestion,
    files::{Files, cpu_list, cpu_text},
};
use crate::topology::Topology;

pub(super) fn findings(
    files: &Files,
    topology: &Topology,
    question: &HostQuestion,
) -> Vec<Finding> {
    let workers: BTreeSet<usize> = question.worker_cpus.iter().copied().collect();
    let mut findings = vec![pinning(topology, &workers)];
    if !workers.is_empty() {
        findings.push(isolation(files, &workers));
        findings.push(siblings(topology, &workers));
        findings.push(governor(files, &workers));
        findings.extend(interrupts(files, &workers));
        findings.extend(numa(files, topology, &workers, question.uplink.as_deref()));
    }
    findings
}

fn pinning(topology: &Topology, workers: &BTreeSet<usize>) -> Finding {
    const REASON: &str = "a worker that moves loses its caches, and one that shares its CPU waits";
    let there: BTreeSet<usize> = topology.cpus().collect();
    let missing: BTreeSet<usize> = workers.difference(&there).copied().collect();
    if workers.is_empty() {
        let found = format!("workers are not pinned; this machine has cpus {}", cpu_text(&there));
        let change = "set the workers' cpus in the section [engine]";
        return Finding::advice("worker cpus", found, REASON, change);
    }
    if missing.is_empty() {
        return Finding::good("worker cpus", format!("cpus {}", cpu_text(workers)), REASON);
    }
    let found = format!("there is no cpu {} that may be used", cpu_text(&missing));
    let change = format!("choose from {}", cpu_text(&there));
    Finding::problem("worker cpus", found, REASON, change)
}

fn isolation(files: &Files, workers: &BTreeSet<usize>) -> Finding {
    const REASON: &str = "what the scheduler puts on a worker's cpu delays every packet";
    let isolated = files.cpus("sys/devices/system/cpu/isolated").unwrap_or_default();
    let command_line = files.text("proc/cmdline").unwrap_or_default();
    let tickless = command_line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("nohz_full="))
        .map(cpu_list)
        .unwrap_or_default();
    let exposed: BTreeSet<usize> = workers.difference(&isolated).copied().collect();
    let ticking: BTreeSet<usize> = workers.difference(&tickless).copied().collect();
    let list = cpu_text(workers);
    if !exposed.is_empty() {
        let found =
            format!("isolated: {}; not isolated: {}", cpu_text(&isolated), cpu_text(&exposed));
        let change = format!(
            "add isolcpus=managed_irq,domain,{list} nohz_full={list} rcu_nocbs={list} to the \
             kernel's command line"
        );
        return Finding::advice("isolated cpus", found, REASON, change);
    }
    if ticking.is_empty() {
        return Finding::good("isolated cpus", format!("cpus {list} are isolated"), REASON);
    }
    let found = format!("cpus {} are isolated, but have a timer tick", cpu_text(&ticking));
    let change = format!("add nohz_full={list} rcu_nocbs={list} to the kernel's command line");
    Finding::advice("isolated cpus", found, REASON, change)
}

fn siblings(topology: &Topology, workers: &BTreeSet<usize>) -> Finding {
    const REASON: &str =
        "two hardware threads share the execution units and the L1 cache of a core";
    let shared: Vec<String> = workers
        .iter()
        .flat_map(|&cpu| topology.siblings(cpu).map(move |sibling| (cpu, sibling)))
        // A pair of two workers is named once.
        .filter(|(cpu, sibling)| !workers.contains(sibling) || cpu < sibling)
        .map(|(cpu, sibling)| format!("{cpu} and {sibling}"))
        .collect();
    if shared.is_empty() {
        let found = "every worker has a core of its own".into();
        return Finding::good("SMT siblings", found, REASON);
    }
    let found = format!("cpus that share a core: {}", shared.join(", "));
    let change = "use one cpu of each core and leave its siblings idle, or switch them off in \
                  /sys/devices/system/cpu/smt/control";
    Finding::advice("SMT siblings", found, REASON, change)
}

fn governor(files: &Files, workers: &BTreeSet<usize>) -> Finding {
    const REASON: &str = "a cpu that slows down in quiet moments is slow for the next burst";
    let governor = |cpu: &usize| {
        files.text(format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"))
    };
    let slow: BTreeSet<usize> = workers
        .iter()
        .copied()
        .filter(|cpu| governor(cpu).is_some_and(|name| name != "performance"))
        .collect();
    if slow.is_empty() {
        let found = "no cpu of a worker saves power by its frequency".into();
        return Finding::good("frequency", found, REASON);
    }
    let found = format!("cpus {} do not use the governor performance", cpu_text(&slow));
    Finding::advice("frequency", found, REASON, "cpupower frequency-set -g performance")
}

/// Interrupts of other devices on workers' CPUs. Those that can be moved are told apart by their
/// affinity being readable.
fn interrupts(files: &Files, workers: &BTreeSet<usize>) -> Option<Finding> {
    const REASON: &str = "an interrupt on a worker's cpu takes some microseconds from it";
    let table = files.text("proc/interrupts")?;
    let numbers = table.lines().filter_map(|line| line.trim().split_once(':'));
    let on_workers: Vec<&str> = numbers
        .map(|(number, _)| number)
        .filter(|number| {
            let affinity = files.cpus(format!("proc/irq/{number}/effective_affinity_list"));
            affinity.is_some_and(|cpus| cpus.iter().any(|cpu| workers.contains(cpu)))
        })
        .collect();
    if on_workers.is_empty() {
        let found = "none on the cpus of workers".into();
        return Some(Finding::good("interrupts", found, REASON));
    }
    let found = format!("on the cpus of workers: {}", on_workers.join(", "));
    let change = "write other cpus to /proc/irq/NUMBER/smp_affinity_list, and keep irqbalance off \
                  the workers' (IRQBALANCE_BANNED_CPULIST); those of the uplink's own queues may stay";
    Some(Finding::advice("interrupts", found, REASON, change))
}

fn numa(
    files: &Files,
    topology: &Topology,
    workers: &BTreeSet<usize>,
    uplink: Option<&str>,
) -> Option<Finding> {
    const REASON: &str = "memory and devices of another NUMA node cost half as much time again";
    if topology.numa_node_count() < 2 {
        let found = "this machine has one node".into();
        return Some(Finding::good("NUMA", found, REASON));
    }
    let uplink = uplink?;
    let node = files.number(format!("sys/class/net/{uplink}/device/numa_node"))?;
    let is_far = |cpu: &usize| topology.numa_node(*cpu).is_some_and(|it| u64::from(it) != node);
    let far: BTreeSet<usize> = workers.iter().copied().filter(is_far).collect();
    if far.is_empty() {
        let found = format!("{uplink} and all workers are on node {node}");
        return Some(Finding::good("NUMA", found, REASON));
    }
    let found = format!("{uplink} is on node {node}, cpus {} are not", cpu_text(&far));
    let close: BTreeSet<usize> = topology.cpus().filter(|cpu| !is_far(cpu)).collect();
    let change = format!("choose the workers' cpus from {}", cpu_text(&close));
    Some(Finding::advice("NUMA", found, REASON, change))
}
