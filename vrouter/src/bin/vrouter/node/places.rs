//! Which CPUs the workers get.
//!
//! Named CPUs are taken as they are. Otherwise, of the CPUs that this process may use: isolated
//! ones first, then those with the highest numbers, since the kernel serves most interrupts on the
//! first; the second thread of a core comes last.

use std::{cmp::Reverse, collections::BTreeSet, fs};

use anyhow::{Context, bail};
use vrouter::{placement::WorkerPlace, topology::Topology};

/// Where the kernel says which CPUs its scheduler leaves alone.
const ISOLATED: &str = "/sys/devices/system/cpu/isolated";

/// A CPU that a worker may get.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Cpu {
    index: usize,
    core: usize,
    numa_node: Option<u32>,
    is_isolated: bool,
}

/// One place for each worker.
///
/// # Errors
///
/// Fails if a named CPU is not to be had, or there are fewer CPUs than workers.
pub(crate) fn choose(workers: u16, named: &[u16]) -> anyhow::Result<Vec<WorkerPlace>> {
    let cpus = available().context("cannot look at this machine's CPUs")?;
    let known = || cpus.iter().map(|cpu| cpu.index.to_string()).collect::<Vec<_>>().join(", ");
    let place = |cpu: &Cpu| WorkerPlace { cpu: Some(cpu.index), numa_node: cpu.numa_node };
    if !named.is_empty() {
        let find = |index: &u16| {
            let cpu = cpus.iter().find(|cpu| cpu.index == usize::from(*index));
            cpu.map(place).with_context(|| {
                format!("engine.cpus: this process may use the CPUs {}, not {index}", known())
            })
        };
        return named.iter().map(find).collect();
    }
    if cpus.len() < usize::from(workers) {
        bail!("engine.workers: {workers} workers for the CPUs {}; lower it", known());
    }
    Ok(in_order(cpus).iter().take(usize::from(workers)).map(place).collect())
}

/// The best CPUs first.
fn in_order(mut cpus: Vec<Cpu>) -> Vec<Cpu> {
    cpus.sort_by_key(|cpu| (!cpu.is_isolated, Reverse(cpu.index)));
    let mut cores = BTreeSet::new();
    let (mut first, siblings): (Vec<_>, Vec<_>) =
        cpus.into_iter().partition(|cpu| cores.insert(cpu.core));
    first.extend(siblings);
    first
}

fn available() -> anyhow::Result<Vec<Cpu>> {
    let topology = Topology::of_this_host()?;
    let allowed: BTreeSet<_> =
        core_affinity::get_core_ids().into_iter().flatten().map(|core| core.id).collect();
    let isolated = parse_list(&fs::read_to_string(ISOLATED).unwrap_or_default());
    // The scheduler starts nothing on isolated CPUs, but a thread may be pinned there.
    let usable = topology.cpus().filter(|cpu| allowed.contains(cpu) || isolated.contains(cpu));
    Ok(usable
        .map(|index| Cpu {
            index,
            // A core goes by its first CPU.
            core: topology.siblings(index).chain([index]).min().unwrap_or(index),
            numa_node: topology.numa_node(index),
            is_isolated: isolated.contains(&index),
        })
        .collect())
}

/// A list of CPUs as the kernel writes it: `2-3,6`.
fn parse_list(text: &str) -> BTreeSet<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(index: usize, core: usize, is_isolated: bool) -> Cpu {
        Cpu { index, core, numa_node: Some(0), is_isolated }
    }

    #[test]
    fn isolated_cpus_come_first_and_siblings_last() {
        let cpus = vec![cpu(0, 0, false), cpu(1, 1, true), cpu(2, 0, false), cpu(3, 1, true)];
        let order: Vec<_> = in_order(cpus).iter().map(|cpu| cpu.index).collect();
        assert_eq!(order, [3, 2, 1, 0]);
    }

    #[test]
    fn the_kernels_lists_are_read() {
        assert_eq!(parse_list("2-4,7\n").into_iter().collect::<Vec<_>>(), [2, 3, 4, 7]);
        assert!(parse_list("\n").is_empty());
    }

    #[test]
    fn this_machine_has_a_cpu_for_a_worker() {
        let places = choose(1, &[]).unwrap();
        let cpu = u16::try_from(places[0].cpu.unwrap()).unwrap();
        assert_eq!(choose(1, &[cpu]).unwrap(), places);
    }

    #[test]
    fn a_cpu_that_is_not_there_is_an_error_that_names_those_that_are() {
        let error = choose(1, &[60_000]).unwrap_err().to_string();
        assert!(error.starts_with("engine.cpus: this process may use the CPUs "), "{error}");
        assert!(choose(u16::MAX, &[]).unwrap_err().to_string().contains("engine.workers"));
    }
}
