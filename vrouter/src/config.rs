//! What a client wants this engine to be, and the snapshots compiled from it.
//!
//! Main thread only. A batch is parsed into typed objects ([`Batch::push`]), tried on a copy of the
//! state that shares everything with the one in force ([`Config::apply`]), and so is in force as a
//! whole or not at all. [`Config::snapshot`] then compiles what changed since the last one; the
//! caller decides when, so that changes are coalesced.
//!
//! ```text
//! api::ObjectBatch ─► Batch ─► apply ─► State' ─► snapshot ─► Publisher
//!                                 └──► ports to open and close
//! ```

mod backend;
mod batch;
mod compile;
mod denials;
mod error;
mod field;
mod group;
mod object;
mod policies;
mod routes;
mod slots;
mod state;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    net::IpAddr,
    sync::Arc,
};

use flowtable::{ScopeId, ScopeVersions};

pub use batch::Batch;
pub use error::{ApplyError, Problem};
pub use object::{
    NextHopObject, NodeObject, PORT_ADDRESSES_MAX, PortObject, ROUTE_NEXT_HOPS_MAX, Role, RouteKey,
    RouteObject, TunnelObject, VXLAN_UDP_PORT, VrfObject, VxlanObject,
};
pub(crate) use policies::PROTOCOLS_WITH_PORTS;
pub use policies::{ADDRESS_SETS_MAX, POLICY_SETS_MAX, SET_ADDRESSES_MAX, SET_RULES_MAX};
pub use routes::Routes;

use self::{
    compile::compile,
    policies::Policies,
    state::{Delta, PortState, State},
};
use crate::{
    next_hop::{Adjacency, NextHopIndex, PathMtus, TunnelRef},
    policy::{AddressSets, PolicySet},
    port::PortRef,
    scope::{PolicyScope, RouteScope},
    snapshot::Snapshot,
};

/// Ports that a batch opens or closes. A port whose backend changed is in both lists.
#[derive(Debug, Default)]
pub struct PortChanges {
    /// To be opened, before the next snapshot is published.
    pub opened: Vec<(PortRef, Arc<PortObject>)>,
    /// To be closed, after the next snapshot is in force on all workers.
    ///
    /// The slot stays taken until [`Config::release_port`].
    pub closed: Vec<(PortRef, Arc<PortObject>)>,
}

/// A tunnel and its slot.
#[derive(Clone, Debug)]
pub struct TunnelStatus {
    /// The tunnel as the client described it.
    pub object: Arc<TunnelObject>,
    /// Its next-hop slot.
    pub next_hop: NextHopIndex,
    /// What its packets are counted under.
    pub tunnel: TunnelRef,
    /// How the underlay reaches it.
    pub adjacency: Adjacency,
}

/// Where a route comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RouteOrigin {
    /// The client sent it.
    Static,
    /// A guest's own address, or this node's.
    Port,
}

/// How much of a snapshot must be compiled anew: each includes the ones before it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Change {
    Nothing,
    Routes,
    NextHops,
    Tables,
}

/// The desired state of the engine.
#[derive(Debug)]
pub struct Config {
    state: State,
    policies: Policies,
    adjacencies: HashMap<IpAddr, Adjacency>,
    /// The MTU that a port's device has, by port slot.
    device_mtus: HashMap<PortRef, u16>,
    /// Scopes that changed since the last snapshot.
    touched: Vec<ScopeId>,
    /// What changed since the last snapshot.
    change: Change,
    last: Snapshot,
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// An engine without ports or routes.
    #[must_use]
    pub fn new() -> Self {
        let state = State::default();
        let policies = Policies::default();
        let path_mtus = Arc::new(PathMtus::default());
        let inputs = compile::Inputs {
            state: &state,
            adjacencies: &HashMap::new(),
            device_mtus: &HashMap::new(),
            policies: &policies,
        };
        let last = compile(&inputs, None, &path_mtus);
        Self {
            state,
            policies,
            adjacencies: HashMap::new(),
            device_mtus: HashMap::new(),
            touched: Vec::new(),
            change: Change::Nothing,
            last,
        }
    }

    /// Puts a batch in force, as a whole or not at all. It reaches workers with the next snapshot.
    ///
    /// # Errors
    ///
    /// Fails with the first object and field that is not possible; nothing changes then.
    pub fn apply(&mut self, mut batch: Batch) -> Result<PortChanges, ApplyError> {
        let mut next = self.state.clone();
        let mut delta = Delta::default();
        batch.check_contradictions()?;
        let mut policy = mem::take(&mut batch.policy);
        if batch.is_full_sync {
            self.policies.sweep(&mut policy);
        }
        next.apply(batch, &mut delta)?;
        // A batch of routes alone leaves ports the sets that they had.
        if delta.has_new_tables || !policy.is_empty() {
            self.policies.check(&policy, next.ports.values())?;
        }
        // From here on nothing fails.
        self.state = next;
        let judged_anew = self.policies.commit(policy);
        self.touched.extend(delta.touched.iter().map(RouteScope::id));
        self.touched.extend(delta.repoliced.iter().map(|scope| scope.id()));
        self.touch_ports_of(&judged_anew);
        let change = if delta.has_new_tables { Change::Tables } else { Change::Routes };
        self.change = self.change.max(change);
        for slot in delta.freed_next_hops {
            self.last.path_mtus.forget(slot);
        }
        Ok(PortChanges { opened: delta.opened, closed: delta.closed })
    }

