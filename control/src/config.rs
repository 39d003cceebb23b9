//! `vrouter.toml`, section `[control]`.
//!
//! The file is shared with the engine, whose section `[engine]` is not looked at here. Every key is
//! described in `docs/vrouter.toml`; a test compares.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use control_api::{
    connect::{CONTROL_SOCKET, ENGINE_SOCKET},
    engine::{VxlanSettings, af_xdp_backend::Mode},
};
use serde::Deserialize;

use crate::{
    names::NodeName,
    port_type::{PortType, UnknownPortType},
};

/// Where the file is unless told otherwise.
pub const CONFIG_PATH: &str = "/etc/vrouter/vrouter.toml";

/// The most queues of one interface: more than a node has cores for.
const QUEUES_MAX: u32 = 256;

/// The smallest MTU of an IPv6 link (RFC 8200 section 5).
const MTU_BYTES_MIN: u32 = 1280;

/// The largest MTU there is: an IP packet's length has 16 bits.
const MTU_BYTES_MAX: u32 = 65_535;

/// The most UDP ports besides our own: the engine takes 8 in all, kernel peers may need 3.
pub const UDP_PORTS_MAX: usize = 4;

/// The largest DSCP (RFC 2474: six bits).
const DSCP_MAX: u32 = 63;

/// The longest name of an interface, in bytes.
const INTERFACE_NAME_BYTES_MAX: usize = 15;

/// The configuration of control, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The name of this node's Node object.
    pub node_name: NodeName,
    /// The folder of manifests.
    pub manifests: PathBuf,
    /// Where control listens.
    pub socket: PathBuf,
    /// Where the engine listens.
    pub engine_socket: PathBuf,
    /// Where the database is.
    pub state_dir: PathBuf,
    /// The interface toward the other nodes.
    pub uplink: String,
    /// How its queues are opened.
    pub uplink_mode: Mode,
    /// How many of its queues are opened; 0: all.
    pub uplink_queues: u32,
    /// The pods' MTU; measured if there is none.
    pub pod_mtu_bytes: Option<u32>,
    /// How many queues a pod's port has, if the configuration says.
    pub pod_queues: Option<u32>,
    /// What pods are attached by unless they or their network say.
    pub pod_port_type: PortType,
    /// What the node's own stack is attached by.
    pub host_port_type: PortType,
    /// Where kubelet keeps the volumes of pods.
    pub kubelet_dir: PathBuf,
    /// Where metrics are served, if at all.
    pub metrics: Option<SocketAddr>,
    /// How encapsulated packets look.
    pub vxlan: VxlanSettings,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum ConfigError {
    #[error("cannot read {path}: name another file with --config, or see docs/vrouter.toml")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("{path}: unknown key `{key}`{}", did_you_mean(nearest.as_deref(), known))]
    UnknownKey { path: PathBuf, key: String, nearest: Option<String>, known: String },

    #[error("{path}: {message}")]
    Toml { path: PathBuf, message: String },

    #[error("{path}: there is no section [control]; see docs/vrouter.toml")]
    NoSection { path: PathBuf },

    #[error("{path}: control.{key}: {reason}")]
    Value { path: PathBuf, key: &'static str, reason: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    control: Option<Section>,
    #[serde(rename = "engine")]
    _engine: Option<toml::Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    node_name: Option<String>,
    manifests: Option<PathBuf>,
    socket: Option<PathBuf>,
    engine_socket: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    uplink: Option<String>,
    uplink_mode: Option<String>,
    uplink_queues: Option<u32>,
    pod_mtu_bytes: Option<u32>,
    pod_queues: Option<u32>,
    pod_port_type: Option<String>,
    host_port_type: Option<String>,
    kubelet_dir: Option<PathBuf>,
    metrics: Option<String>,
    vxlan: Option<VxlanSection>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct VxlanSection {
    udp_ports: Option<Vec<u32>>,
    dscp: Option<u32>,
    ipv6_zero_checksum: Option<bool>,
    outer_dont_fragment: Option<bool>,
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read, or as [`Config::parse`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Reads a text; `path` is what errors name.
    ///
    /// # Errors
    ///
    /// Fails on text that is not TOML, on unknown keys, and on values that cannot be.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|error| explain(path, &error))?;
        let section =
            file.control.ok_or_else(|| ConfigError::NoSection { path: path.to_owned() })?;
        section.check().map_err(|(key, reason)| ConfigError::Value {
            path: path.to_owned(),
            key,
            reason,
        })
    }
}

impl Config {
    /// Our folder of links to the folders of vhost-user sockets.
    #[must_use]
    pub fn vhost_folder(&self) -> PathBuf {
        self.socket.with_file_name("vhost-user")
    }
}

impl Section {
    fn check(self) -> Result<Config, (&'static str, String)> {
        let node_name = match self.node_name {
            Some(name) => name,
            None => host_name().map_err(|error| ("node_name", error.to_string()))?,
        };
        if node_name.is_empty() {
            return Err(("node_name", "it is empty: give the Node object's name".to_owned()));
        }
        let uplink = self.uplink.unwrap_or_default();
        check_interface(&uplink).map_err(|reason| ("uplink", reason))?;
        let uplink_queues = self.uplink_queues.unwrap_or(0);
        check_limits(uplink_queues, 0, QUEUES_MAX).map_err(|reason| ("uplink_queues", reason))?;
        if let Some(pod_queues) = self.pod_queues {
            check_limits(pod_queues, 1, QUEUES_MAX).map_err(|reason| ("pod_queues", reason))?;
        }
        if let Some(mtu_bytes) = self.pod_mtu_bytes {
            check_limits(mtu_bytes, MTU_BYTES_MIN, MTU_BYTES_MAX)
                .map_err(|reason| ("pod_mtu_bytes", reason))?;
        }
        Ok(Config {
            node_name: NodeName::new(node_name),
            manifests: self.manifests.unwrap_or_else(|| "/etc/vrouter/manifests".into()),
            socket: self.socket.unwrap_or_else(|| CONTROL_SOCKET.into()),
            engine_socket: self.engine_socket.unwrap_or_else(|| ENGINE_SOCKET.into()),
            state_dir: self.state_dir.unwrap_or_else(|| "/var/lib/vrouter".into()),
            uplink,
            uplink_mode: parse_mode(self.uplink_mode.as_deref())?,
            uplink_queues,
            pod_mtu_bytes: self.pod_mtu_bytes,
            pod_queues: self.pod_queues,
            pod_port_type: self
                .pod_port_type
                .map_or(Ok(PortType::default()), |text| parse_port_type("pod_port_type", &text))?,
            host_port_type: parse_host_port_type(self.host_port_type.as_deref())?,
            kubelet_dir: self.kubelet_dir.unwrap_or_else(|| "/var/lib/kubelet".into()),
            metrics: parse_metrics(self.metrics.as_deref())?,
            vxlan: self.vxlan.unwrap_or_default().check()?,
        })
    }
}

impl VxlanSection {
    fn check(self) -> Result<VxlanSettings, (&'static str, String)> {
        let udp_ports = self.udp_ports.unwrap_or_default();
        if udp_ports.len() > UDP_PORTS_MAX {
            let reason = format!("{} are too many, at most {UDP_PORTS_MAX} fit", udp_ports.len());
            return Err(("vxlan.udp_ports", reason));
        }
        for port in &udp_ports {
            check_limits(*port, 1, u32::from(u16::MAX))
                .map_err(|reason| ("vxlan.udp_ports", reason))?;
        }
        if let Some(dscp) = self.dscp {
            check_limits(dscp, 0, DSCP_MAX).map_err(|reason| ("vxlan.dscp", reason))?;
        }
        Ok(VxlanSettings {
            udp_ports,
            dscp_fixed: self.dscp.is_some(),
            dscp: self.dscp.unwrap_or(0),
            ipv6_zero_checksum: self.ipv6_zero_checksum.unwrap_or(false),
            outer_dont_fragment: self.outer_dont_fragment.unwrap_or(true),
        })
    }
}

fn check_limits(value: u32, min: u32, max: u32) -> Result<(), String> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(format!("{value} is not within {min} to {max}"))
    }
}

