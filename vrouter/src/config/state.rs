//! The desired state, and how a batch changes it.
//!
//! A clone shares all tables; [`State::apply`] works on a clone that is thrown away if anything is
//! wrong.

mod check;
mod routes;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    batch::Batch,
    error::{ApplyError, FieldError, Problem},
    group::Groups,
    object::{
        NodeObject, PortObject, TunnelObject, VrfObject, port_label, tunnel_label, vrf_label,
    },
    slots::Slots,
};
use crate::{
    fib::{Fib, host_prefix},
    next_hop::{NEXT_HOPS_MAX, NextHopIndex, TUNNELS_MAX, TunnelRef},
    port::{PORTS_MAX, PortRef},
    scope::{PolicyScope, RouteScope},
    snapshot::VrfIndex,
};

/// VRFs at most: one a tenant on this node.
pub(crate) const VRFS_MAX: usize = 1024;

#[derive(Clone, Debug)]
pub(super) struct VrfState {
    pub(super) index: VrfIndex,
    pub(super) object: Arc<VrfObject>,
    pub(super) fib: Fib,
}

#[derive(Clone, Debug)]
pub(super) struct PortState {
    pub(super) port: PortRef,
    pub(super) next_hop: NextHopIndex,
    pub(super) object: Arc<PortObject>,
}

#[derive(Clone, Debug)]
pub(super) struct TunnelState {
    pub(super) next_hop: NextHopIndex,
    pub(super) object: Arc<TunnelObject>,
}

/// What a batch changed, for whoever has to act on it.
#[derive(Debug, Default)]
pub(super) struct Delta {
    pub(super) opened: Vec<(PortRef, Arc<PortObject>)>,
    pub(super) closed: Vec<(PortRef, Arc<PortObject>)>,
    pub(super) touched: Vec<RouteScope>,
    /// Ports that have other policy sets than before.
    pub(super) repoliced: Vec<PolicyScope>,
    pub(super) freed_next_hops: Vec<NextHopIndex>,
    /// More than routes changed.
    pub(super) has_new_tables: bool,
}

impl Delta {
    /// Flows that depend on `scope` must be judged again.
    fn touch(&mut self, scope: RouteScope) {
        // A load of many routes touches the scope of the one that covers them all.
        if self.touched.last() != Some(&scope) {
            self.touched.push(scope);
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) generation: u64,
    pub(super) node: Option<Arc<NodeObject>>,
    pub(super) vrfs: Arc<BTreeMap<u32, VrfState>>,
    pub(super) ports: Arc<BTreeMap<Arc<str>, PortState>>,
    pub(super) tunnels: Arc<BTreeMap<Arc<str>, TunnelState>>,
    pub(super) groups: Groups,
    /// Which port has an address.
    owners: Arc<HashMap<(VrfIndex, IpAddr), Arc<str>>>,
    vrf_slots: Arc<Slots>,
    port_slots: Arc<Slots>,
    next_hop_slots: Arc<Slots>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            generation: 0,
            node: None,
            vrfs: Arc::default(),
            ports: Arc::default(),
            tunnels: Arc::default(),
            groups: Groups::default(),
            owners: Arc::default(),
            vrf_slots: Arc::new(Slots::new(VRFS_MAX, 0)),
            port_slots: Arc::new(Slots::new(PORTS_MAX, 0)),
            next_hop_slots: Arc::new(Slots::new(NEXT_HOPS_MAX, 2)),
        }
    }
}

