//! What objects ask of one another, checked after all changes of a batch.

use std::{collections::BTreeMap, net::IpAddr};

use super::State;
use crate::{
    config::{
        error::{ApplyError, FieldError, Problem},
        object::{Role, family_name, port_label, tunnel_label, vrf_label},
    },
    snapshot::VXLAN_PORTS_MAX,
};

impl State {
    pub(super) fn check(&self) -> Result<(), ApplyError> {
        self.check_node()?;
        self.check_vrfs()?;
        self.check_tunnels()
    }

    fn check_node(&self) -> Result<(), ApplyError> {
        let Some(node) = &self.node else { return Ok(()) };
        let expected = [
            ("uplink_port", &node.uplink_port, Role::Uplink, "the port of role UPLINK"),
            ("host_port", &node.host_port, Role::Host, "the port of role HOST"),
        ];
        for (field, name, role, expected) in expected {
            let Some(name) = name else { continue };
            let problem = match self.ports.get(&**name) {
                None => Problem::NoSuch { kind: "port", name: name.to_string() },
                Some(port) if port.object.role != role => {
                    Problem::WrongRole { name: name.to_string(), expected }
                }
                Some(_) => continue,
            };
            return Err(FieldError::new(field, problem).of(format!("node \"{}\"", node.name)));
        }
        Ok(())
    }

    fn check_vrfs(&self) -> Result<(), ApplyError> {
        let mut vnis = BTreeMap::new();
        for (id, vrf) in &*self.vrfs {
            for vni in &vrf.object.vnis {
                if let Some(other) = vnis.insert(*vni, *id) {
                    let problem =
                        Problem::Taken { value: format!("VNI {vni}"), other: vrf_label(other) };
                    return Err(FieldError::new("vnis", problem).of(vrf_label(*id)));
                }
            }
            let v4 = vrf.object.gateway_v4.map(IpAddr::from);
            let v6 = vrf.object.gateway_v6.map(IpAddr::from);
            for gateway in v4.into_iter().chain(v6) {
                if let Some(owner) = self.owners.get(&(vrf.index, gateway)) {
                    let problem =
                        Problem::Taken { value: gateway.to_string(), other: port_label(owner) };
                    return Err(FieldError::new("gateway_addresses", problem).of(vrf_label(*id)));
                }
            }
        }
        Ok(())
    }

    fn check_tunnels(&self) -> Result<(), ApplyError> {
        let mut udp_ports: Vec<u16> =
            self.node.iter().flat_map(|node| node.vxlan.udp_ports.to_vec()).collect();
        for tunnel in self.tunnels.values() {
            let object = &tunnel.object;
            let has_vtep = self.node.as_ref().is_some_and(|node| match object.remote {
                IpAddr::V4(_) => node.vtep_v4.is_some(),
                IpAddr::V6(_) => node.vtep_v6.is_some(),
            });
            let wrong = |field: &str, problem| {
                Err(FieldError::new(field, problem).of(tunnel_label(&object.name)))
            };
            if !has_vtep {
                let family = family_name(object.remote);
                return wrong("remote", Problem::NoVtepOfFamily { family });
            }
            if !udp_ports.contains(&object.udp_port) {
                udp_ports.push(object.udp_port);
            }
            if udp_ports.len() > VXLAN_PORTS_MAX {
                let problem = Problem::TooMany { count: udp_ports.len(), maximum: VXLAN_PORTS_MAX };
                return wrong("udp_port", problem);
            }
        }
        Ok(())
    }
}
