//! Which CPUs share a core, and which memory they are close to, as hwloc sees it.

use std::collections::BTreeMap;

use hwlocality::{
    Topology as HwlocTopology,
    object::{TopologyObject, types::ObjectType},
};

use crate::placement::WorkerPlace;

/// Why the topology could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the topology of this machine; is /sys mounted?")]
pub struct ReadTopologyError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// The CPUs of a machine that this process may use.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Topology {
    cpus: BTreeMap<usize, Cpu>,
}

/// One CPU: a hardware thread, in the words of its vendor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Cpu {
    /// The same for all hardware threads of a core.
    core: usize,
    numa_node: Option<u32>,
}

impl Topology {
    /// The topology of this machine.
    ///
    /// # Errors
    ///
    /// Fails where hwloc finds no system to read it from.
    pub fn of_this_host() -> Result<Self, ReadTopologyError> {
        let topology = HwlocTopology::new().map_err(|error| ReadTopologyError(Box::new(error)))?;
        Ok(Self::from_hwloc(&topology))
    }

    fn from_hwloc(topology: &HwlocTopology) -> Self {
        let mut cpus = BTreeMap::new();
        for (core, object) in topology.objects_with_type(ObjectType::Core).enumerate() {
            for cpu in cpus_of(object) {
                cpus.insert(cpu, Cpu { core, numa_node: None });
            }
        }
        for node in topology.objects_with_type(ObjectType::NUMANode) {
            let number = node.os_index().and_then(|index| u32::try_from(index).ok());
            for cpu in cpus_of(node) {
                if let Some(cpu) = cpus.get_mut(&cpu) {
                    cpu.numa_node = number;
                }
            }
        }
        Self { cpus }
    }

    /// A topology that hwloc makes up, such as "numa:2 core:2 pu:2".
    #[cfg(test)]
    pub(crate) fn synthetic(description: &str) -> Self {
        let builder = HwlocTopology::builder().from_synthetic(description).unwrap();
        Self::from_hwloc(&builder.build().unwrap())
    }

    /// The CPUs, in order.
    pub fn cpus(&self) -> impl Iterator<Item = usize> {
        self.cpus.keys().copied()
    }

    /// The NUMA node that a CPU is on, if known.
    #[must_use]
    pub fn numa_node(&self, cpu: usize) -> Option<u32> {
        self.cpus.get(&cpu)?.numa_node
    }

    /// NUMA nodes with CPUs.
    #[must_use]
    pub fn numa_node_count(&self) -> usize {
        let mut nodes: Vec<_> = self.cpus.values().filter_map(|cpu| cpu.numa_node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.len()
    }

    /// The other CPUs of the same core.
    pub fn siblings(&self, cpu: usize) -> impl Iterator<Item = usize> {
        let core = self.cpus.get(&cpu).map(|cpu| cpu.core);
        let same_core = self.cpus.iter().filter(move |(_, other)| Some(other.core) == core);
        same_core.map(|(index, _)| *index).filter(move |index| *index != cpu)
    }

    /// Where a worker on `cpu` runs.
    #[must_use]
    pub fn place(&self, cpu: usize) -> WorkerPlace {
        WorkerPlace { cpu: Some(cpu), numa_node: self.numa_node(cpu) }
    }
}

fn cpus_of(object: &TopologyObject) -> Vec<usize> {
    let Some(set) = object.cpuset() else { return Vec::new() };
    set.iter_set().map(usize::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_threads_of_a_core_are_siblings() {
        let topology = Topology::synthetic("numa:2 core:2 pu:2");
        assert_eq!(topology.cpus().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(topology.siblings(2).collect::<Vec<_>>(), [3]);
        assert_eq!(topology.siblings(99).count(), 0);
    }

    #[test]
    fn a_cpu_knows_its_numa_node() {
        let topology = Topology::synthetic("numa:2 core:2 pu:1");
        assert_eq!(topology.numa_node_count(), 2);
        assert_eq!([0, 1, 2, 3].map(|cpu| topology.numa_node(cpu)), [0, 0, 1, 1].map(Some));
        assert_eq!(topology.place(3), WorkerPlace { cpu: Some(3), numa_node: Some(1) });
    }

    #[test]
    fn this_machine_has_cpus() {
        assert!(Topology::of_this_host().unwrap().cpus().count() > 0);
    }
}