impl State {
    /// Makes the changes of `batch`. On an error the state is of no use.
    pub(super) fn apply(&mut self, mut batch: Batch, delta: &mut Delta) -> Result<(), ApplyError> {
        if batch.generation <= self.generation {
            let problem = Problem::GenerationNotGreater { in_force: self.generation };
            let field = format!("generation {}", batch.generation);
            return Err(FieldError::new(field, problem).of("batch"));
        }
        self.generation = batch.generation;
        if batch.is_full_sync {
            self.sweep(&mut batch);
        }
        delta.has_new_tables = batch.node.is_some()
            || !(batch.vrfs.is_empty() && batch.deleted_vrfs.is_empty())
            || !(batch.ports.is_empty() && batch.deleted_ports.is_empty())
            || !(batch.tunnels.is_empty() && batch.deleted_tunnels.is_empty());
        if let Some(node) = batch.node {
            self.node = Some(Arc::new(node));
        }
        for vrf in batch.vrfs.into_values() {
            self.upsert_vrf(vrf, delta)?;
        }
        // What goes makes room for what comes: names, addresses and prefixes may move within a
        // batch.
        for key in &batch.deleted_routes {
            self.delete_route(key, delta);
        }
        let removed = self.remove_ports(&batch.deleted_ports, delta);
        self.upsert_ports(batch.ports, delta)?;
        let removed_tunnels = self.remove_tunnels(&batch.deleted_tunnels);
        for tunnel in batch.tunnels.into_values() {
            self.upsert_tunnel(tunnel)?;
        }
        for (key, next_hops) in batch.routes {
            self.upsert_route(&key, &next_hops, delta)?;
        }
        for id in batch.deleted_vrfs {
            self.delete_vrf(id)?;
        }
        self.free_next_hops(removed.into_iter().chain(removed_tunnels), delta)?;
        if delta.has_new_tables {
            self.check()?;
        }
        Ok(())
    }

    /// Frees the slot of a closed port.
    pub(super) fn release_port(&mut self, port: PortRef) {
        let slots = Arc::make_mut(&mut self.port_slots);
        let index = usize::from(port.index);
        let is_in_use = self.ports.values().any(|state| state.port == port);
        if slots.generation(index) == port.generation && !is_in_use {
            slots.free(index);
        }
    }

    /// Turns "everything there is" into deletes of what is not named.
    fn sweep(&self, batch: &mut Batch) {
        let vrfs = self.vrfs.keys().filter(|id| !batch.vrfs.contains_key(id));
        batch.deleted_vrfs.extend(vrfs);
        let ports = self.ports.keys().filter(|name| !batch.ports.contains_key(&***name));
        batch.deleted_ports.extend(ports.map(|name| Box::from(&**name)));
        let tunnels = self.tunnels.keys().filter(|name| !batch.tunnels.contains_key(&***name));
        batch.deleted_tunnels.extend(tunnels.map(|name| Box::from(&**name)));
        self.for_each_static_route(|key| {
            if !batch.routes.contains_key(&key) {
                batch.deleted_routes.insert(key);
            }
        });
    }

    fn upsert_vrf(&mut self, vrf: VrfObject, delta: &mut Delta) -> Result<(), ApplyError> {
        let vrfs = Arc::make_mut(&mut self.vrfs);
        if let Some(state) = vrfs.get_mut(&vrf.id) {
            // Flows know whether their source is the gateway's address.
            for address in gateways_that_differ(&state.object, &vrf) {
                let found = state.fib.lookup(address);
                delta.touch(RouteScope::of_lookup(state.index, address, found));
            }
            state.object = Arc::new(vrf);
            return Ok(());
        }
        let Some((index, _)) = Arc::make_mut(&mut self.vrf_slots).take() else {
            return Err(too_many(vrf_label(vrf.id), VRFS_MAX));
        };
        let index = VrfIndex(u16::try_from(index).unwrap_or(u16::MAX));
        let state = VrfState { index, object: Arc::new(vrf), fib: Fib::default() };
        vrfs.insert(state.object.id, state);
        Ok(())
    }

    fn delete_vrf(&mut self, id: u32) -> Result<(), ApplyError> {
        let Some(state) = self.vrfs.get(&id) else { return Ok(()) };
        let in_use = |user| Err(FieldError::new("id", Problem::InUse { user }).of(vrf_label(id)));
        if let Some(port) = self.ports.values().find(|port| port.object.vrf == id) {
            return in_use(port_label(&port.object.name));
        }
        if let Some(prefix) = first_prefix(&state.fib) {
            return in_use(format!("route {prefix}"));
        }
        let index = usize::from(state.index.0);
        Arc::make_mut(&mut self.vrf_slots).free(index);
        Arc::make_mut(&mut self.vrfs).remove(&id);
        Ok(())
    }

    /// Removes ports and their host routes; returns their next hops, which routes may still use.
    fn remove_ports(
        &mut self,
        names: &std::collections::BTreeSet<Box<str>>,
        delta: &mut Delta,
    ) -> Vec<(NextHopIndex, String)> {
        let mut removed = Vec::new();
        for name in names {
            let Some(state) = Arc::make_mut(&mut self.ports).remove(&**name) else { continue };
            self.remove_host_routes(&state.object, delta);
            removed.push((state.next_hop, port_label(name)));
            delta.closed.push((state.port, state.object));
        }
        removed
    }

