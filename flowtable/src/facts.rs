//! What a packet tells the table, as plain fields: the table knows no headers.

/// Time in units of 10 ms, from any origin; wraps after 497 days, and differences are what counts.
pub type Ticks = u32;

/// Ticks in one second.
pub const TICKS_PER_SECOND: Ticks = 100;

/// What one packet tells the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PacketFacts {
    /// The packet's length in bytes, as the flow's byte counter shall count it.
    pub bytes: u32,
    /// What its transport header says.
    pub transport: TransportFacts,
}

/// What a packet's transport header tells the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TransportFacts {
    /// A datagram of UDP, ICMP echo, or any protocol without connection states, or a later
    /// fragment.
    Datagram,
    /// A TCP segment.
    Tcp(TcpFacts),
    /// An SCTP packet.
    Sctp(SctpFacts),
    /// An ICMP error that quotes a packet of this connection: related to it, and never a step of
    /// its life.
    IcmpError,
}

/// What a TCP segment tells the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TcpFacts {
    /// The flag bits.
    pub flags: TcpFlags,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number; ignored without [`TcpFlags::ACK`].
    pub acknowledgement: u32,
    /// The window field, unscaled.
    pub window: u16,
    /// Payload bytes, without SYN and FIN.
    pub payload_bytes: u32,
    /// The window scale option of a SYN, if it has one (RFC 7323, section 2).
    pub window_scale: Option<u8>,
}

/// TCP flag bits as they stand in byte 13 of the header (RFC 9293, section 3.1).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number is valid.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is valid.
    pub const URG: Self = Self(0x20);

    /// Whether all bits of `flags` are set.
    #[must_use]
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// The bits of both.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }
}

/// What an SCTP packet tells the table: its common header and its first chunk (RFC 9260, section
/// 3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SctpFacts {
    /// The first chunk's type.
    pub chunk_type: u8,
    /// The verification tag of the common header.
    pub verification_tag: u32,
    /// The initiate tag, if the first chunk is INIT or INIT ACK; otherwise zero.
    pub initiate_tag: u32,
    /// Whether the first chunk's T bit is set: an ABORT or SHUTDOWN COMPLETE then reflects the
    /// receiver's own tag.
    pub tag_reflected: bool,
}
