//! The CNI verbs (specification 1.1.0), as the plugin passes them on.
//!
//! [`request`] and [`network_config`] check what the runtime says, [`verbs`] do it, [`result`] and
//! [`CniError`] are what it hears.

use control_api::node::{self, CniResponse};

mod caller;
pub mod delegate;
pub mod network_config;
pub mod request;
pub mod result;
pub mod verbs;

pub use caller::AbandonError;
pub(crate) use caller::Caller;

use crate::{
    cni::delegate::DelegateError,
    compile::CompileError,
    ipam::AllocateError,
    link::NetlinkError,
    netns::NetnsError,
    pod_network::Mismatch,
    store::{BeginError, StoreError},
    sync::WaitError,
    vhost_socket::VhostSocketError,
};

/// The versions of the specification that are spoken.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Why a verb failed. [`CniError::code`] is what the specification calls it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum CniError {
    #[error("cniVersion `{found}` is not supported, only {}", VERSIONS.join(", "))]
    Version { found: String },

    #[error("{verb} needs cniVersion {needed} or later, the configuration says {found}")]
    TooOld { verb: &'static str, needed: &'static str, found: String },

    #[error("{field} is not supported by this version of vrouter: {advice}")]
    Unsupported { field: &'static str, advice: &'static str },

    #[error("{variable}: {reason}")]
    Environment { variable: &'static str, reason: String },

    #[error("the network configuration is not JSON")]
    Decode(#[source] serde_json::Error),

    #[error("the network configuration's {field}: {reason}")]
    Config { field: &'static str, reason: String },

    #[error("container {container_id} has no attachment {ifname} here: ADD it first")]
    UnknownContainer { container_id: String, ifname: String },

    #[error("{0}; the runtime will try again")]
    TryAgain(#[source] Box<CniError>),

    #[error("vrouter cannot take pods: {0}")]
    NotAvailable(String),

    #[error("vrouter cannot take pods, and those there are may be cut off: {0}")]
    NotAvailableAndCutOff(String),

    #[error("the engine cannot open the port {port}: {message}")]
    Port { port: String, message: String },

    #[error("{ifname} exists in the container already: remove it, or name another CNI_IFNAME")]
    InterfaceExists { ifname: String },

    #[error(
        "the node has an interface {interface} that is not this attachment's: rename or remove it \
         (`ip link del {interface}`)"
    )]
    HostInterfaceExists { interface: String },

    #[error("the engine does not have the port {port}: see `vrctl ports` and `vrctl status`")]
    NoPort { port: String },

    #[error("the interface {interface} of the attachment is missing: DEL and ADD the container")]
    NoHostInterface { interface: String },

    #[error("{} of the attachments could not be removed: {}", failures.len(), failures.join("; "))]
    Collect { failures: Vec<String> },

    #[error(transparent)]
    Abandon(#[from] AbandonError),

    #[error(transparent)]
    Begin(#[from] BeginError),

    #[error(transparent)]
    Compile(#[from] CompileError),

    #[error(transparent)]
    Wait(#[from] WaitError),

    #[error(transparent)]
    Store(#[from] StoreError),

    #[error(transparent)]
    Netns(#[from] NetnsError),

    #[error(transparent)]
    Netlink(#[from] NetlinkError),

    #[error(transparent)]
    Mismatch(#[from] Mismatch),

    #[error(transparent)]
    VhostSocket(#[from] VhostSocketError),

    #[error(transparent)]
    Delegate(#[from] DelegateError),
}

impl CniError {
    /// The code that the runtime is told (specification 1.1.0, section 5; from 100 on, our own).
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::Version { .. } | Self::TooOld { .. } => 1,
            Self::Unsupported { .. } => 2,
            Self::UnknownContainer { .. } => 3,
            Self::Environment { .. }
            | Self::Netns(NetnsError::Gone { .. } | NetnsError::Foreign { .. }) => 4,
            Self::Store(_)
            | Self::Netns(_)
            | Self::Netlink(_)
            | Self::VhostSocket(VhostSocketError::File { .. })
            | Self::Begin(BeginError::Store(_)) => 5,
            Self::Decode(_) => 6,
            Self::Config { .. }
            | Self::VhostSocket(
                VhostSocketError::NoFolder { .. } | VhostSocketError::PathTooLong { .. },
            )
            | Self::Begin(BeginError::Allocate(
                AllocateError::OutsideRange { .. } | AllocateError::SecondOfFamily,
            )) => 7,
            // Addresses come back, ports are freed, the engine returns, the Node object appears.
            Self::TryAgain(_)
            | Self::Abandon(_)
            | Self::Wait(_)
            | Self::Compile(_)
            | Self::Begin(BeginError::PortHeld { .. } | BeginError::Allocate(_)) => 11,
            Self::NotAvailable(_) => 50,
            Self::NotAvailableAndCutOff(_) => 51,
            Self::Delegate(error) => error.code(),
            Self::Begin(BeginError::Exists(_))
            | Self::InterfaceExists { .. }
            | Self::HostInterfaceExists { .. } => 100,
            Self::Port { .. } | Self::NoPort { .. } => 101,
            Self::Mismatch(_)
            | Self::NoHostInterface { .. }
            | Self::VhostSocket(VhostSocketError::Missing { .. }) => 102,
            Self::Collect { .. } => 103,
        }
    }

    /// What the runtime is told: the message, and below it the causes.
    #[must_use]
    pub fn to_message(&self) -> node::CniError {
        let mut causes = Vec::new();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        node::CniError { code: self.code(), message: self.to_string(), details: causes.join(": ") }
    }
}

/// The answer for the plugin.
#[must_use]
pub fn response(outcome: Result<Vec<u8>, CniError>) -> CniResponse {
    match outcome {
        Ok(result) => CniResponse { result, error: None },
        Err(error) => CniResponse { result: Vec::new(), error: Some(error.to_message()) },
    }
}