    fn upsert_ports(
        &mut self,
        ports: BTreeMap<Box<str>, PortObject>,
        delta: &mut Delta,
    ) -> Result<(), ApplyError> {
        // All addresses that change go before any comes: two ports may swap theirs.
        let mut changed = Vec::with_capacity(ports.len());
        for port in ports.into_values() {
            let before = self.ports.get(&*port.name).map(|state| Arc::clone(&state.object));
            let keeps_routes = before
                .as_ref()
                .is_some_and(|before| before.addresses == port.addresses && before.vrf == port.vrf);
            if let Some(before) = before.filter(|_| !keeps_routes) {
                self.remove_host_routes(&before, delta);
            }
            changed.push((Arc::new(port), keeps_routes));
        }
        for (port, keeps_routes) in changed {
            let next_hop = self.upsert_port(&port, delta)?;
            if !keeps_routes {
                self.add_host_routes(&port, next_hop, delta)?;
            }
        }
        Ok(())
    }

    fn upsert_port(
        &mut self,
        object: &Arc<PortObject>,
        delta: &mut Delta,
    ) -> Result<NextHopIndex, ApplyError> {
        let label = || port_label(&object.name);
        if !self.vrfs.contains_key(&object.vrf) {
            let problem = Problem::NoSuch { kind: "VRF", name: object.vrf.to_string() };
            return Err(FieldError::new("vrf", problem).of(label()));
        }
        let before = self.ports.get(&*object.name).cloned();
        let (port, next_hop) = match &before {
            Some(before) if before.object.backend == object.backend => {
                (before.port, before.next_hop)
            }
            // Another backend is another port, behind the same next hop: flows stay.
            Some(before) => {
                delta.closed.push((before.port, Arc::clone(&before.object)));
                (self.open_port(object, delta)?, before.next_hop)
            }
            None => {
                let port = self.open_port(object, delta)?;
                (port, self.take_next_hop().ok_or_else(|| too_many(label(), NEXT_HOPS_MAX))?)
            }
        };
        let policies = |object: &PortObject| (object.ingress_policy, object.egress_policy);
        if before.is_some_and(|before| policies(&before.object) != policies(object)) {
            delta.repoliced.push(PolicyScope(next_hop));
        }
        let state = PortState { port, next_hop, object: Arc::clone(object) };
        Arc::make_mut(&mut self.ports).insert(Arc::from(&*object.name), state);
        Ok(next_hop)
    }

    fn open_port(
        &mut self,
        object: &Arc<PortObject>,
        delta: &mut Delta,
    ) -> Result<PortRef, ApplyError> {
        let Some((index, generation)) = Arc::make_mut(&mut self.port_slots).take() else {
            return Err(too_many(port_label(&object.name), PORTS_MAX));
        };
        let port = PortRef { index: u16::try_from(index).unwrap_or(u16::MAX), generation };
        delta.opened.push((port, Arc::clone(object)));
        Ok(port)
    }

    fn add_host_routes(
        &mut self,
        port: &PortObject,
        next_hop: NextHopIndex,
        delta: &mut Delta,
    ) -> Result<(), ApplyError> {
        let Some(vrf) = self.vrfs.get(&port.vrf).map(|vrf| vrf.index) else { return Ok(()) };
        for (position, address) in port.addresses.iter().enumerate() {
            let taken = |other| {
                let problem = Problem::Taken { value: address.to_string(), other };
                Err(FieldError::new(format!("addresses[{position}]"), problem)
                    .of(port_label(&port.name)))
            };
            if let Some(owner) = self.owners.get(&(vrf, *address)) {
                return taken(port_label(owner));
            }
            let prefix = host_prefix(*address);
            if self.vrfs.get(&port.vrf).is_some_and(|vrf| vrf.fib.find(prefix).is_some()) {
                return taken(format!("route {prefix}"));
            }
            self.set_route(port.vrf, prefix, &[next_hop], delta);
            Arc::make_mut(&mut self.owners).insert((vrf, *address), Arc::from(&*port.name));
        }
        Ok(())
    }

