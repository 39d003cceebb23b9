//! Tunnels and the ways to their remote ends.

use std::net::IpAddr;

use control_api::engine::{Tunnel, TunnelStatus};
use vrouter::{
    next_hop::{Adjacency, NextHop, NextHopIndex},
    underlay::{Hop, Way},
};

use super::{
    Node,
    answers::{mac_octets, octets},
};

impl Node {
    /// All tunnels, by name.
    pub(crate) fn tunnels(&mut self) -> Vec<TunnelStatus> {
        let config = self.engine.config();
        let status = |tunnel: vrouter::config::TunnelStatus| {
            let object = &tunnel.object;
            let hop = self.hop(object.remote);
            let totals = self.engine.stats().tunnel(tunnel.tunnel);
            TunnelStatus {
                tunnel: Some(Tunnel {
                    name: object.name.to_string(),
                    remote: octets(object.remote),
                    vni: object.vni,
                    udp_port: u32::from(object.udp_port),
                    remote_router_mac: mac_octets(object.remote_router_mac),
                    mtu_bytes: object.mtu_bytes.map_or(0, u32::from),
                }),
                local: self.own_endpoint(object.remote).map(octets).unwrap_or_default(),
                state: self.tunnel_state(object.remote, tunnel.adjacency),
                next_hop: hop.map(|hop| octets(hop.address)).unwrap_or_default(),
                next_hop_mac: hop.map(|hop| mac_octets(hop.destination_mac)).unwrap_or_default(),
                mtu_bytes: self.tunnel_mtu(tunnel.next_hop),
                rx_packets: totals.rx_packets,
                rx_bytes: totals.rx_bytes,
                tx_packets: totals.tx_packets,
                tx_bytes: totals.tx_bytes,
            }
        };
        config.tunnels().map(status).collect()
    }

    /// What is wrong with the underlay, and the next step.
    pub(super) fn underlay_warnings(&self) -> Vec<String> {
        let tunnels = self.engine.config().tunnels();
        let down = tunnels.filter(|tunnel| !tunnel.adjacency.is_resolved());
        let mut warnings: Vec<_> = down
            .map(|tunnel| {
                let (name, remote) = (&tunnel.object.name, tunnel.object.remote);
                let state = self.tunnel_state(remote, tunnel.adjacency);
                format!("tunnel {name} is not up: {state}; see `ip route get {remote}`")
            })
            .collect();
        if let Some(error) = &self.underlay_error {
            warnings.push(format!(
                "the kernel does not tell about next hops ({error}); tunnels stay as they are"
            ));
        }
        warnings
    }

    /// Our own tunnel endpoint toward a remote one.
    fn own_endpoint(&self, remote: IpAddr) -> Option<IpAddr> {
        let node = self.engine.config().node()?;
        match remote {
            IpAddr::V4(_) => node.vtep_v4.map(IpAddr::from),
            IpAddr::V6(_) => node.vtep_v6.map(IpAddr::from),
        }
    }

    fn hop(&self, remote: IpAddr) -> Option<&Hop> {
        match self.ways.get(&remote) {
            Some(Way::Resolved(hop)) => Some(hop),
            _ => None,
        }
    }

    /// "up", or why not.
    fn tunnel_state(&self, remote: IpAddr, adjacency: Adjacency) -> String {
        match (adjacency, self.ways.get(&remote)) {
            (Adjacency::Resolved { .. }, _) => "up".to_owned(),
            (_, Some(Way::Resolved(hop))) => {
                format!("the way leads through {}, which is no port", hop.interface)
            }
            (_, Some(Way::Unresolved(obstacle))) => obstacle.to_string(),
            (_, None) => "not looked at yet".to_owned(),
        }
    }

    /// In force now: what the underlay said about the way counts, while it is fresh.
    fn tunnel_mtu(&self, next_hop: NextHopIndex) -> u32 {
        let snapshot = self.engine.config().last_snapshot();
        match snapshot.next_hops.slot(next_hop).map(|slot| &slot.hop) {
            Some(NextHop::Tunnel(hop)) => {
                let now = self.engine.now();
                u32::from(snapshot.path_mtus.limit(next_hop, hop.mtu_bytes, now))
            }
            _ => 0,
        }
    }
}
