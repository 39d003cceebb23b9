//! The messages between the programs of a node: engine, control, plugin and operator tool.
//!
//! Messages, [`limits`] of time and of [`policy`] alone by default. The feature `client` adds the
//! stubs and [`connect`], the feature `server` the service traits and [`listen`].
#![forbid(unsafe_code)]

#[cfg(feature = "client")]
pub mod connect;
pub mod limits;
#[cfg(feature = "server")]
pub mod listen;
pub mod policy;

/// The engine's interface (`proto/vrouter.proto`).
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the documentation is in the .proto file"
)]
pub mod engine {
    include!(concat!(env!("OUT_DIR"), "/vrouter.v1.rs"));
}

/// The control process's interface (`proto/node.proto`).
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the documentation is in the .proto file"
)]
pub mod node {
    include!(concat!(env!("OUT_DIR"), "/vrouter.control.v1.rs"));
}

/// The descriptors of all services, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// A change that older peers cannot follow raises this number.
pub const PROTOCOL_MAJOR: u32 = 1;

/// An addition that older peers may ignore raises this number.
pub const PROTOCOL_MINOR: u32 = 1;

/// Queries of one `Explain` at most: the answer stays within gRPC's usual limit of 4 MiB a message
/// at a kilobyte each, which is many policies and long names.
pub const EXPLAIN_QUERIES_MAX: usize = 4096;
