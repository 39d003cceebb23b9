//! Policy sets as the engine compiles and asks them.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use control::policy::Update;
use vrouter::{
    config::ApplyError,
    policy::{AddressSetObject, AddressSets, PolicyCompiler, PolicyRule, PolicySetObject},
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
    /// The peer is left out of the rule's block.
    Except,
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

/// The engine would refuse what the policies lead to, and enforce the last good state.
#[derive(Debug, thiserror::Error)]
#[error("the engine would refuse these policies")]
pub(crate) struct SetError(#[from] ApplyError);

impl Judge {
    /// Takes over what control's compiler says is in force.
    ///
    /// # Errors
    ///
    /// Fails on what the engine would refuse.
    pub(super) fn new(state: Update) -> Result<Self, SetError> {
        let mut address_sets = AddressSets::default();
        for set in state.address_sets {
            let set = AddressSetObject::try_from(set)?;
            address_sets.insert(set.id, set.addresses.iter().copied().collect());
        }
        let sets = state.policy_sets.into_iter().map(|set| {
            let set = PolicySetObject::try_from(set)?;
            Ok((set.id, Arc::new(set)))
        });
        Ok(Self {
            address_sets,
            sets: sets.collect::<Result<_, SetError>>()?,
            compiled: HashMap::new(),
        })
    }

    /// Protocols and ports at which some rule begins or ends.
    pub(super) fn ports(&self) -> BTreeSet<(u8, u16)> {
        let rules = self.sets.values().flat_map(|set| &set.rules);
        let ranges = rules.flat_map(|rule| &rule.ports);
        ranges.flat_map(|it| [(it.protocol, it.first), (it.protocol, it.last)]).collect()
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
            let is_left_out = rule.blocks.iter().any(|block| {
                block.prefix.contains(&traffic.peer)
                    && block.excepts.iter().any(|except| except.contains(&traffic.peer))
            });
            let miss = match (found, is_left_out) {
                (Some(_), _) => Miss::Port,
                (None, true) => Miss::Except,
                (None, false) => Miss::Peer,
            };
            (rule, miss)
        })
    }
}