    /// Tells how the underlay reaches an address: a tunnel's remote end. Until then it is pending.
    pub fn set_adjacency(&mut self, address: IpAddr, adjacency: Adjacency) {
        let before = match adjacency {
            Adjacency::Pending => self.adjacencies.remove(&address),
            Adjacency::Resolved { .. } | Adjacency::Unreachable => {
                self.adjacencies.insert(address, adjacency)
            }
        };
        if before.unwrap_or_default() != adjacency {
            self.change = self.change.max(Change::NextHops);
        }
    }

    /// Tells the MTU of a port's device, which the port's own does not exceed.
    pub fn set_device_mtu(&mut self, port: PortRef, mtu_bytes: u16) {
        if self.device_mtus.insert(port, mtu_bytes) != Some(mtu_bytes) {
            self.change = Change::Tables;
        }
    }

    /// Frees the slot of a closed port: its queues are gone, and no worker knows it any more.
    pub fn release_port(&mut self, port: PortRef) {
        self.device_mtus.remove(&port);
        self.state.release_port(port);
    }

    /// Whether a new snapshot would differ from the last one.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.change != Change::Nothing
    }

    /// Compiles the next snapshot, with the next version.
    ///
    /// The scopes that changed are touched here, so before anybody can see the snapshot: a worker
    /// that has it finds the flows stale that it must judge again.
    #[expect(clippy::cast_possible_truncation, reason = "the flow table's versions wrap")]
    pub fn snapshot(&mut self, scopes: &ScopeVersions) -> Snapshot {
        let inputs = self.inputs();
        let path_mtus = Arc::clone(&self.last.path_mtus);
        let before = Some(&self.last);
        let mut next = match self.change {
            Change::Tables => compile(&inputs, before, &path_mtus),
            Change::NextHops => compile::with_new_next_hops(&inputs, &self.last),
            Change::Routes | Change::Nothing => compile::with_new_routes(&inputs, &self.last),
        };
        next.version = self.last.version + 1;
        // The table's versions wrap, and compare so.
        let version = next.version as u32;
        for scope in self.touched.drain(..) {
            scopes.touch(scope, version);
        }
        scopes.advance(version);
        self.change = Change::Nothing;
        drop(mem::replace(&mut self.last, next.clone()));
        next
    }

    /// The snapshot that was made last.
    #[must_use]
    pub fn last_snapshot(&self) -> &Snapshot {
        &self.last
    }

    /// The generation of the last batch in force.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.state.generation
    }

    /// This node, once a client has sent it.
    #[must_use]
    pub fn node(&self) -> Option<&NodeObject> {
        self.state.node.as_deref()
    }

    /// All ports, by name.
    pub fn ports(&self) -> impl Iterator<Item = (PortRef, &Arc<PortObject>)> {
        self.state.ports.values().map(|port| (port.port, &port.object))
    }

    /// The port of this name.
    #[must_use]
    pub fn port_by_name(&self, name: &str) -> Option<(PortRef, &Arc<PortObject>)> {
        self.state.ports.get(name).map(|port| (port.port, &port.object))
    }

    /// The MTU in force of a port, in bytes; `None` for a port that is not there (any more).
    #[must_use]
    pub fn port_mtu(&self, port: PortRef) -> Option<u16> {
        let state = self.state.ports.values().find(|state| state.port == port)?;
        Some(self.inputs().port_mtu(state))
    }

    /// All tunnels, by name.
    pub fn tunnels(&self) -> impl Iterator<Item = TunnelStatus> {
        self.state.tunnels.values().map(|tunnel| TunnelStatus {
            object: Arc::clone(&tunnel.object),
            next_hop: tunnel.next_hop,
            tunnel: self.state.tunnel_ref(tunnel),
            adjacency: self.adjacency(tunnel.object.remote),
        })
    }

    /// The underlay addresses whose adjacencies the engine needs: the remote ends of tunnels.
    pub fn underlay_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.state.tunnels.values().map(|tunnel| tunnel.object.remote)
    }

    /// What [`Self::set_adjacency`] was told last.
    #[must_use]
    pub fn adjacency(&self, address: IpAddr) -> Adjacency {
        self.adjacencies.get(&address).copied().unwrap_or_default()
    }

    /// Routes in all VRFs, those that ports make included.
    #[must_use]
    pub fn route_count(&self) -> usize {
        self.state.vrfs.values().map(|vrf| vrf.fib.len()).sum()
    }

    /// The policy set of this number, compiled.
    #[must_use]
    pub fn policy_set(&self, id: u64) -> Option<&PolicySet> {
        self.policies.get(id)
    }

    /// All policy sets, by number.
    pub fn policy_sets(&self) -> impl Iterator<Item = &PolicySet> {
        self.policies.iter()
    }

    /// All address sets.
    #[must_use]
    pub fn address_sets(&self) -> &AddressSets {
        self.policies.addresses()
    }

    /// The name of the port or tunnel in a next-hop slot.
    #[must_use]
    pub fn next_hop_name(&self, index: NextHopIndex) -> Option<&str> {
        self.state.next_hop_name(index)
    }

    fn inputs(&self) -> compile::Inputs<'_> {
        compile::Inputs {
            state: &self.state,
            adjacencies: &self.adjacencies,
            device_mtus: &self.device_mtus,
            policies: &self.policies,
        }
    }

    /// Flows of ports that have one of these policy sets must be judged again.
    fn touch_ports_of(&mut self, sets: &BTreeSet<u64>) {
        if sets.is_empty() {
            return;
        }
        let has_one = |port: &&PortState| {
            let object = &port.object;
            [object.ingress_policy, object.egress_policy]
                .into_iter()
                .flatten()
                .any(|set| sets.contains(&set))
        };
        let ports = self.state.ports.values().filter(has_one);
        self.touched.extend(ports.map(|port| PolicyScope(port.next_hop).id()));
    }
}
