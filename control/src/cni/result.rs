//! The result of ADD, in the version that the runtime speaks.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::{
    CniError,
    network_config::{CniVersion, NetworkConfig},
};
use crate::{
    attachment::{Attachment, Means},
    cluster::Family,
    mac::MacAddress,
};

/// What ADD has made, for the result.
#[derive(Clone, Debug)]
pub struct Made<'a> {
    /// The attachment.
    pub attachment: &'a Attachment,
    /// The MAC address of the interface on the node's side.
    pub host_mac: Option<MacAddress>,
    /// The gateways: at most one of each family.
    pub gateways: &'a [IpAddr],
    /// Those of them that the container has a default route through.
    pub defaults: &'a [IpAddr],
}

impl Made<'_> {
    /// The result, built upon what earlier plugins have made.
    ///
    /// # Errors
    ///
    /// Fails if the earlier plugins' result has no usable shape.
    pub fn render(&self, config: &NetworkConfig) -> Result<Vec<u8>, CniError> {
        let mut result = config.previous.clone().unwrap_or_default();
        result.insert("cniVersion".to_owned(), config.version.as_str().into());
        let interfaces = list(&mut result, "interfaces")?;
        if self.attachment.means == Means::Veth {
            interfaces.push(self.host_interface(config.version));
        }
        let index = interfaces.len();
        interfaces.push(self.pod_interface(config.version));
        list(&mut result, "ips")?.extend(self.addresses(config.version, index));
        list(&mut result, "routes")?.extend(self.routes());
        if let Some(dns) = &config.dns {
            result.insert("dns".to_owned(), dns.clone());
        }
        serde_json::to_vec(&result).map_err(CniError::Decode)
    }

    fn host_interface(&self, version: CniVersion) -> Value {
        let mut interface = json!({
            "name": self.attachment.host_interface,
            "mac": self.host_mac.map(|mac| mac.to_string()).unwrap_or_default(),
        });
        self.add_mtu(&mut interface, version);
        interface
    }

    fn pod_interface(&self, version: CniVersion) -> Value {
        let mut interface = json!({
            "name": self.attachment.key.ifname,
            "mac": self.attachment.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            "sandbox": self.attachment.netns,
        });
        self.add_mtu(&mut interface, version);
        // As the MTU, the socket has a place since 1.1.0.
        if let Some(socket) = self.attachment.means.socket()
            && version >= CniVersion::V1_1_0
        {
            interface["socketPath"] = socket.path().display().to_string().into();
        }
        interface
    }

    /// The MTU has a place since 1.1.0.
    fn add_mtu(&self, interface: &mut Value, version: CniVersion) {
        if version >= CniVersion::V1_1_0 {
            interface["mtu"] = self.attachment.mtu_bytes.into();
        }
    }

    fn addresses(&self, version: CniVersion, interface: usize) -> Vec<Value> {
        let entry = |address: &IpAddr| {
            let mut entry = json!({
                "address": IpNet::from(*address).to_string(),
                "interface": interface,
            });
            if let Some(gateway) = self.gateway(Family::of(*address)) {
                entry["gateway"] = gateway.to_string().into();
            }
            // Until 1.0.0, each address had to say its family.
            if version < CniVersion::V1_0_0 {
                entry["version"] = if address.is_ipv4() { "4" } else { "6" }.into();
            }
            entry
        };
        self.attachment.addresses.iter().map(entry).collect()
    }

    fn routes(&self) -> Vec<Value> {
        let route = |address: &IpAddr| {
            let destination = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            let gateway = self.gateway(Family::of(*address))?;
            self.defaults.contains(&gateway).then_some(())?;
            Some(json!({ "dst": destination, "gw": gateway.to_string() }))
        };
        self.attachment.addresses.iter().filter_map(route).collect()
    }

    fn gateway(&self, family: Family) -> Option<IpAddr> {
        self.gateways.iter().find(|gateway| Family::of(**gateway) == family).copied()
    }
}

/// The addresses in a result of an earlier ADD.
#[must_use]
pub fn addresses(result: &Map<String, Value>) -> Vec<IpAddr> {
    let entries = result.get("ips").and_then(Value::as_array);
    let address = |entry: &Value| {
        let text = entry.get("address")?.as_str()?;
        text.parse::<IpNet>().map(|net| net.addr()).ok().or_else(|| text.parse().ok())
    };
    entries.into_iter().flatten().filter_map(address).collect()
}