    fn remove_host_routes(&mut self, port: &PortObject, delta: &mut Delta) {
        let Some(vrf) = self.vrfs.get(&port.vrf).map(|vrf| vrf.index) else { return };
        for address in &port.addresses {
            self.unset_route(port.vrf, host_prefix(*address), delta);
            Arc::make_mut(&mut self.owners).remove(&(vrf, *address));
        }
    }

    fn remove_tunnels(
        &mut self,
        names: &std::collections::BTreeSet<Box<str>>,
    ) -> Vec<(NextHopIndex, String)> {
        let mut removed = Vec::new();
        for name in names {
            if let Some(state) = Arc::make_mut(&mut self.tunnels).remove(&**name) {
                removed.push((state.next_hop, tunnel_label(name)));
            }
        }
        removed
    }

    fn upsert_tunnel(&mut self, tunnel: TunnelObject) -> Result<(), ApplyError> {
        let label = tunnel_label(&tunnel.name);
        let next_hop = match self.tunnels.get(&*tunnel.name) {
            Some(before) => before.next_hop,
            None if self.tunnels.len() >= TUNNELS_MAX => {
                return Err(too_many(label, TUNNELS_MAX));
            }
            None => self.take_next_hop().ok_or_else(|| too_many(label, NEXT_HOPS_MAX))?,
        };
        let name = Arc::from(&*tunnel.name);
        let state = TunnelState { next_hop, object: Arc::new(tunnel) };
        Arc::make_mut(&mut self.tunnels).insert(name, state);
        Ok(())
    }

    fn take_next_hop(&mut self) -> Option<NextHopIndex> {
        let (index, _) = Arc::make_mut(&mut self.next_hop_slots).take()?;
        u32::try_from(index).ok().map(NextHopIndex)
    }

    /// Frees the slots of ports and tunnels that went; a route that still leads there is an error.
    fn free_next_hops(
        &mut self,
        removed: impl Iterator<Item = (NextHopIndex, String)>,
        delta: &mut Delta,
    ) -> Result<(), ApplyError> {
        for (next_hop, label) in removed {
            if self.groups.is_used(next_hop) {
                let user = self.route_through(next_hop);
                return Err(FieldError::new("name", Problem::InUse { user }).of(label));
            }
            Arc::make_mut(&mut self.next_hop_slots).free(next_hop.0 as usize);
            delta.freed_next_hops.push(next_hop);
        }
        Ok(())
    }

    /// Names a tunnel by its slot and the slot's generation.
    pub(super) fn tunnel_ref(&self, tunnel: &TunnelState) -> TunnelRef {
        let slot = tunnel.next_hop;
        TunnelRef { slot, generation: self.next_hop_generation(slot) }
    }

    pub(super) fn next_hop_generation(&self, index: NextHopIndex) -> u16 {
        self.next_hop_slots.generation(index.0 as usize)
    }

    /// One more than the highest slot that was ever used.
    pub(super) fn next_hop_slot_count(&self) -> usize {
        self.next_hop_slots.count()
    }

    pub(super) fn next_hop_name(&self, index: NextHopIndex) -> Option<&str> {
        let port = self.ports.values().find(|port| port.next_hop == index);
        if let Some(port) = port {
            return Some(&port.object.name);
        }
        let tunnel = self.tunnels.values().find(|tunnel| tunnel.next_hop == index)?;
        Some(&tunnel.object.name)
    }
}

/// The gateway addresses that only one of two descriptions of a VRF has.
fn gateways_that_differ(before: &VrfObject, after: &VrfObject) -> impl Iterator<Item = IpAddr> {
    let v4 = [before.gateway_v4, after.gateway_v4].map(|address| address.map(IpAddr::V4));
    let v6 = [before.gateway_v6, after.gateway_v6].map(|address| address.map(IpAddr::V6));
    [v4, v6].into_iter().filter(|[before, after]| before != after).flatten().flatten()
}

fn first_prefix(fib: &Fib) -> Option<ipnet::IpNet> {
    let mut first = None;
    let _ = fib.for_each(|prefix, _| {
        first = Some(prefix);
        std::ops::ControlFlow::Break(())
    });
    first
}

fn too_many(label: String, maximum: usize) -> ApplyError {
    FieldError::new("name", Problem::TooMany { count: maximum + 1, maximum }).of(label)
}
