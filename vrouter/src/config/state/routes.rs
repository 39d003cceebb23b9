//! Routes of the state: those that the client sends, and those that ports make.

use std::{ops::ControlFlow, sync::Arc};

use arrayvec::ArrayVec;
use ipnet::IpNet;

use super::{Delta, State};
use crate::{
    config::{
        RouteOrigin,
        error::{ApplyError, FieldError, Problem},
        object::{
            NextHopObject, ROUTE_NEXT_HOPS_MAX, Role, RouteKey, RouteObject, port_label, vrf_label,
        },
    },
    fib::GroupIndex,
    next_hop::NextHopIndex,
    scope::RouteScope,
    snapshot::VrfIndex,
};

impl State {
    pub(super) fn upsert_route(
        &mut self,
        key: &RouteKey,
        next_hops: &[NextHopObject],
        delta: &mut Delta,
    ) -> Result<(), ApplyError> {
        let Some(vrf) = self.vrfs.get(&key.vrf).map(|vrf| vrf.index) else {
            let problem = Problem::NoSuch { kind: "VRF", name: key.vrf.to_string() };
            return Err(FieldError::new("key.vrf", problem).of(key.label()));
        };
        if let Some(owner) = self.port_of_prefix(vrf, key.prefix) {
            let problem =
                Problem::Taken { value: key.prefix.addr().to_string(), other: port_label(owner) };
            return Err(FieldError::new("key.prefix", problem).of(key.label()));
        }
        let mut members = ArrayVec::<_, ROUTE_NEXT_HOPS_MAX>::new();
        for (position, next_hop) in next_hops.iter().enumerate() {
            let member = self.resolve(next_hop).map_err(|(field, problem)| {
                FieldError::new(format!("next_hops[{position}].{field}"), problem).of(key.label())
            })?;
            // The parser let no more pass.
            let _ = members.try_push(member);
        }
        // In one order, so that the same set is the same group.
        members.sort_unstable();
        self.set_route(key.vrf, key.prefix, &members, delta);
        Ok(())
    }

    pub(super) fn delete_route(&mut self, key: &RouteKey, delta: &mut Delta) {
        let vrf = self.vrfs.get(&key.vrf).map(|vrf| vrf.index);
        let is_ports = vrf.is_some_and(|vrf| self.port_of_prefix(vrf, key.prefix).is_some());
        if !is_ports {
            self.unset_route(key.vrf, key.prefix, delta);
        }
    }

    /// Calls `visit` with the routes that the client sent.
    pub(super) fn for_each_static_route(&self, mut visit: impl FnMut(RouteKey)) {
        for (id, vrf) in &*self.vrfs {
            let _ = vrf.fib.for_each(|prefix, _| {
                if self.port_of_prefix(vrf.index, prefix).is_none() {
                    visit(RouteKey { vrf: *id, prefix });
                }
                ControlFlow::Continue(())
            });
        }
    }

    pub(super) fn set_route(
        &mut self,
        vrf: u32,
        prefix: IpNet,
        members: &[NextHopIndex],
        delta: &mut Delta,
    ) {
        let Some(state) = Arc::make_mut(&mut self.vrfs).get_mut(&vrf) else { return };
        let group = self.groups.acquire(members);
        if let Some(before) = state.fib.insert(prefix, group) {
            // Also if it is the same one: it was acquired twice then.
            self.groups.release(before);
            if before != group {
                delta.touch(RouteScope { vrf: state.index, prefix });
            }
        } else {
            // Traffic that took the covering route so far, or had none, takes this one now.
            let covering = state.fib.covering(prefix);
            delta.touch(RouteScope::of_lookup(state.index, prefix.addr(), covering));
        }
    }

    pub(super) fn unset_route(&mut self, vrf: u32, prefix: IpNet, delta: &mut Delta) {
        let Some(state) = Arc::make_mut(&mut self.vrfs).get_mut(&vrf) else { return };
        if let Some(group) = state.fib.remove(prefix) {
            self.groups.release(group);
            delta.touch(RouteScope { vrf: state.index, prefix });
        }
    }

    /// Some route that leads there, for a message.
    pub(super) fn route_through(&self, next_hop: NextHopIndex) -> String {
        for (id, vrf) in &*self.vrfs {
            let mut user = None;
            let _ = vrf.fib.for_each(|prefix, group| {
                if self.groups.members_of(group).contains(&next_hop) {
                    user = Some(prefix);
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            });
            if let Some(prefix) = user {
                return format!("route {prefix} in {}", vrf_label(*id));
            }
        }
        "a route".to_owned()
    }

    pub(in crate::config) fn describe_route(
        &self,
        vrf: u32,
        index: VrfIndex,
        prefix: IpNet,
        group: GroupIndex,
    ) -> (RouteObject, RouteOrigin) {
        let origin = match self.port_of_prefix(index, prefix) {
            Some(_) => RouteOrigin::Port,
            None => RouteOrigin::Static,
        };
        let next_hops = self.groups.members_of(group).iter().filter_map(|next_hop| {
            Some(match *next_hop {
                NextHopIndex::UNREACHABLE => NextHopObject::Unreachable,
                NextHopIndex::BLACKHOLE => NextHopObject::Blackhole,
                index => self.describe_next_hop(index)?,
            })
        });
        (RouteObject { key: RouteKey { vrf, prefix }, next_hops: next_hops.collect() }, origin)
    }

    fn describe_next_hop(&self, index: NextHopIndex) -> Option<NextHopObject> {
        if let Some(port) = self.ports.values().find(|port| port.next_hop == index) {
            return Some(NextHopObject::Port(port.object.name.clone()));
        }
        let tunnel = self.tunnels.values().find(|tunnel| tunnel.next_hop == index)?;
        Some(NextHopObject::Tunnel(tunnel.object.name.clone()))
    }

    /// The port whose own address a prefix is.
    fn port_of_prefix(&self, vrf: VrfIndex, prefix: IpNet) -> Option<&Arc<str>> {
        if prefix.prefix_len() != prefix.max_prefix_len() {
            return None;
        }
        self.owners.get(&(vrf, prefix.addr()))
    }

    fn resolve(&self, next_hop: &NextHopObject) -> Result<NextHopIndex, (&'static str, Problem)> {
        match next_hop {
            NextHopObject::Unreachable => Ok(NextHopIndex::UNREACHABLE),
            NextHopObject::Blackhole => Ok(NextHopIndex::BLACKHOLE),
            NextHopObject::Tunnel(name) => match self.tunnels.get(&**name) {
                Some(tunnel) => Ok(tunnel.next_hop),
                None => Err(("tunnel", no_such("tunnel", name))),
            },
            NextHopObject::Port(name) => match self.ports.get(&**name) {
                Some(port) if port.object.role == Role::Uplink => Err((
                    "port",
                    Problem::WrongRole { name: name.to_string(), expected: "a guest or the host" },
                )),
                Some(port) => Ok(port.next_hop),
                None => Err(("port", no_such("port", name))),
            },
        }
    }
}

fn no_such(kind: &'static str, name: &str) -> Problem {
    Problem::NoSuch { kind, name: name.to_owned() }
}
