//! What the runtime says in the plugin's environment.

use std::{net::IpAddr, path::PathBuf};

use control_api::node::CniRequest;

use super::{CniError, network_config::parse_addresses};
use crate::{
    attachment::{AttachmentKey, CONTAINER_NAMESPACE},
    mac::MacAddress,
    names::PodName,
};

/// The longest name of an interface, in bytes (the kernel's `IFNAMSIZ` less its final zero).
const IFNAME_BYTES_MAX: usize = 15;

/// The container and the interface that a verb is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Which interface of which container.
    pub key: AttachmentKey,
    /// The container's namespace; DEL may come without one.
    pub netns: Option<PathBuf>,
    /// What `CNI_ARGS` says; DEL does not ask.
    pub args: Args,
}

/// `CNI_ARGS`, as far as it means anything here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Args {
    /// The pod, if the runtime is Kubernetes'.
    pub pod: Option<PodName>,
    /// The pod's UID, by which kubelet names its folder.
    pub pod_uid: Option<String>,
    /// An address asked for the old way.
    pub addresses: Vec<IpAddr>,
    /// A MAC address asked for the old way.
    pub mac: Option<MacAddress>,
}

impl Target {
    /// Checks the environment of ADD, DEL or CHECK.
    ///
    /// # Errors
    ///
    /// Fails on a variable that is missing or has no legal value, and names it.
    pub fn parse(request: &CniRequest) -> Result<Self, CniError> {
        check_container_id(&request.container_id)?;
        check_ifname(&request.ifname)?;
        let netns = Some(&request.netns).filter(|netns| !netns.is_empty()).map(PathBuf::from);
        if netns.is_none() && request.command != "DEL" {
            let reason = "missing: it is the path of the container's namespace".to_owned();
            return Err(CniError::Environment { variable: "CNI_NETNS", reason });
        }
        // ADD refuses what cannot be read; the DEL that follows has to succeed all the same.
        let args = match request.command.as_str() {
            "DEL" => Args::default(),
            _ => Args::parse(&request.args)?,
        };
        Ok(Self {
            key: AttachmentKey {
                container_id: request.container_id.clone(),
                ifname: request.ifname.clone(),
            },
            netns,
            args,
        })
    }

    /// The pod's name; a container that is none has one of its own.
    #[must_use]
    pub fn pod(&self) -> PodName {
        self.args
            .pod
            .clone()
            .unwrap_or_else(|| PodName::new(CONTAINER_NAMESPACE, &self.key.container_id))
    }
}

impl Args {
    /// Reads `KEY=value` pairs with semicolons between them.
    fn parse(text: &str) -> Result<Self, CniError> {
        let wrong = |reason| CniError::Environment { variable: "CNI_ARGS", reason };
        let mut args = Self::default();
        let (mut namespace, mut name, mut unknown, mut ignores_unknown) = (None, None, None, false);
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| wrong(format!("`{pair}` is not KEY=value")))?;
            match key {
                "IgnoreUnknown" => ignores_unknown = matches!(value, "1" | "true" | "True"),
                "K8S_POD_NAMESPACE" => namespace = Some(value),
                "K8S_POD_NAME" => name = Some(value),
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                "K8S_POD_UID" => args.pod_uid = Some(value.to_owned()).filter(|it| is_uid(it)),
                "IP" => args.addresses = parse_addresses(&[value.to_owned()])?,
                "MAC" => {
                    let mac = value.parse().map_err(|error| wrong(format!("MAC: {error}")))?;
                    args.mac = Some(mac);
                }
                _ => unknown = Some(key),
            }
        }
        if let Some(key) = unknown.filter(|_| !ignores_unknown) {
            return Err(wrong(format!("`{key}` is not known; add IgnoreUnknown=1 to allow it")));
        }
        args.pod = match (namespace, name) {
            (Some(namespace), Some(name)) if is_pod_name(namespace) && is_pod_name(name) => {
                Some(PodName::new(namespace, name))
            }
            (None | Some(""), None | Some("")) => None,
            _ => {
                let reason = "K8S_POD_NAMESPACE and K8S_POD_NAME must both be names".to_owned();
                return Err(wrong(reason));
            }
        };
        Ok(args)
    }
}

