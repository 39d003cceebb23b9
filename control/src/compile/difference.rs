//! What has to be sent so that an engine that knows one set of objects knows another.

use std::collections::BTreeMap;

use control_api::engine::{
    Object, ObjectBatch, ObjectKey, Prefix, Route, RouteKey, object::Kind, object_key,
};

/// What identifies an object within its engine; in the order in which objects are compiled.
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
pub(super) type RouteOrder = (u32, usize, Vec<u8>, u32);

/// The batch that leads from `old` to `new`: upserts for what is new or changed, deletes for what
/// is gone. Both sorted; empty if the two are the same.
#[must_use]
pub fn difference(old: &[Object], new: &[Object]) -> ObjectBatch {
    let old = by_identity(old);
    let new = by_identity(new);
    let upserts = new
        .iter()
        .filter(|(identity, object)| old.get(identity) != Some(object))
        .map(|(_, object)| (*object).clone())
        .collect();
    let deletes =
        old.keys().filter(|identity| !new.contains_key(identity)).filter_map(key).collect();
    ObjectBatch { upserts, deletes }
}

/// Where a route stands among others.
pub(super) fn route_order(route: &Route) -> RouteOrder {
    let key = route.key.clone().unwrap_or_default();
    let prefix = key.prefix.unwrap_or_default();
    (key.vrf, prefix.address.len(), prefix.address, prefix.length)
}

fn by_identity(objects: &[Object]) -> BTreeMap<Identity, &Object> {
    objects.iter().filter_map(|object| Some((identity(object)?, object))).collect()
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
