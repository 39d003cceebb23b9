//! What the operator asks about: the engine's views as messages.

use std::{net::IpAddr, time::Duration};

use control_api::engine::{
    Balance, DropStatus, NeighbourStatus, PortStatus, StageStatus, Status, WorkerStatus, port,
};
use encap::MacAddress;
use flowtable::Family;
use vrouter::{
    config::{PortObject, Role},
    drops::DropReason,
    engine::{PortView, WorkerView},
    idle::IdleMode,
    port::{Backend, PortRef},
    stats::Stage,
    underlay::Underlay,
};

use super::Node;

impl Node {
    /// The engine as a whole.
    pub(crate) fn status(&mut self) -> Status {
        let config = self.engine.config();
        let balance = self.engine.stats().balance();
        let table = self.flows.table();
        let flows = table.counters();
        let capacity =
            u64::from(table.capacity(Family::V4)) + u64::from(table.capacity(Family::V6));
        let mut warnings = self.engine.warnings();
        warnings.extend(self.underlay_warnings());
        Status {
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            instance_id: self.instance_id,
            generation: config.generation(),
            config_version: config.last_snapshot().version,
            uptime_ms: milliseconds(self.engine.uptime()),
            node_name: config.node().map(|node| node.name.to_string()).unwrap_or_default(),
            flow_connections: u64::from(table.len()),
            flow_connections_max: capacity,
            flow_inserted: flows.inserted,
            flow_expired: flows.expired,
            flow_evicted: flows.evicted_closing + flows.evicted_half_open + flows.evicted_oldest,
            frames_free: self.engine.frames_free() as u64,
            frames_total: u64::from(self.engine.region().frame_count()),
            ports: u32::try_from(config.ports().count()).unwrap_or(u32::MAX),
            routes: config.route_count() as u64,
            tunnels: u32::try_from(config.tunnels().count()).unwrap_or(u32::MAX),
            warnings,
            notes: self.engine.notes(),
            balance: Some(Balance {
                received: balance.received,
                generated: balance.generated,
                replicated: balance.replicated,
                sent: balance.sent,
                consumed: balance.consumed,
                dropped: balance.dropped,
                segmented: balance.segmented,
                merged: balance.merged,
            }),
            huge_pages: self.engine.region().is_huge(),
            router_mac: config.node().map(|node| mac_octets(node.router_mac)).unwrap_or_default(),
        }
    }

    /// All ports, by name.
    pub(crate) fn ports(&mut self) -> Vec<PortStatus> {
        self.engine.ports().into_iter().map(port_status).collect()
    }

    /// All workers, in order.
    pub(crate) fn workers(&mut self) -> Vec<WorkerStatus> {
        self.engine.workers().iter().map(worker_status).collect()
    }

    /// Dropped packets by reason and port; with `all` also what has not happened yet.
    ///
    /// What belongs to no port: packets that the engine made itself, and drops of ports that are
    /// gone.
    pub(crate) fn drops(&mut self, all: bool) -> Vec<DropStatus> {
        let ports = self.engine.ports();
        let everywhere = self.engine.stats().all_ports();
        let details = self.last_details();
        let mut drops = Vec::new();
        for &reason in DropReason::ALL {
            let mut rest = everywhere.dropped_for(reason);
            let mut push = |name: &str, packets: u64, port: PortRef| {
                if all || packets > 0 {
                    drops.push(DropStatus {
                        reason: reason.label().to_owned(),
                        port: name.to_owned(),
                        packets,
                        description: reason.description().to_owned(),
                        last_detail: details.get(&(reason, port)).cloned().unwrap_or_default(),
                    });
                }
            };
            for view in &ports {
                let packets = view.totals.dropped_for(reason);
                rest = rest.saturating_sub(packets);
                push(&view.object.name, packets, view.port);
            }
            push("", rest, PortRef::ENGINE);
        }
        drops
    }

