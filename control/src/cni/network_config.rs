//! The network configuration on the plugin's standard input.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use ipnet::IpNet;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{CniError, VERSIONS};
use crate::{
    attachment::AttachmentKey,
    mac::MacAddress,
    port_type::{PORT_TYPE_ANNOTATION, PortType, UnknownPortType},
};

/// Where a type was found that a pod's annotation names.
pub(super) const ANNOTATION_FIELD: &str = "annotation vrouter.io/port-type (of the pod)";

/// A configuration that this version can carry out.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkConfig {
    /// The version that results and errors are written in.
    pub version: CniVersion,
    /// The network's name.
    pub name: String,
    /// The IPAM plugin that gives the addresses, if it is not us.
    pub ipam_plugin: Option<String>,
    /// What containers are attached by, as the network says, or else the pod by its annotation.
    pub port_type: Option<PortType>,
    /// Where the sockets of this network are on the node, instead of in the pods' volumes.
    pub shared_dir: Option<PathBuf>,
    /// Where the runtime wants to read what the device is.
    pub device_info: Option<PathBuf>,
    /// The MAC address that the runtime asks for.
    pub mac: Option<MacAddress>,
    /// The addresses that the runtime asks for.
    pub addresses: Vec<IpAddr>,
    /// What earlier plugins of the list have made.
    pub previous: Option<Map<String, Value>>,
    /// Name servers for the result.
    pub dns: Option<Value>,
    /// The attachments that are in use, for GC.
    pub valid: Option<BTreeSet<AttachmentKey>>,
    /// The whole, for an IPAM plugin.
    pub text: String,
}

/// A version of the specification. The order of the variants is that of the versions.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[expect(missing_docs, reason = "the variants are named after the versions")]
pub enum CniVersion {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

/// The fields that are looked at; all others are other plugins' business.
#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "cniVersion", default)]
    cni_version: String,
    #[serde(default)]
    name: String,
    ipam: Option<Ipam>,
    #[serde(rename = "portType")]
    port_type: Option<String>,
    #[serde(rename = "sharedDir")]
    shared_dir: Option<PathBuf>,
    /// Decoded for the verbs that act upon it.
    #[serde(rename = "runtimeConfig")]
    runtime: Option<Value>,
    #[serde(rename = "prevResult")]
    previous: Option<Value>,
    dns: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<ValidAttachment>>,
    #[serde(rename = "cni.dev/attachments")]
    valid_before: Option<Vec<ValidAttachment>>,
}

#[derive(Deserialize)]
struct Ipam {
    #[serde(rename = "type", default)]
    plugin: String,
}

/// What the runtime fills in for the capabilities that the configuration announces.
#[derive(Default, Deserialize)]
struct Runtime {
    mac: Option<String>,
    ips: Option<Vec<String>>,
    bandwidth: Option<Map<String, Value>>,
    #[serde(rename = "portMappings")]
    port_mappings: Option<Vec<Value>>,
    #[serde(rename = "deviceID")]
    device_id: Option<String>,
    dns: Option<RuntimeDns>,
    #[serde(rename = "CNIDeviceInfoFile")]
    device_info: Option<PathBuf>,
    #[serde(rename = "io.kubernetes.cri.pod-annotations", default)]
    annotations: BTreeMap<String, String>,
}

/// The capability's words for name servers, which are not those of the result.
#[derive(Deserialize)]
struct RuntimeDns {
    #[serde(default)]
    servers: Vec<String>,
    #[serde(default)]
    searches: Vec<String>,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

impl CniVersion {
    /// The version as the specification writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => VERSIONS[0],
            Self::V0_4_0 => VERSIONS[1],
            Self::V1_0_0 => VERSIONS[2],
            Self::V1_1_0 => VERSIONS[3],
        }
    }

    fn parse(text: &str) -> Result<Self, CniError> {
        match text {
            "0.3.1" => Ok(Self::V0_3_1),
            "0.4.0" => Ok(Self::V0_4_0),
            "1.0.0" => Ok(Self::V1_0_0),
            "1.1.0" => Ok(Self::V1_1_0),
            _ => Err(CniError::Version { found: text.to_owned() }),
        }
    }
}

