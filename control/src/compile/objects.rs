//! Everything that an engine is to know at one moment, and what has to be sent so that one that
//! knows something else comes to know it.

use std::{
    collections::{BTreeMap, btree_map},
    iter::Peekable,
    sync::Arc,
};

use control_api::engine::{
    Object, ObjectBatch, ObjectKey, Prefix, Route, RouteKey, object::Kind, object_key,
};

/// Objects by what identifies them. A copy is cheap: it shares the objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects(BTreeMap<Identity, Arc<Object>>);

/// What identifies an object within its engine; in the order in which objects are listed.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Identity {
    Node,
    Vrf(u32),
    AddressSet(u64),
    PolicySet(u64),
    Port(String),
    Tunnel(String),
    Route(RouteOrder),
}

/// The order of routes: by VRF, family, address, length.
type RouteOrder = (u32, usize, Vec<u8>, u32);

type Walk<'a> = Peekable<btree_map::Iter<'a, Identity, Arc<Object>>>;

impl Objects {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them: the node, its VRF, address sets, policy sets, ports, tunnels, routes, each by
    /// number, name or prefix.
    pub fn iter(&self) -> impl Iterator<Item = &Object> {
        self.0.values().map(|object| &**object)
    }

    /// Enters an object, in place of the one of that identity.
    pub fn insert(&mut self, object: Object) {
        if let Some(identity) = identity(&object) {
            self.0.insert(identity, Arc::new(object));
        }
    }

    /// Takes an address set out.
    pub fn remove_address_set(&mut self, id: u64) {
        self.0.remove(&Identity::AddressSet(id));
    }

    /// Takes a policy set out.
    pub fn remove_policy_set(&mut self, id: u64) {
        self.0.remove(&Identity::PolicySet(id));
    }

    /// Enters the objects of `other`, too.
    #[must_use]
    pub fn with(mut self, other: &Self) -> Self {
        self.0.extend(other.0.iter().map(|(identity, object)| (identity.clone(), object.clone())));
        self
    }

    /// The batch that leads from `old` to these: upserts for what is new or changed, deletes for
    /// what is gone. Both in order; empty if the two are the same.
    #[must_use]
    pub fn since(&self, old: &Self) -> ObjectBatch {
        let mut batch = ObjectBatch::default();
        let (mut old, mut new) = (old.0.iter().peekable(), self.0.iter().peekable());
        while let Some(step) = step(&mut old, &mut new) {
            match step {
                Step::Gone(identity) => batch.deletes.extend(key(identity)),
                Step::Changed(object) => batch.upserts.push(Object::clone(object)),
                Step::Same => {}
            }
        }
        batch
    }
}

impl FromIterator<Object> for Objects {
    fn from_iter<T: IntoIterator<Item = Object>>(objects: T) -> Self {
        let mut collected = Self::default();
        objects.into_iter().for_each(|object| collected.insert(object));
        collected
    }
}

impl From<Vec<Object>> for Objects {
    fn from(objects: Vec<Object>) -> Self {
        objects.into_iter().collect()
    }
}

enum Step<'a> {
    Gone(&'a Identity),
    Changed(&'a Arc<Object>),
    Same,
}

/// The next step of a walk along both, in the order of identities.
fn step<'a>(old: &mut Walk<'a>, new: &mut Walk<'a>) -> Option<Step<'a>> {
    let is_gone = match (old.peek(), new.peek()) {
        (None, None) => return None,
        (Some((old, _)), Some((new, _))) => old < new,
        (old, _) => old.is_some(),
    };
    if is_gone {
        return old.next().map(|(identity, _)| Step::Gone(identity));
    }
    let (identity, object) = new.next()?;
    let before = old.next_if(|(known, _)| *known == identity);
    // What has not been touched is the very same object, which spares the comparison.
    let is_same = |before: &Arc<Object>| Arc::ptr_eq(before, object) || before == object;
    let is_same = before.is_some_and(|(_, before)| is_same(before));
    Some(if is_same { Step::Same } else { Step::Changed(object) })
}

fn route_order(route: &Route) -> RouteOrder {
    let key = route.key.clone().unwrap_or_default();
    let prefix = key.prefix.unwrap_or_default();
    (key.vrf, prefix.address.len(), prefix.address, prefix.length)
}

fn identity(object: &Object) -> Option<Identity> {
    Some(match object.kind.as_ref()? {
        Kind::Node(_) => Identity::Node,
        Kind::Vrf(vrf) => Identity::Vrf(vrf.id),
        Kind::Port(port) => Identity::Port(port.name.clone()),
        Kind::Tunnel(tunnel) => Identity::Tunnel(tunnel.name.clone()),
        Kind::Route(route) => Identity::Route(route_order(route)),
        Kind::AddressSet(set) => Identity::AddressSet(set.id),
        Kind::PolicySet(set) => Identity::PolicySet(set.id),
    })
}

/// The key that deletes an object; the node itself has none, since there is always one.
fn key(identity: &Identity) -> Option<ObjectKey> {
    let kind = match identity {
        Identity::Node => return None,
        Identity::Vrf(id) => object_key::Kind::Vrf(*id),
        Identity::AddressSet(id) => object_key::Kind::AddressSet(*id),
        Identity::PolicySet(id) => object_key::Kind::PolicySet(*id),
        Identity::Port(name) => object_key::Kind::Port(name.clone()),
        Identity::Tunnel(name) => object_key::Kind::Tunnel(name.clone()),
        Identity::Route((vrf, _, address, length)) => object_key::Kind::Route(RouteKey {
            vrf: *vrf,
            prefix: Some(Prefix { address: address.clone(), length: *length }),
        }),
    };
    Some(ObjectKey { kind: Some(kind) })
}
