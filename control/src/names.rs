//! Names that must not be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of a Node object.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct NodeName(String);

/// A pod's namespace and name.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct PodName {
    /// The namespace.
    pub namespace: String,
    /// The name within the namespace.
    pub name: String,
}

/// The interface that a pod's port name leaves out.
pub const PRIMARY_INTERFACE: &str = "eth0";

/// The engine's name for the port toward the fabric.
pub const UPLINK_PORT: &str = "uplink";

/// The engine's name for the port toward the node's own stack.
pub const HOST_PORT: &str = "host";

impl NodeName {
    /// Takes a name as it is.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PodName {
    /// A pod's full name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The engine's name for the pod's port: `namespace/pod` for [`PRIMARY_INTERFACE`], and
    /// `namespace/pod/interface` for others.
    #[must_use]
    pub fn port(&self, interface: &str) -> String {
        if interface == PRIMARY_INTERFACE {
            self.to_string()
        } else {
            format!("{self}/{interface}")
        }
    }

    /// The pod that an interface's port is named after; the other way of [`port`](Self::port).
    #[must_use]
    pub fn of_port(port: &str) -> Option<Self> {
        let mut parts = port.splitn(3, '/').filter(|part| !part.is_empty());
        Some(Self::new(parts.next()?, parts.next()?))
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