impl NetworkConfig {
    /// Reads a configuration as far as `verb` needs it.
    ///
    /// What the runtime and earlier plugins say is for ADD and CHECK only. The other verbs must
    /// succeed after an ADD that was refused, with the same configuration.
    ///
    /// # Errors
    ///
    /// Fails if it is not JSON of the right shape, of a version that is not spoken, or asks ADD or
    /// CHECK for what this version does not do. Nothing that is asked for is left out silently.
    pub fn parse(bytes: &[u8], verb: &str) -> Result<Self, CniError> {
        let builds = matches!(verb, "ADD" | "CHECK");
        let fields: Fields = serde_json::from_slice(bytes).map_err(CniError::Decode)?;
        let version = CniVersion::parse(&fields.cni_version)?;
        check_name(&fields.name)?;
        let runtime: Runtime = decode(fields.runtime.filter(|_| builds))?.unwrap_or_default();
        runtime.check_supported()?;
        let ipam_plugin = match fields.ipam.map(Ipam::check).transpose() {
            // ADD has refused it, so it has nothing to give back.
            Err(_) if matches!(verb, "DEL" | "GC") => None,
            checked => checked?.flatten(),
        };
        let text = String::from_utf8_lossy(bytes).into_owned();
        Ok(Self {
            version,
            name: fields.name,
            ipam_plugin,
            port_type: port_type(fields.port_type.filter(|_| builds), &runtime)?,
            shared_dir: absolute("sharedDir", fields.shared_dir.filter(|_| builds))?,
            device_info: absolute("runtimeConfig.CNIDeviceInfoFile", runtime.device_info)?,
            mac: runtime.mac.as_deref().map(parse_mac).transpose()?,
            addresses: parse_addresses(runtime.ips.as_deref().unwrap_or_default())?,
            previous: decode(fields.previous.filter(|_| builds))?,
            dns: runtime.dns.map(RuntimeDns::for_result).or(fields.dns),
            valid: fields.valid.or(fields.valid_before).map(|listed| {
                let key = |entry: ValidAttachment| AttachmentKey {
                    container_id: entry.container_id,
                    ifname: entry.ifname,
                };
                listed.into_iter().map(key).collect()
            }),
            text,
        })
    }
}

impl Runtime {
    /// Turns back what is asked for and not built yet.
    fn check_supported(&self) -> Result<(), CniError> {
        let is_limited = |limits: &Map<String, Value>| {
            limits.values().any(|limit| !limit.is_null() && limit.as_f64() != Some(0.0))
        };
        if self.bandwidth.as_ref().is_some_and(is_limited) {
            return Err(CniError::Unsupported {
                field: "runtimeConfig.bandwidth",
                advice: "remove the pod's bandwidth annotations, or the capability `bandwidth`",
            });
        }
        if self.port_mappings.as_ref().is_some_and(|mappings| !mappings.is_empty()) {
            return Err(CniError::Unsupported {
                field: "runtimeConfig.portMappings",
                advice: "remove the pod's hostPort, or chain the portmap plugin and leave the \
                         capability `portMappings` to it",
            });
        }
        if self.device_id.as_ref().is_some_and(|device| !device.is_empty()) {
            return Err(CniError::Unsupported {
                field: "runtimeConfig.deviceID",
                advice: "remove the capability `deviceID`: no port type takes a device",
            });
        }
        Ok(())
    }
}

impl RuntimeDns {
    fn for_result(self) -> Value {
        json!({ "nameservers": self.servers, "search": self.searches, "options": self.options })
    }
}

impl Ipam {
    /// The plugin's name; an empty section means ours.
    fn check(self) -> Result<Option<String>, CniError> {
        if self.plugin.contains('/') || self.plugin == ".." {
            let reason = format!("`{}` is a path: give the plugin's name alone", self.plugin);
            return Err(CniError::Config { field: "ipam.type", reason });
        }
        Ok(Some(self.plugin).filter(|plugin| !plugin.is_empty()))
    }
}

