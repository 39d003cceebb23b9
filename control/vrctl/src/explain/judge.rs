//! Policy sets as the engine compiles and asks them.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use control::policy::Update;
use control_api::engine as api;
use ipnet::IpNet;
use vrouter::policy::{
    AddressSets, IpBlock, PolicyCompiler, PolicyRule, PolicySetObject, PortRange,
};

/// All sets of a cluster. Each is compiled when it is first asked.
#[derive(Debug)]
pub(super) struct Judge {
    address_sets: AddressSets,
    sets: HashMap<u64, Arc<PolicySetObject>>,
    compiled: HashMap<u64, PolicyCompiler>,
}

/// What a set says about a connection.
#[derive(Clone, Debug)]
pub(super) struct Ruling {
    /// The set.
    pub(super) set: Arc<PolicySetObject>,
    /// The rule that lets it pass: its position in the set.
    pub(super) rule: Option<usize>,
}

/// Why a rule does not let a connection pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Miss {
    /// The peer is none of the rule's.
    Peer,
    /// The peer is, and the port or protocol is not.
    Port,
}

/// The other end, and what the connection carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traffic {
    /// The other end's address.
    pub(super) peer: IpAddr,
    /// The IP protocol's number.
    pub(super) protocol: u8,
    /// The destination port.
    pub(super) port: Option<u16>,
}

/// A message of the compiler's that the engine would refuse. No manifest leads to one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("policy set {set} cannot be compiled; this is an error in vrctl, please report it")]
pub(crate) struct SetError {
    set: u64,
}

impl Judge {
    /// Takes over what control's compiler says is in force.
    ///
    /// # Errors
    ///
    /// Fails on what the engine would refuse.
    pub(super) fn new(state: Update) -> Result<Self, SetError> {
        let mut address_sets = AddressSets::default();
        for set in state.address_sets {
            let (v4, rest_v4) = set.ipv4.as_chunks::<4>();
            let (v6, rest_v6) = set.ipv6.as_chunks::<16>();
            if !rest_v4.is_empty() || !rest_v6.is_empty() {
                return Err(SetError { set: set.id });
            }
            let v4 = v4.iter().map(|octets| IpAddr::from(*octets));
            let v6 = v6.iter().map(|octets| IpAddr::from(*octets));
            address_sets.insert(set.id, v4.chain(v6).collect());
        }
        let sets = state.policy_sets.into_iter().map(|set| {
            let id = set.id;
            object(set).map(|object| (id, Arc::new(object))).ok_or(SetError { set: id })
        });
        Ok(Self { address_sets, sets: sets.collect::<Result<_, _>>()?, compiled: HashMap::new() })
    }

    /// Asks a set. `None`: there is none of that number.
    pub(super) fn judge(&mut self, set: u64, traffic: Traffic) -> Option<Ruling> {
        let object = self.sets.get(&set)?;
        let compiler = match self.compiled.entry(set) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(PolicyCompiler::new(Arc::clone(object), &self.address_sets))
            }
        };
        let rule = compiler.compiled().judge(traffic.peer, traffic.protocol, traffic.port);
        let rule = rule.and_then(|index| usize::try_from(index.0).ok());
        Some(Ruling { set: Arc::clone(object), rule })
    }

    /// What keeps each rule of a set from letting a connection pass that the set denies.
    pub(super) fn misses<'a>(
        &'a self,
        set: &'a PolicySetObject,
        traffic: Traffic,
    ) -> impl Iterator<Item = (&'a PolicyRule, Miss)> {
        set.rules.iter().map(move |rule| {
            let for_every_port = PolicyRule { ports: Box::default(), ..rule.clone() };
            let only = PolicySetObject { rules: [for_every_port].into(), ..Default::default() };
            let compiler = PolicyCompiler::new(Arc::new(only), &self.address_sets);
            let found = compiler.compiled().judge(traffic.peer, traffic.protocol, traffic.port);
            (rule, if found.is_some() { Miss::Port } else { Miss::Peer })
        })
    }
}

fn object(set: api::PolicySet) -> Option<PolicySetObject> {
    let rules = set.rules.into_iter().map(rule).collect::<Option<Vec<_>>>()?;
    Some(PolicySetObject {
        id: set.id,
        policies: set.policies.into_iter().map(String::into_boxed_str).collect(),
        rules: rules.into(),
    })
}

fn rule(rule: api::PolicyRule) -> Option<PolicyRule> {
    let range = |ports: &api::ProtocolPorts| {
        Some(PortRange {
            protocol: u8::try_from(ports.protocol).ok()?,
            first: u16::try_from(ports.first).ok()?,
            last: u16::try_from(ports.last).ok()?,
        })
    };
    Some(PolicyRule {
        is_any_peer: rule.any_peer,
        address_sets: rule.address_sets.into(),
        blocks: rule.blocks.iter().map(block).collect::<Option<_>>()?,
        ports: rule.ports.iter().map(range).collect::<Option<_>>()?,
        policy: rule.policy,
        path: rule.path.into(),
    })
}

fn block(block: &api::IpBlock) -> Option<IpBlock> {
    Some(IpBlock {
        prefix: prefix(block.block.as_ref()?)?,
        excepts: block.excepts.iter().map(prefix).collect::<Option<_>>()?,
    })
}

fn prefix(prefix: &api::Prefix) -> Option<IpNet> {
    let address = match prefix.address.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&*prefix.address).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&*prefix.address).ok()?)),
    };
    IpNet::new(address, u8::try_from(prefix.length).ok()?).ok()
}
