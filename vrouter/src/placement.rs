//! Which worker owns which queue.
//!
//! A port's queues go to different workers as far as there are workers, those on the device's NUMA
//! node first, and of these the ones with the fewest queues. Queues stay where they are: a flow's
//! packets keep their order, and nothing moves while traffic runs.

/// Where a worker runs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct WorkerPlace {
    /// The CPU that it is pinned to; `None`: wherever the scheduler likes.
    pub cpu: Option<usize>,
    /// The NUMA node of that CPU, if known.
    pub numa_node: Option<u32>,
}

/// The workers and how many queues each of them owns.
#[derive(Clone, Debug)]
pub struct Placement {
    places: Vec<WorkerPlace>,
    queues: Vec<usize>,
}

impl Placement {
    /// Workers without queues.
    #[must_use]
    pub fn new(places: Vec<WorkerPlace>) -> Self {
        let queues = vec![0; places.len()];
        Self { places, queues }
    }

    /// Where each worker runs, in order.
    #[must_use]
    pub fn places(&self) -> &[WorkerPlace] {
        &self.places
    }

    /// Queues that a worker owns.
    #[must_use]
    pub fn queue_count(&self, worker: u16) -> usize {
        self.queues.get(usize::from(worker)).copied().unwrap_or(0)
    }

    /// Finds an owner for each of `queue_count` queues of a device at `numa_node`.
    pub fn assign(&mut self, queue_count: usize, numa_node: Option<u32>) -> Vec<u16> {
        let mut owners: Vec<u16> = Vec::with_capacity(queue_count);
        let mut of_this_port = vec![0_usize; self.places.len()];
        for _ in 0..queue_count {
            let best = (0..self.places.len()).min_by_key(|worker| {
                let is_remote = numa_node.is_some() && self.places[*worker].numa_node != numa_node;
                (of_this_port[*worker], is_remote, self.queues[*worker])
            });
            let Some(best) = best else { break };
            of_this_port[best] += 1;
            self.queues[best] += 1;
            owners.extend(u16::try_from(best));
        }
        owners
    }

    /// A queue of this worker is gone.
    pub fn release(&mut self, worker: u16) {
        if let Some(count) = self.queues.get_mut(usize::from(worker)) {
            *count = count.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn workers(numa_nodes: &[u32]) -> Placement {
        let place = |node: &u32| WorkerPlace { cpu: None, numa_node: Some(*node) };
        Placement::new(numa_nodes.iter().map(place).collect())
    }

    #[test]
    fn a_port_of_one_queue_goes_to_its_own_numa_node() {
        let mut placement = workers(&[0, 0, 1, 1]);
        assert_eq!(placement.assign(1, Some(1)), [2]);
        assert_eq!(placement.assign(1, Some(1)), [3]);
        assert_eq!(placement.assign(1, Some(0)), [0]);
        assert_eq!(placement.assign(1, None), [1]);
    }

    #[test]
    fn a_port_with_enough_queues_gives_every_worker_one() {
        let mut placement = workers(&[0, 1]);
        assert_eq!(placement.assign(2, Some(1)), [1, 0]);
        assert_eq!(placement.assign(5, Some(0)), [0, 1, 0, 1, 0]);
    }

    proptest! {
        #[test]
        fn queues_are_balanced_to_within_one(
            worker_count in 1_usize..9,
            ports in prop::collection::vec(1_usize..9, 1..60),
        ) {
            let mut placement = Placement::new(vec![WorkerPlace::default(); worker_count]);
            for queues in ports {
                let owners = placement.assign(queues, None);
                prop_assert_eq!(owners.len(), queues);
            }
            let counts: Vec<_> =
                (0..worker_count).map(|worker| placement.queues[worker]).collect();
            let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
            prop_assert!(spread <= 1, "{counts:?}");
        }

        #[test]
        fn what_is_released_is_free_again(queues in 1_usize..20) {
            let mut placement = workers(&[0, 1, 0]);
            for owner in placement.assign(queues, Some(0)) {
                placement.release(owner);
            }
            prop_assert!((0..3).all(|worker| placement.queue_count(worker) == 0));
        }
    }
}