/// Letters, digits, dots and dashes (RFC 1123 section 2.1), so that a port's name has its slashes
/// between its parts only.
fn is_pod_name(text: &str) -> bool {
    let is_legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    !text.is_empty() && text.chars().all(is_legal)
}

/// What kubelet makes a folder of: nothing that leads out of it.
fn is_uid(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// Section 2 of the specification: a letter or digit, then also `_`, `.`, `-`.
fn check_container_id(id: &str) -> Result<(), CniError> {
    let is_legal = id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if is_legal {
        return Ok(());
    }
    let reason = if id.is_empty() {
        "missing: it is the container's id".to_owned()
    } else {
        format!("`{id}` must be letters, digits, `_`, `.` and `-`, a letter or digit first")
    };
    Err(CniError::Environment { variable: "CNI_CONTAINERID", reason })
}

fn check_ifname(name: &str) -> Result<(), CniError> {
    let reason = if name.is_empty() {
        "missing: it is the interface's name in the container".to_owned()
    } else if name.len() > IFNAME_BYTES_MAX {
        format!("`{name}` has {} bytes, at most {IFNAME_BYTES_MAX} fit", name.len())
    } else if name == "." || name == ".." || name.contains(['/', ':']) {
        format!("`{name}` is no legal name")
    } else if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        format!("`{name:?}` has blanks")
    } else {
        return Ok(());
    };
    Err(CniError::Environment { variable: "CNI_IFNAME", reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(args: &str) -> CniRequest {
        CniRequest {
            command: "ADD".into(),
            container_id: "abc".into(),
            netns: "/run/netns/x".into(),
            ifname: "eth0".into(),
            args: args.into(),
            ..CniRequest::default()
        }
    }

    #[test]
    fn a_pod_is_named_by_kubernetes_arguments() {
        let text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web;K8S_POD_UID=u;X=y";
        let target = Target::parse(&request(text)).unwrap();
        assert_eq!(target.pod(), PodName::new("demo", "web"));
    }

    #[test]
    fn a_container_that_is_no_pod_has_a_name_of_its_own() {
        let target = Target::parse(&request("")).unwrap();
        assert_eq!(target.pod().port("eth0"), "container/abc");
    }

    #[test]
    fn wrong_variables_are_named() {
        let wrong = |change: fn(&mut CniRequest)| {
            let mut request = request("");
            change(&mut request);
            let error = Target::parse(&request).unwrap_err();
            assert_eq!(error.code(), 4);
            error.to_string()
        };
        assert!(wrong(|r| r.container_id.clear()).starts_with("CNI_CONTAINERID: missing"));
        assert!(wrong(|r| r.container_id = "-a".into()).starts_with("CNI_CONTAINERID: `-a`"));
        assert!(wrong(|r| r.ifname = "a/b".into()).starts_with("CNI_IFNAME"));
        assert!(wrong(|r| r.ifname = "x".repeat(16)).contains("16 bytes"));
        assert!(wrong(|r| r.netns.clear()).starts_with("CNI_NETNS: missing"));
        assert!(wrong(|r| r.args = "nonsense".into()).starts_with("CNI_ARGS"));
        assert!(wrong(|r| r.args = "UNKNOWN=1".into()).contains("IgnoreUnknown"));
        assert!(wrong(|r| r.args = "K8S_POD_NAME=only".into()).contains("both"));
        assert!(wrong(|r| r.args = "K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=c".into()).contains("both"));
    }

    #[test]
    fn del_needs_no_namespace() {
        let request = CniRequest { command: "DEL".into(), netns: String::new(), ..request("") };
        assert_eq!(Target::parse(&request).unwrap().netns, None);
    }
}