fn decode<T: DeserializeOwned>(value: Option<Value>) -> Result<Option<T>, CniError> {
    value.map(serde_json::from_value).transpose().map_err(CniError::Decode)
}

/// A network's name: what the specification allows (section 1).
fn check_name(name: &str) -> Result<(), CniError> {
    let is_legal = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if is_legal {
        return Ok(());
    }
    let reason = if name.is_empty() {
        "missing: give the network a name".to_owned()
    } else {
        format!("`{name}` must be letters, digits, `_`, `.` and `-`, a letter or digit first")
    };
    Err(CniError::Config { field: "name", reason })
}

fn port_type(configured: Option<String>, runtime: &Runtime) -> Result<Option<PortType>, CniError> {
    let annotated = runtime.annotations.get(PORT_TYPE_ANNOTATION);
    match (configured, annotated) {
        (Some(text), _) => parse_port_type("portType", &text).map(Some),
        (None, Some(text)) => parse_port_type(ANNOTATION_FIELD, text).map(Some),
        (None, None) => Ok(None),
    }
}

/// The type of a port by its word; `field` is where the word was found.
pub(super) fn parse_port_type(field: &'static str, text: &str) -> Result<PortType, CniError> {
    text.parse()
        .map_err(|error: UnknownPortType| CniError::Config { field, reason: error.to_string() })
}

/// A path that does not depend on where we run.
fn absolute(field: &'static str, path: Option<PathBuf>) -> Result<Option<PathBuf>, CniError> {
    match path {
        Some(path) if !path.is_absolute() => {
            let reason = format!("`{}` is no absolute path", path.display());
            Err(CniError::Config { field, reason })
        }
        path => Ok(path),
    }
}

fn parse_mac(text: &str) -> Result<MacAddress, CniError> {
    text.parse().map_err(|error| CniError::Config {
        field: "runtimeConfig.mac",
        reason: format!("{error}"),
    })
}

