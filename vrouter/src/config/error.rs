//! What can be wrong with a batch: the object, the field, and the next step.

use std::net::IpAddr;

use ipnet::IpNet;

/// Why a batch was turned down. Nothing of it is in force.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("{object}: {field}: {problem}")]
pub struct ApplyError {
    /// The object, such as `tunnel "node-b/ipv4"`.
    pub object: String,
    /// The field's path, such as `next_hops[0].tunnel`.
    pub field: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum Problem {
    #[error("is missing; set it")]
    Missing,
    #[error("is {bytes} bytes long; at most {bytes_max} are possible")]
    TooLong { bytes: usize, bytes_max: usize },
    #[error("{bytes} bytes are no address; send 4 for IPv4 or 16 for IPv6")]
    AddressLength { bytes: usize },
    #[error("{path} is relative; send an absolute path")]
    PathRelative { path: String },
    #[error("{address} cannot be one station's address; send a unicast address")]
    AddressNotUnicast { address: IpAddr },
    #[error("{bytes} bytes are no MAC address; send 6")]
    MacLength { bytes: usize },
    #[error("{mac} cannot be one station's MAC address; send a unicast address")]
    MacNotUnicast { mac: encap::MacAddress },
    #[error("more than one {family} address; send at most one of each family")]
    SecondOfFamily { family: &'static str },
    #[error("{actual} is out of range; {minimum} to {maximum} are possible")]
    OutOfRange { actual: u64, minimum: u64, maximum: u64 },
    #[error("{count} are too many; at most {maximum} are possible")]
    TooMany { count: usize, maximum: usize },
    #[error("{prefix} has bits set beyond its length; send {network}")]
    HostBits { prefix: IpNet, network: IpNet },
    #[error("the number {number} is not known to this engine; check the protocol version")]
    UnknownEnum { number: i32 },
    #[error("no {kind} is named \"{name}\"; send it in this batch or before")]
    NoSuch { kind: &'static str, name: String },
    #[error("\"{name}\" is a port of another role; name {expected}")]
    WrongRole { name: String, expected: &'static str },
    #[error("{other} has {value} already; remove it there first, or in the same batch")]
    Taken { value: String, other: String },
    #[error("{user} still uses it; remove that first, or in the same batch")]
    InUse { user: String },
    #[error("is both changed and deleted; decide on one")]
    ChangedAndDeleted,
    #[error("is in the batch twice; send it once")]
    Twice,
    #[error("is not there; a full sync shows both sides the same state again")]
    NotThere,
    #[error("stands beside other next hops; a discard must be alone")]
    DiscardAmongOthers,
    #[error("this node has no {family} tunnel endpoint; add one to node.vtep_addresses")]
    NoVtepOfFamily { family: &'static str },
    #[error("{bytes} bytes are no whole number of addresses; send {size} for each")]
    NotWhole { bytes: usize, size: usize },
    #[error("{address} is not greater than the address before it; send them ascending, each once")]
    NotAscending { address: IpAddr },
    #[error("{except} is not within {block}; send parts of the block only")]
    OutsideBlock { except: IpNet, block: IpNet },
    #[error("protocol {protocol} has no ports; send 6 (TCP), 17 (UDP) or 132 (SCTP)")]
    NoPorts { protocol: u8 },
    #[error("only a guest port can be isolated; send 0 for others")]
    NotAGuest,
    #[error("is not greater than {in_force}, the one in force; choose a greater one")]
    GenerationNotGreater { in_force: u64 },
}

/// A field's path and what is wrong with it; the object is added by whoever knows it.
#[derive(Debug)]
pub(super) struct FieldError {
    pub(super) field: String,
    pub(super) problem: Problem,
}

impl FieldError {
    pub(super) fn new(field: impl Into<String>, problem: Problem) -> Self {
        Self { field: field.into(), problem }
    }

    pub(super) fn of(self, object: impl Into<String>) -> ApplyError {
        ApplyError { object: object.into(), field: self.field, problem: self.problem }
    }
}
