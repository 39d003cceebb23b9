//! Why a packet was dropped, in detail, for whoever asks: bounded, and per worker.
//!
//! A replay has every drop noted; a running engine examples of each reason, with the packet's first
//! bytes (see [`DropTrace::live`]). Packets that are forwarded never come here.

mod live;

use std::{fmt, net::IpAddr};

use encap::{MacAddress, ParseError, ip::IpProtocol, vxlan::Vni};
use flowtable::InvalidReason;

use self::live::LiveTrace;
pub use self::live::{DropExample, DropExamples, EXAMPLE_BYTES_MAX, EXAMPLES_KEPT, ExampleFlow};
use crate::{
    clock::Now,
    drops::DropReason,
    memory::{FrameIndex, Region},
    next_hop::NextHopIndex,
    packet::Packet,
    port::PortRef,
};

/// What the pipeline knew when it dropped a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the fields' names say it; `Display` writes them out")]
pub enum Detail {
    /// The reason says it all.
    None,
    Header(ParseError),
    EtherType {
        ether_type: u16,
    },
    Mac {
        found: MacAddress,
        expected: MacAddress,
    },
    Source {
        source: IpAddr,
    },
    Destination {
        destination: IpAddr,
    },
    Route {
        vrf: u32,
        destination: IpAddr,
    },
    NextHop {
        next_hop: NextHopIndex,
    },
    Size {
        packet_bytes: u32,
        mtu_bytes: u32,
    },
    HopLimit {
        hop_limit: u8,
    },
    Vni {
        vni: Vni,
    },
    Flow {
        protocol: IpProtocol,
        source: IpAddr,
        source_port: u16,
        destination: IpAddr,
        destination_port: u16,
    },
    Fragment {
        source: IpAddr,
        destination: IpAddr,
        identification: u32,
        offset_bytes: u16,
    },
    Invalid {
        reason: InvalidReason,
    },
    Message {
        kind: u8,
        code: u8,
    },
    Target {
        target: IpAddr,
    },
    Policy(Denial),
}

/// What was denied by policy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Denial {
    /// The port whose policies denied it.
    pub port: PortRef,
    /// The policy set that judged; 0 if it was not there.
    pub set: u64,
    /// The other end of the connection.
    pub peer: IpAddr,
    /// Whether the connection was to the port.
    pub is_ingress: bool,
    /// The protocol.
    pub protocol: IpProtocol,
    /// The destination port, of protocols that have ports.
    pub destination_port: Option<u16>,
}

impl fmt::Display for Denial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.protocol)?;
        if let Some(port) = self.destination_port {
            write!(formatter, " port {port}")?;
        }
        write!(formatter, " {} {}", if self.is_ingress { "from" } else { "to" }, self.peer)
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Header(error) => error.fmt(formatter),
            Self::EtherType { ether_type } => write!(formatter, "EtherType {ether_type:#06x}"),
            Self::Mac { found, expected } => write!(formatter, "to {found}, expected {expected}"),
            Self::Source { source } => write!(formatter, "from {source}"),
            Self::Destination { destination } => write!(formatter, "to {destination}"),
            Self::Route { vrf, destination } => write!(formatter, "to {destination} in vrf {vrf}"),
            Self::NextHop { next_hop } => write!(formatter, "next hop {}", next_hop.0),
            Self::Size { packet_bytes, mtu_bytes } => {
                write!(formatter, "{packet_bytes} bytes, {mtu_bytes} are possible")
            }
            Self::HopLimit { hop_limit } => write!(formatter, "TTL {hop_limit}"),
            Self::Vni { vni } => write!(formatter, "VNI {vni}"),
            Self::Flow { protocol, source, source_port, destination, destination_port } => write!(
                formatter,
                "{protocol} {source} port {source_port} to {destination} port {destination_port}"
            ),
            Self::Fragment { source, destination, identification, offset_bytes } => write!(
                formatter,
                "fragment {identification:#x} at {offset_bytes} from {source} to {destination}"
            ),
            Self::Invalid { reason } => formatter.write_str(reason.name()),
            Self::Message { kind, code } => write!(formatter, "type {kind} code {code}"),
            Self::Target { target } => write!(formatter, "for {target}"),
            Self::Policy(denial) => denial.fmt(formatter),
        }
    }
}

/// One drop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DropRecord {
    /// When.
    pub now: Now,
    /// The port that the packet came in on.
    pub ingress: PortRef,
    /// The packet's first frame, which tells packets of a burst apart.
    pub frame: FrameIndex,
    /// Why.
    pub reason: DropReason,
    /// What was known.
    pub detail: Detail,
}

/// The last drops of one worker; off by default.
#[derive(Debug, Default)]
pub struct DropTrace {
    live: Option<LiveTrace>,
    /// Empty unless all drops are noted.
    records: Vec<DropRecord>,
    records_max: usize,
    /// Where the next record goes once the ring is full.
    next: usize,
}

impl DropTrace {
    /// A trace that keeps the last `records_max` drops; 0 is off. Allocates all it will ever need.
    #[must_use]
    pub fn new(records_max: usize) -> Self {
        Self { live: None, records: Vec::with_capacity(records_max), records_max, next: 0 }
    }

    /// A trace that gives examples to another thread, within a rate for each reason. Allocates all
    /// it will ever need.
    #[must_use]
    pub fn live() -> (Self, DropExamples) {
        let (live, examples) = live::channel();
        (Self { live: Some(live), ..Self::default() }, examples)
    }

    /// Notes the drop of `packet`.
    pub(crate) fn note(&mut self, record: DropRecord, packet: &Packet, region: &Region) {
        if let Some(live) = &mut self.live {
            live.note(&record, packet, region);
        }
        self.keep(record);
    }

    /// The oldest record makes room.
    fn keep(&mut self, record: DropRecord) {
        if self.records.len() < self.records_max {
            self.records.push(record);
        } else if let Some(oldest) = self.records.get_mut(self.next) {
            *oldest = record;
            self.next = (self.next + 1) % self.records_max;
        }
    }

    /// Takes all records, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = DropRecord> + '_ {
        self.records.rotate_left(self.next);
        self.next = 0;
        self.records.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::{Detail, DropRecord, DropTrace};
    use crate::{clock::Now, drops::DropReason, memory::FrameIndex, port::PortRef};

    fn record(nanoseconds: u64) -> DropRecord {
        DropRecord {
            now: Now { nanoseconds },
            ingress: PortRef::ENGINE,
            frame: FrameIndex(0),
            reason: DropReason::RouteNone,
            detail: Detail::None,
        }
    }

    fn drained(trace: &mut DropTrace) -> Vec<u64> {
        trace.drain().map(|record| record.now.nanoseconds).collect()
    }

    #[test]
    fn a_trace_keeps_the_last_drops_in_order() {
        let mut trace = DropTrace::new(3);
        (1..=5).for_each(|at| trace.keep(record(at)));
        assert_eq!(drained(&mut trace), [3, 4, 5]);
        (6..=7).for_each(|at| trace.keep(record(at)));
        assert_eq!(drained(&mut trace), [6, 7]);
    }

    #[test]
    fn a_trace_that_is_off_keeps_nothing() {
        let mut trace = DropTrace::default();
        trace.keep(record(1));
        assert!(drained(&mut trace).is_empty());
    }
}