fn check_interface(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("missing: name the interface toward the other nodes, for example \
                    uplink = \"eth0\""
            .to_owned());
    }
    if name.len() > INTERFACE_NAME_BYTES_MAX || name.contains(['/', ' ']) {
        return Err(format!("`{name}` is not the name of an interface"));
    }
    Ok(())
}

fn parse_mode(text: Option<&str>) -> Result<Mode, (&'static str, String)> {
    match text.unwrap_or("auto") {
        "auto" => Ok(Mode::Auto),
        "zero-copy" => Ok(Mode::ZeroCopy),
        "copy" => Ok(Mode::Copy),
        "generic" => Ok(Mode::Generic),
        other => Err((
            "uplink_mode",
            format!("`{other}` is none of \"auto\", \"zero-copy\", \"copy\", \"generic\""),
        )),
    }
}

fn parse_port_type(key: &'static str, text: &str) -> Result<PortType, (&'static str, String)> {
    text.parse().map_err(|error: UnknownPortType| (key, error.to_string()))
}

/// A change makes `vrhost0` anew, so this default is not that of pods (design note 0016).
fn parse_host_port_type(text: Option<&str>) -> Result<PortType, (&'static str, String)> {
    match text.map_or(Ok(PortType::Veth), |text| parse_port_type("host_port_type", text))? {
        PortType::VhostUser => {
            let reason = "the node's own stack has no vhost-user: \"veth\" or \"tap\"".to_owned();
            Err(("host_port_type", reason))
        }
        kind => Ok(kind),
    }
}