    /// Next hops of the underlay, and what is behind ports.
    pub(crate) fn neighbours(&mut self) -> Vec<NeighbourStatus> {
        let underlay = self.underlay.iter().flat_map(Underlay::neighbours);
        let next_hops = underlay.map(|neighbour| NeighbourStatus {
            address: octets(neighbour.address),
            mac: neighbour.mac.map(mac_octets).unwrap_or_default(),
            port: self
                .port_on(neighbour.interface)
                .and_then(|port| self.port_name(port))
                .unwrap_or_else(|| neighbour.interface.to_owned()),
            state: neighbour.state.to_owned(),
        });
        let behind = |object: &PortObject| {
            let address = |address: &IpAddr| NeighbourStatus {
                address: octets(*address),
                mac: mac_octets(object.mac),
                port: object.name.to_string(),
                state: "static".to_owned(),
            };
            object.addresses.iter().map(address).collect::<Vec<_>>()
        };
        let ports = self.engine.config().ports().flat_map(|(_, object)| behind(object));
        next_hops.chain(ports).collect()
    }

    /// The name of a configured port.
    pub(super) fn port_name(&self, port: PortRef) -> Option<String> {
        let mut ports = self.engine.config().ports();
        ports.find(|(it, _)| *it == port).map(|(_, object)| object.name.to_string())
    }
}

fn port_status(view: PortView) -> PortStatus {
    let PortView { object, totals, .. } = &view;
    let interface = match &object.backend {
        Backend::VhostUser(backend) => backend.socket_path.display().to_string(),
        backend => backend.interface().map(|(name, _)| name.to_owned()).unwrap_or_default(),
    };
    // The uplink's far side is the whole fabric; its own address is what helps.
    let mac = if object.mac == MacAddress::default() {
        view.device_mac.map(|mac| mac.to_vec()).unwrap_or_default()
    } else {
        mac_octets(object.mac)
    };
    PortStatus {
        name: object.name.to_string(),
        role: role(object.role).into(),
        vrf: object.vrf,
        addresses: object.addresses.iter().copied().map(octets).collect(),
        mac,
        mtu_bytes: view.mtu_bytes.map_or(0, u32::from),
        state: view.state.label().to_owned(),
        interface,
        queues: u32::try_from(view.queues).unwrap_or(u32::MAX),
        rx_packets: totals.rx_packets,
        rx_bytes: totals.rx_bytes,
        tx_packets: totals.tx_packets,
        tx_bytes: totals.tx_bytes,
        forwarded: totals.forwarded,
        consumed: totals.consumed,
        dropped: totals.dropped(),
        kernel_rx_dropped: view.kernel_rx_dropped.unwrap_or(0),
        description: object.description.to_string(),
        ingress_policy: object.ingress_policy.unwrap_or(0),
        egress_policy: object.egress_policy.unwrap_or(0),
        detail: view.detail,
        backend: view.backend,
    }
}

fn worker_status(view: &WorkerView) -> WorkerStatus {
    let activity = &view.activity;
    let idle = match view.idle {
        IdleMode::Adaptive => "adaptive",
        IdleMode::Busy => "busy",
    };
    WorkerStatus {
        index: u32::from(view.index),
        cpu: view.place.cpu.and_then(|cpu| i32::try_from(cpu).ok()).unwrap_or(-1),
        numa_node: view.place.numa_node.and_then(|node| i32::try_from(node).ok()).unwrap_or(-1),
        queues: u32::try_from(view.queues).unwrap_or(u32::MAX),
        polls: activity.polls,
        empty_polls: activity.empty_polls,
        packets: activity.packets,
        bursts: activity.bursts,
        busy_ppm: view.busy_ppm,
        config_version: activity.config_version,
        last_poll_ms: milliseconds(view.silent),
        stalls: view.stalls,
        idle: idle.to_owned(),
        frames_cached: activity.frames_cached,
        busy_nanoseconds: activity.busy_nanoseconds,
        sleeps: activity.sleeps,
        stages: Stage::ALL
            .into_iter()
            .zip(view.stages)
            .map(|(stage, totals)| StageStatus {
                stage: stage.name().to_owned(),
                packets: totals.packets,
                cycles: totals.cycles,
            })
            .collect(),
    }
}

fn role(role: Role) -> port::Role {
    match role {
        Role::Uplink => port::Role::Uplink,
        Role::Host => port::Role::Host,
        Role::Guest => port::Role::Guest,
    }
}

/// An address as the wire has it.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A MAC address as the wire has it.
pub(super) fn mac_octets(mac: MacAddress) -> Vec<u8> {
    mac.octets().to_vec()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
