//! A batch of changes, parsed: each object is possible by itself, and named once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, btree_map, hash_map};

use control_api::engine as api;

use super::{
    error::{ApplyError, FieldError, Problem},
    object::{
        NextHopObject, NodeObject, PortObject, RouteKey, RouteObject, TunnelObject, VrfObject,
        port_label, tunnel_label, vrf_label,
    },
    policies::{PolicyChanges, address_set_label, policy_set_label},
};
use crate::policy::{AddressSetObject, PolicySetObject};

/// Objects to change and to remove.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) generation: u64,
    pub(super) is_full_sync: bool,
    pub(super) node: Option<NodeObject>,
    pub(super) vrfs: BTreeMap<u32, VrfObject>,
    pub(super) ports: BTreeMap<Box<str>, PortObject>,
    pub(super) tunnels: BTreeMap<Box<str>, TunnelObject>,
    pub(super) routes: HashMap<RouteKey, Box<[NextHopObject]>>,
    pub(super) deleted_vrfs: BTreeSet<u32>,
    pub(super) deleted_ports: BTreeSet<Box<str>>,
    pub(super) deleted_tunnels: BTreeSet<Box<str>>,
    pub(super) deleted_routes: HashSet<RouteKey>,
    pub(super) policy: PolicyChanges,
}

impl Batch {
    /// An empty batch.
    ///
    /// `generation` must be greater than the one in force. With `is_full_sync` the batch is
    /// everything there is: what it does not name is removed.
    #[must_use]
    pub fn new(generation: u64, is_full_sync: bool) -> Self {
        Self { generation, is_full_sync, ..Self::default() }
    }

    /// Parses objects and adds them.
    ///
    /// # Errors
    ///
    /// Fails with the first object and field that is not possible. The batch is of no use then.
    pub fn push(&mut self, objects: api::ObjectBatch) -> Result<(), ApplyError> {
        for object in objects.upserts {
            self.push_upsert(object)?;
        }
        for key in objects.deletes {
            self.push_delete(key)?;
        }
        Ok(())
    }

    fn push_upsert(&mut self, object: api::Object) -> Result<(), ApplyError> {
        use api::object::Kind;
        match object.kind {
            Some(Kind::Node(node)) => {
                let node = NodeObject::parse(node)?;
                if self.node.is_some() {
                    return Err(twice(format!("node \"{}\"", node.name)));
                }
                self.node = Some(node);
                Ok(())
            }
            Some(Kind::Vrf(vrf)) => {
                let vrf = VrfObject::parse(vrf)?;
                insert(&mut self.vrfs, vrf.id, vrf, |id| vrf_label(*id))
            }
            Some(Kind::Port(port)) => {
                let port = PortObject::parse(port)?;
                insert(&mut self.ports, port.name.clone(), port, |name| port_label(name))
            }
            Some(Kind::Tunnel(tunnel)) => {
                let tunnel = TunnelObject::parse(tunnel)?;
                insert(&mut self.tunnels, tunnel.name.clone(), tunnel, |name| tunnel_label(name))
            }
            Some(Kind::Route(route)) => {
                let route = RouteObject::parse(route)?;
                match self.routes.entry(route.key) {
                    hash_map::Entry::Occupied(_) => Err(twice(route.key.label())),
                    hash_map::Entry::Vacant(entry) => {
                        entry.insert(route.next_hops);
                        Ok(())
                    }
                }
            }
            Some(Kind::AddressSet(set)) => {
                let set = AddressSetObject::try_from(set)?;
                insert(&mut self.policy.address_sets, set.id, set, |id| address_set_label(*id))
            }
            Some(Kind::PolicySet(set)) => {
                let set = PolicySetObject::try_from(set)?;
                insert(&mut self.policy.policy_sets, set.id, set, |id| policy_set_label(*id))
            }
            None => Err(FieldError::new("kind", Problem::Missing).of("an object")),
        }
    }

    fn push_delete(&mut self, key: api::ObjectKey) -> Result<(), ApplyError> {
        use api::object_key::Kind;
        match key.kind {
            Some(Kind::Vrf(id)) => {
                self.deleted_vrfs.insert(id);
            }
            Some(Kind::Port(name)) => {
                self.deleted_ports.insert(name.into());
            }
            Some(Kind::Tunnel(name)) => {
                self.deleted_tunnels.insert(name.into());
            }
            Some(Kind::Route(key)) => {
                self.deleted_routes.insert(RouteKey::parse(Some(key))?);
            }
            Some(Kind::AddressSet(id)) => {
                self.policy.deleted_address_sets.insert(id);
            }
            Some(Kind::PolicySet(id)) => {
                self.policy.deleted_policy_sets.insert(id);
            }
            None => return Err(FieldError::new("kind", Problem::Missing).of("a key")),
        }
        Ok(())
    }

    /// Fails if an object is to be changed and deleted at once: the order in a batch means nothing.
    pub(super) fn check_contradictions(&self) -> Result<(), ApplyError> {
        let both = |label| Err(FieldError::new("key", Problem::ChangedAndDeleted).of(label));
        if let Some(id) = self.deleted_vrfs.iter().find(|id| self.vrfs.contains_key(id)) {
            return both(vrf_label(*id));
        }
        if let Some(name) = self.deleted_ports.iter().find(|name| self.ports.contains_key(*name)) {
            return both(port_label(name));
        }
        let mut tunnels = self.deleted_tunnels.iter();
        if let Some(name) = tunnels.find(|name| self.tunnels.contains_key(*name)) {
            return both(tunnel_label(name));
        }
        if let Some(key) = self.deleted_routes.iter().find(|key| self.routes.contains_key(key)) {
            return both(key.label());
        }
        if let Some(label) = self.policy.contradiction() {
            return both(label);
        }
        Ok(())
    }
}

fn insert<K: Ord, V>(
    objects: &mut BTreeMap<K, V>,
    key: K,
    object: V,
    label: impl FnOnce(&K) -> String,
) -> Result<(), ApplyError> {
    match objects.entry(key) {
        btree_map::Entry::Occupied(entry) => Err(twice(label(entry.key()))),
        btree_map::Entry::Vacant(entry) => {
            entry.insert(object);
            Ok(())
        }
    }
}

fn twice(label: String) -> ApplyError {
    FieldError::new("key", Problem::Twice).of(label)
}