/// An address to serve metrics on; an empty one switches them off.
fn parse_metrics(text: Option<&str>) -> Result<Option<SocketAddr>, (&'static str, String)> {
    let text = text.unwrap_or("127.0.0.1:9301");
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let reason =
            format!("`{text}` is no address and port, such as 127.0.0.1:9301; \"\" is off");
        ("metrics", reason)
    })
}

/// Kubernetes names a node after its machine unless told otherwise.
fn host_name() -> Result<String, io::Error> {
    Ok(fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}

/// Makes of the parser's error one that names the key and the nearest one there is.
fn explain(path: &Path, error: &toml::de::Error) -> ConfigError {
    let path = path.to_owned();
    let quoted: Vec<&str> = error.message().split('`').skip(1).step_by(2).collect();
    match quoted.split_first() {
        Some((key, known)) if error.message().starts_with("unknown field") => {
            // Beyond this similarity, a suggestion confuses more than it helps.
            const SIMILAR: f64 = 0.7;
            let nearest = known
                .iter()
                .map(|candidate| (strsim::jaro_winkler(key, candidate), *candidate))
                .filter(|(similarity, _)| *similarity >= SIMILAR)
                .max_by(|(a, _), (b, _)| a.total_cmp(b))
                .map(|(_, candidate)| candidate.to_owned());
            let known = known.join(", ");
            ConfigError::UnknownKey { path, key: (*key).to_owned(), nearest, known }
        }
        _ => ConfigError::Toml { path, message: error.to_string() },
    }
}

fn did_you_mean(nearest: Option<&str>, known: &str) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None => format!("; the keys there are: {known}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("vrouter.toml"), text)
    }

    #[test]
    fn the_uplink_is_the_only_key_without_a_default() {
        let config = parse("[control]\nuplink = 'eth0'\n[engine]\nworkers = 2\n").unwrap();
        assert_eq!(config.socket, Path::new("/run/vrouter/control.sock"));
        assert_eq!(config.metrics.unwrap().to_string(), "127.0.0.1:9301");
        assert!(!config.node_name.as_str().is_empty());
        assert_eq!((config.pod_port_type, config.host_port_type), (PortType::Tap, PortType::Veth));
        let error = parse("[control]\n").unwrap_err();
        assert!(error.to_string().contains("control.uplink: missing"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        let error = parse("[control]\nuplnk = 'eth0'\n").unwrap_err();
        assert_eq!(error.to_string(), "vrouter.toml: unknown key `uplnk`; did you mean `uplink`?");
        let error = parse("[control]\nuplink = 'e'\nzzz = 1\n").unwrap_err();
        assert!(error.to_string().contains("the keys there are: node_name, manifests"), "{error}");
        let error = parse("[controll]\n").unwrap_err();
        assert!(error.to_string().contains("did you mean `control`?"), "{error}");
        let error = parse("[control]\nuplink = 'e'\n[control.vxlan]\nudp_port = 1\n").unwrap_err();
        assert!(error.to_string().contains("did you mean `udp_ports`?"), "{error}");
    }

    #[test]
    fn values_that_cannot_be_are_refused_by_key() {
        for (line, key) in [
            ("uplink_mode = 'fast'", "uplink_mode"),
            ("pod_mtu_bytes = 500", "pod_mtu_bytes"),
            ("pod_queues = 0", "pod_queues"),
            ("pod_port_type = 'ipvlan'", "pod_port_type"),
            ("host_port_type = 'vhost-user'", "host_port_type"),
            ("metrics = 'here'", "metrics"),
            ("vxlan.dscp = 64", "vxlan.dscp"),
            ("vxlan.udp_ports = [70000]", "vxlan.udp_ports"),
            ("node_name = ''", "node_name"),
        ] {
            let error = parse(&format!("[control]\nuplink = 'e'\n{line}\n")).unwrap_err();
            assert!(error.to_string().contains(&format!("control.{key}: ")), "{line}: {error}");
        }
        let error = parse("[control]\nuplink = 7\n").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }

    #[test]
    fn metrics_can_be_switched_off() {
        assert_eq!(parse("[control]\nuplink = 'e'\nmetrics = ''\n").unwrap().metrics, None);
    }

    #[test]
    fn the_documented_file_is_legal_and_has_every_key() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vrouter.toml");
        let text = fs::read_to_string(&path).unwrap();
        Config::parse(&path, &text).unwrap();
        let error = parse("[control]\nzzz = 1\n").unwrap_err();
        let ConfigError::UnknownKey { known, .. } = error else { panic!("{error}") };
        let error = parse("[control.vxlan]\nzzz = 1\n").unwrap_err();
        let ConfigError::UnknownKey { known: vxlan, .. } = error else { panic!("{error}") };
        for key in known.split(", ").chain(vxlan.split(", ")).filter(|key| *key != "vxlan") {
            let is_there =
                ["", "# "].iter().any(|mark| text.contains(&format!("\n{mark}{key} = ")));
            assert!(is_there, "docs/vrouter.toml lacks {key}");
        }
    }
}
