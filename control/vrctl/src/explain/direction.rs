//! The two sides that a connection needs the consent of.

/// Which way the judged end sees the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Direction {
    /// It is the destination.
    Ingress,
    /// It is the source.
    Egress,
}

impl Direction {
    /// The word that policies use.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}