/// Addresses with or without a prefix length, which means nothing here.
pub(super) fn parse_addresses(texts: &[String]) -> Result<Vec<IpAddr>, CniError> {
    let parse = |text: &String| {
        let address = text.parse::<IpNet>().map(|net| net.addr()).or_else(|_| text.parse());
        address.map_err(|_| CniError::Config {
            field: "runtimeConfig.ips",
            reason: format!("`{text}` is not an IP address"),
        })
    };
    texts.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> Result<NetworkConfig, CniError> {
        let text =
            format!(r#"{{"cniVersion": "1.0.0", "name": "net", "type": "vrouter-cni"{rest}}}"#);
        NetworkConfig::parse(text.as_bytes(), "ADD")
    }

    #[test]
    fn a_plain_configuration_asks_for_nothing() {
        let config = parse("").unwrap();
        assert_eq!((config.version, config.name.as_str()), (CniVersion::V1_0_0, "net"));
        assert_eq!((config.mac, config.addresses.len(), config.ipam_plugin), (None, 0, None));
    }

    #[test]
    fn mac_and_addresses_are_taken_from_the_runtime() {
        let config = parse(
            r#", "runtimeConfig": {"mac": "0a:58:00:00:00:01", "ips": ["10.0.0.5/24", "fd00::5"],
               "bandwidth": {"ingressRate": 0}, "portMappings": [], "dns": {"servers": ["10.96.0.10"], "searches": ["x"]}, "io.kubernetes.cri.pod-annotations": {}}"#,
        )
        .unwrap();
        assert_eq!(config.mac.unwrap().to_string(), "0a:58:00:00:00:01");
        assert_eq!(config.addresses.len(), 2);
        assert_eq!(config.dns.unwrap()["nameservers"][0], "10.96.0.10");
    }

    #[test]
    fn the_network_says_the_port_type_and_else_the_pod() {
        let pod = |word: &str| {
            format!(
                r#""runtimeConfig": {{"io.kubernetes.cri.pod-annotations": {{
                   "vrouter.io/port-type": "{word}"}}}}"#
            )
        };
        assert_eq!(parse("").unwrap().port_type, None);
        let config = parse(&format!(", {}", pod("tap"))).unwrap();
        assert_eq!(config.port_type, Some(PortType::Tap));
        let config = parse(&format!(r#", "portType": "vhost-user", {}"#, pod("tap"))).unwrap();
        assert_eq!(config.port_type, Some(PortType::VhostUser));
        for rest in [r#""portType": "ipvlan""#, &pod("ipvlan"), r#""sharedDir": "here""#] {
            let error = parse(&format!(", {rest}")).unwrap_err();
            let named = ["`ipvlan`", "`here`"].iter().any(|it| error.to_string().contains(it));
            assert!(error.code() == 7 && named, "{error}");
            let text = format!(r#"{{"cniVersion": "1.0.0", "name": "net", {rest}}}"#);
            NetworkConfig::parse(text.as_bytes(), "DEL").unwrap();
        }
    }

    #[test]
    fn what_add_refuses_the_verbs_that_remove_do_not() {
        for rest in [
            r#""runtimeConfig": {"bandwidth": {"ingressRate": 1000}}"#,
            r#""runtimeConfig": {"mac": "x", "ips": ["x"]}"#,
            r#""runtimeConfig": {"ips": 1}"#,
            r#""ipam": {"type": "../evil"}"#,
            r#""prevResult": 1"#,
        ] {
            let text = format!(r#"{{"cniVersion": "1.1.0", "name": "net", {rest}}}"#);
            let parse = |verb| NetworkConfig::parse(text.as_bytes(), verb);
            assert!(parse("ADD").is_err(), "{rest}");
            for verb in ["DEL", "GC"] {
                assert_eq!(parse(verb).unwrap().ipam_plugin, None, "{verb}: {rest}");
            }
        }
    }

    #[test]
    fn what_is_not_built_is_refused_with_code_2() {
        for rest in [
            r#""bandwidth": {"ingressRate": 1000, "ingressBurst": 1000}"#,
            r#""portMappings": [{"hostPort": 80, "containerPort": 80}]"#,
            r#""deviceID": "0000:01:00.1""#,
        ] {
            let error = parse(&format!(r#", "runtimeConfig": {{{rest}}}"#)).unwrap_err();
            assert_eq!(error.code(), 2, "{error}");
        }
    }

    #[test]
    fn configurations_that_cannot_be_are_refused_by_code_and_field() {
        assert_eq!(NetworkConfig::parse(b"{", "ADD").unwrap_err().code(), 6);
        assert_eq!(NetworkConfig::parse(br#"{"name": "x"}"#, "ADD").unwrap_err().code(), 1);
        for old in ["0.2.0", "0.3.0"] {
            let text = format!(r#"{{"cniVersion": "{old}", "name": "x"}}"#);
            assert_eq!(NetworkConfig::parse(text.as_bytes(), "ADD").unwrap_err().code(), 1);
        }
        let unnamed = br#"{"cniVersion": "1.0.0"}"#;
        assert!(
            NetworkConfig::parse(unnamed, "ADD").unwrap_err().to_string().contains("name: missing")
        );
        for rest in [
            r#", "runtimeConfig": {"mac": "x"}"#,
            r#", "runtimeConfig": {"ips": ["x"]}"#,
            r#", "ipam": {"type": "../evil"}"#,
        ] {
            assert_eq!(parse(rest).unwrap_err().code(), 7, "{rest}");
        }
    }

    #[test]
    fn both_spellings_of_valid_attachments_are_read() {
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let rest = format!(r#", "{key}": [{{"containerID": "c", "ifname": "eth0"}}]"#);
            assert_eq!(parse(&rest).unwrap().valid.unwrap().len(), 1);
        }
        assert_eq!(parse("").unwrap().valid, None);
    }
}
