//! The ports of a pod that have a name, for which policies may ask.

use k8s_openapi::api::core::v1 as core;

/// A transport protocol that Kubernetes knows.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(missing_docs, reason = "the variants are the protocols' names")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A port of a pod that has a name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// The protocol that it is a port of.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
}

impl Protocol {
    /// Reads the word that objects use; no word means TCP. `None` if there is no such protocol.
    #[must_use]
    pub fn from_word(word: Option<&str>) -> Option<Self> {
        match word {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// The word that objects use.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// The number in the IP header, as IANA assigns it.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// The named ports of a pod's containers: those that run beside each other, so sidecars (init
/// containers that are restarted) but no other init containers. A port that says nothing sensible
/// is left out: what Kubernetes would not accept, nothing can listen at.
pub(super) fn named_ports(pod: &core::Pod) -> Vec<NamedPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let inits = spec.init_containers.iter().flatten();
    let sidecars = inits.filter(|found| found.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    let mut ports: Vec<_> = containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let name = port.name.clone().filter(|name| !name.is_empty())?;
            let protocol = Protocol::from_word(port.protocol.as_deref())?;
            let number = u16::try_from(port.container_port).ok().filter(|number| *number > 0)?;
            Some(NamedPort { name, protocol, number })
        })
        .collect();
    ports.sort();
    ports.dedup();
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_containers_and_sidecars_count_and_nonsense_does_not() {
        let pod = serde_json::json!({"spec": {
            "initContainers": [
                {"name": "once", "ports": [{"name": "once", "containerPort": 1}]},
                {"name": "proxy", "restartPolicy": "Always",
                 "ports": [{"name": "proxy", "containerPort": 15000}]}],
            "containers": [{"name": "web", "ports": [
                {"name": "http", "containerPort": 8080},
                {"name": "http", "containerPort": 8080, "protocol": "TCP"},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                {"name": "odd", "containerPort": 70000},
                {"name": "dccp", "containerPort": 5, "protocol": "DCCP"},
                {"containerPort": 9090}]}],
        }});
        let found = named_ports(&serde_json::from_value(pod).unwrap());
        let port = |name: &str, protocol, number| NamedPort { name: name.into(), protocol, number };
        let expected = [
            port("dns", Protocol::Udp, 53),
            port("http", Protocol::Tcp, 8080),
            port("proxy", Protocol::Tcp, 15000),
        ];
        assert_eq!(found, expected);
    }
}
