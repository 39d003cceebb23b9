//! What a pod is attached by: which types of ports there are, and who says which one.
//!
//! The network's configuration says it (`portType`), or where it is silent the pod's annotation
//! [`PORT_TYPE_ANNOTATION`], or else this node's `pod_port_type`.

use std::{fmt, str::FromStr};

/// The annotation by which a pod asks for a type.
pub const PORT_TYPE_ANNOTATION: &str = "vrouter.io/port-type";

/// The type of a port toward a pod.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PortType {
    /// A veth pair; the engine has the node's end over AF_XDP.
    Veth,
    /// A TAP device in the pod: several times a veth pair's TCP (design note 0016).
    #[default]
    Tap,
    /// A vhost-user socket in a volume of the pod.
    VhostUser,
}

/// A word that names no type.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is none of \"veth\", \"tap\", \"vhost-user\"")]
pub struct UnknownPortType(String);

impl PortType {
    /// The word for it, wherever it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Tap => "tap",
            Self::VhostUser => "vhost-user",
        }
    }
}

impl FromStr for PortType {
    type Err = UnknownPortType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Veth, Self::Tap, Self::VhostUser]
            .into_iter()
            .find(|known| known.as_str() == text)
            .ok_or_else(|| UnknownPortType(text.to_owned()))
    }
}

impl fmt::Display for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_what_its_word_says_and_other_words_are_named() {
        for known in [PortType::Veth, PortType::Tap, PortType::VhostUser] {
            assert_eq!(known.to_string().parse(), Ok(known));
        }
        let error = "ipvlan".parse::<PortType>().unwrap_err().to_string();
        assert_eq!(error, "`ipvlan` is none of \"veth\", \"tap\", \"vhost-user\"");
    }
}