/// The gateways of the default routes in a result of an earlier ADD.
#[must_use]
pub fn default_gateways(result: &Map<String, Value>) -> Vec<IpAddr> {
    let routes = result.get("routes").and_then(Value::as_array);
    let gateway = |route: &Value| {
        let destination: IpNet = route.get("dst")?.as_str()?.parse().ok()?;
        let gateway = route.get("gw")?.as_str()?.parse().ok()?;
        (destination.prefix_len() == 0).then_some(gateway)
    };
    routes.into_iter().flatten().filter_map(gateway).collect()
}

fn list<'a>(
    result: &'a mut Map<String, Value>,
    field: &str,
) -> Result<&'a mut Vec<Value>, CniError> {
    let entry = result.entry(field).or_insert_with(|| Value::Array(Vec::new()));
    if entry.is_null() {
        *entry = Value::Array(Vec::new());
    }
    entry.as_array_mut().ok_or_else(|| CniError::Config {
        field: "prevResult",
        reason: format!("its {field} is not a list"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attachment::{AttachmentKey, Phase},
        names::PodName,
        vhost_socket::VhostSocket,
    };

    fn render(version: &str, rest: &str) -> Value {
        render_means(version, rest, Means::Veth)
    }

    fn render_means(version: &str, rest: &str, means: Means) -> Value {
        let text = format!(r#"{{"cniVersion": "{version}", "name": "net"{rest}}}"#);
        let config = NetworkConfig::parse(text.as_bytes(), "ADD").unwrap();
        let attachment = Attachment {
            key: AttachmentKey { container_id: "c".into(), ifname: "eth0".into() },
            phase: Phase::Ready,
            network: "net".into(),
            netns: "/run/netns/x".into(),
            pod: PodName::new("default", "web"),
            addresses: vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            mac: Some("0a:58:0a:00:00:05".parse().unwrap()),
            mtu_bytes: 1450,
            host_interface: "vr0".into(),
            means,
            delegate: None,
        };
        let gateways = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let made = Made {
            attachment: &attachment,
            host_mac: None,
            gateways: &gateways,
            defaults: &gateways,
        };
        serde_json::from_slice(&made.render(&config).unwrap()).unwrap()
    }

    #[test]
    fn each_version_has_its_own_fields() {
        let old = render("0.3.1", "");
        assert_eq!(old["ips"][0]["version"], "4");
        assert_eq!(old["ips"][1]["version"], "6");
        assert_eq!(old["interfaces"][1]["mtu"], Value::Null);
        let new = render("1.1.0", "");
        assert_eq!(new["cniVersion"], "1.1.0");
        assert_eq!(new["ips"][0]["version"], Value::Null);
        assert_eq!(new["interfaces"][1]["mtu"], 1450);
        assert_eq!(new["ips"][0]["address"], "10.0.0.5/32");
        assert_eq!(new["ips"][1]["gateway"], "fd00::1");
        assert_eq!(new["routes"][1], json!({"dst": "::/0", "gw": "fd00::1"}));
        assert_eq!(new["interfaces"][1]["sandbox"], "/run/netns/x");
    }

    #[test]
    fn a_port_without_an_interface_on_the_node_has_none_in_the_result() {
        let tap = render_means("1.1.0", "", Means::Tap);
        assert_eq!(
            (&tap["interfaces"][0]["name"], &tap["interfaces"][1]),
            (&json!("eth0"), &Value::Null)
        );
        assert_eq!(tap["ips"][0]["interface"], 0);
        let socket = Means::VhostUser(VhostSocket {
            folder: "/pod/shared-dir".into(),
            name: "c-eth0".into(),
            link: None,
            uid: 0,
            gid: 0,
            device_info: None,
        });
        let vhost = render_means("1.1.0", "", socket.clone());
        assert_eq!(vhost["interfaces"][0]["socketPath"], "/pod/shared-dir/c-eth0");
        assert_eq!(vhost["ips"][1]["address"], "fd00::5/128");
        assert_eq!(render_means("1.0.0", "", socket)["interfaces"][0]["socketPath"], Value::Null);
    }

    #[test]
    fn what_earlier_plugins_made_stays_and_indices_go_on() {
        let rest = r#", "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "lo"}],
            "ips": [{"address": "192.0.2.1/32"}], "routes": null, "dns": {"search": ["x"]}}"#;
        let result = render("1.0.0", rest);
        assert_eq!(result["interfaces"][0]["name"], "lo");
        assert_eq!(result["ips"][1]["interface"], 2);
        assert_eq!(result["dns"]["search"][0], "x");
        assert_eq!(addresses(result.as_object().unwrap()).len(), 3);
    }
}
