//! A small judge of compiled policy: what the updates have added up to, and what it allows.

use std::{collections::BTreeMap, net::IpAddr};

use control::{
    names::PodName,
    policy::{Assignment, Update},
};
use control_api::engine::{AddressSet, IpBlock, PolicyRule, PolicySet, Prefix};

use crate::naive::Direction;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct InForce {
    pub(crate) address_sets: BTreeMap<u64, AddressSet>,
    pub(crate) policy_sets: BTreeMap<u64, PolicySet>,
    pub(crate) assignments: BTreeMap<PodName, Assignment>,
}

impl InForce {
    /// Adds an update, which must report nothing that is so already.
    pub(crate) fn take(&mut self, update: Update) {
        for set in update.address_sets {
            assert!(set.id != 0 && is_ascending::<4>(&set.ipv4) && is_ascending::<16>(&set.ipv6));
            self.address_sets.insert(set.id, set);
        }
        for id in update.removed_address_sets {
            assert!(self.address_sets.remove(&id).is_some(), "never reported: {id}");
        }
        for set in update.policy_sets {
            assert_ne!(self.policy_sets.get(&set.id), Some(&set), "reported in vain");
            assert_ne!(set.id, 0);
            self.policy_sets.insert(set.id, set);
        }
        for id in update.removed_policy_sets {
            assert!(self.policy_sets.remove(&id).is_some(), "never reported: {id}");
        }
        for (pod, assignment) in update.assignments {
            match assignment {
                Some(assignment) => self.assignments.insert(pod, assignment),
                None => Some(self.assignments.remove(&pod).unwrap()),
            };
        }
        self.check_references();
    }

    /// Whether the policies of a pod allow a connection with a peer.
    pub(crate) fn allows(
        &self,
        direction: Direction,
        pod: &PodName,
        peer: IpAddr,
        (protocol, port): (u8, u16),
    ) -> bool {
        let assignment = self.assignments.get(pod).copied().unwrap_or_default();
        let set = match direction {
            Direction::Ingress => assignment.ingress,
            Direction::Egress => assignment.egress,
        };
        let matches = |rule: &PolicyRule| {
            let is_peer = rule.any_peer
                || rule.address_sets.iter().any(|id| self.contains(*id, peer))
                || rule.blocks.iter().any(|block| is_in_block(block, peer));
            let is_port = rule.ports.is_empty()
                || rule.ports.iter().any(|ports| {
                    ports.protocol == u32::from(protocol)
                        && (ports.first..=ports.last).contains(&u32::from(port))
                });
            is_peer && is_port
        };
        set == 0 || self.policy_sets[&set].rules.iter().any(matches)
    }

    fn contains(&self, id: u64, address: IpAddr) -> bool {
        let set = &self.address_sets[&id];
        match address {
            IpAddr::V4(address) => set.ipv4.chunks(4).any(|one| one == address.octets()),
            IpAddr::V6(address) => set.ipv6.chunks(16).any(|one| one == address.octets()),
        }
    }

    /// What is referred to is there, and there is no policy set without a pod.
    fn check_references(&self) {
        let mut policy_sets: Vec<_> =
            self.assignments.values().flat_map(|found| [found.ingress, found.egress]).collect();
        policy_sets.sort_unstable();
        policy_sets.dedup();
        policy_sets.retain(|id| *id != 0);
        assert!(policy_sets.iter().eq(self.policy_sets.keys()));
        let rules = self.policy_sets.values().flat_map(|set| &set.rules);
        for id in rules.flat_map(|rule| &rule.address_sets) {
            assert!(self.address_sets.contains_key(id), "{id} is not there");
        }
        for set in self.policy_sets.values() {
            assert!(set.policies.is_sorted() && !set.policies.is_empty());
            let known = set.policies.len();
            assert!(set.rules.iter().all(|rule| (rule.policy as usize) < known));
        }
    }
}

fn is_ascending<const N: usize>(addresses: &[u8]) -> bool {
    let (addresses, rest) = addresses.as_chunks::<N>();
    rest.is_empty() && addresses.is_sorted_by(|a, b| a < b)
}

fn is_in_block(block: &IpBlock, address: IpAddr) -> bool {
    is_in_prefix(block.block.as_ref().unwrap(), address)
        && !block.excepts.iter().any(|part| is_in_prefix(part, address))
}

fn is_in_prefix(prefix: &Prefix, address: IpAddr) -> bool {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let bit = |octets: &[u8], index: u32| octets[index as usize / 8] >> (7 - index % 8) & 1;
    octets.len() == prefix.address.len()
        && (0..prefix.length).all(|index| bit(&octets, index) == bit(&prefix.address, index))
}
