//! Policy sets as control describes them.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

/// Addresses that rules share.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AddressSetObject {
    /// Its number.
    pub id: u64,
    /// Ascending, each once.
    pub addresses: Arc<[IpAddr]>,
}

/// What lets connections of some pods pass in one direction.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PolicySetObject {
    /// Its number.
    pub id: u64,
    /// The policies that isolate the pods: "namespace/name".
    pub policies: Box<[Box<str>]>,
    /// Any of them lets a connection pass.
    pub rules: Box<[PolicyRule]>,
}

/// Some peers, on some ports.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PolicyRule {
    /// Every peer.
    pub is_any_peer: bool,
    /// Or those whose address is in one of these address sets.
    pub address_sets: Box<[u64]>,
    /// Or in one of these blocks.
    pub blocks: Box<[IpBlock]>,
    /// Ports of any of these; none at all stands for every protocol and port.
    pub ports: Box<[PortRange]>,
    /// Which of the set's policies it is of.
    pub policy: u32,
    /// Where in that policy it stands: `spec.ingress[0].from[1]`.
    pub path: Box<str>,
}

/// The addresses of a prefix, less those of some longer ones.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IpBlock {
    /// The prefix.
    pub prefix: IpNet,
    /// What is left out of it.
    pub excepts: Box<[IpNet]>,
}

/// Ports of one protocol.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortRange {
    /// The IP protocol's number.
    pub protocol: u8,
    /// The first port.
    pub first: u16,
    /// The last one.
    pub last: u16,
}

impl PolicySetObject {
    /// The name of the policy that a rule is of; empty for a rule that is not there.
    #[must_use]
    pub fn policy_of(&self, rule: &PolicyRule) -> &str {
        self.policies.get(rule.policy as usize).map_or("", |name| name)
    }
}

impl IpBlock {
    /// Whether all addresses of `prefix` are in the block; for a prefix that is no longer than each
    /// of its excepts that it holds, all or none are.
    pub(super) fn contains(&self, prefix: &IpNet) -> bool {
        self.prefix.contains(prefix) && !self.excepts.iter().any(|except| except.contains(prefix))
    }
}
