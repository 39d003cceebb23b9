//! Why packets die, and how many did.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $label:literal,)+) => {
        /// Why a packet was dropped: the one cause of its death.
        ///
        /// Labels are metric labels, `<stage>_<cause>`: append variants, never rename them.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// All reasons, in order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The metric label.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// One sentence for the operator.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

drop_reasons! {
    /// The frame ended inside a header.
    ParseTruncated => "parse_truncated",
    /// A header contradicts itself: version, header length or total length.
    ParseMalformed => "parse_malformed",
    /// The IPv4 header checksum is wrong.
    ParseIpv4Checksum => "parse_ipv4_checksum",
    /// The frame is neither ARP, IPv4 nor IPv6.
    ParseUnknownEthertype => "parse_unknown_ethertype",
    /// More IPv6 extension headers than the engine follows.
    ParseExtensionHeaders => "parse_extension_headers",
    /// The frame is not addressed to the MAC of the port that it came in on.
    ParseForeignMac => "parse_foreign_mac",
    /// The destination is a multicast or broadcast address that the engine does not serve.
    ParseMulticast => "parse_multicast",
    /// The source address is one that no packet may have (multicast, loopback, unspecified).
    ParseMartianSource => "parse_martian_source",
    /// The VXLAN header has its I flag clear (RFC 7348).
    VxlanFlagUnset => "vxlan_flag_unset",
    /// The VXLAN frame's VNI is unknown, and there is no host port to give it to.
    VxlanUnknownVni => "vxlan_unknown_vni",
    /// The outer UDP checksum is neither zero nor right.
    VxlanChecksum => "vxlan_checksum",
    /// The inner frame's destination MAC is not this node's.
    VxlanInnerMac => "vxlan_inner_mac",
    /// Congestion was marked outside a packet that is not ECN-capable (RFC 6040).
    VxlanEcn => "vxlan_ecn",
    /// A fragment of an encapsulated packet (RFC 7348: tunnel endpoints do not fragment).
    VxlanOuterFragment => "vxlan_outer_fragment",
    /// The source address is not one that the port may use.
    RpfSpoofedSource => "rpf_spoofed_source",
    /// No route to the destination.
    RouteNone => "route_none",
    /// The route says blackhole.
    RouteBlackhole => "route_blackhole",
    /// The route says unreachable; the sender was told, within the rate limit.
    RouteUnreachable => "route_unreachable",
    /// TTL or hop limit ran out; the sender was told, within the rate limit.
    TtlExceeded => "ttl_exceeded",
    /// The packet is larger than the way's MTU and may not be fragmented, or into too many pieces;
    /// the sender was told, within the rate limit.
    MtuExceeded => "mtu_exceeded",
    /// The next hop's MAC address is not known yet, or there is no way to the other node.
    NextHopUnresolved => "next_hop_unresolved",
    /// A fragment whose first fragment was not seen.
    FragmentUnknown => "fragment_unknown",
    /// The flow table is full and nothing could be evicted.
    FlowTableFull => "flow_table_full",
    /// The packet does not fit the connection's state.
    FlowInvalid => "flow_invalid",
    /// An ICMP error about a connection that is not known.
    IcmpUnrelated => "icmp_unrelated",
    /// A message to the gateway itself that it does not serve.
    GatewayUnserved => "gateway_unserved",
    /// An ARP message that the engine has no answer for.
    ArpUnanswered => "arp_unanswered",
    /// A neighbour discovery message that the engine has no answer for.
    NdUnanswered => "nd_unanswered",
    /// The port that the packet should leave through is not up.
    PortDown => "port_down",
    /// The transmit ring had no free descriptor.
    TxRingFull => "tx_ring_full",
    /// The ring to the worker that owns the port's queue was full.
    HandoffRingFull => "handoff_ring_full",
    /// No free frame in packet memory.
    MemoryExhausted => "memory_exhausted",
    /// The packet has no room for a tunnel header.
    HeadroomMissing => "headroom_missing",
    /// A packet to this node, and there is no host port to give it to.
    HostPortMissing => "host_port_missing",
    /// A received frame was larger than a packet can be.
    RxOversized => "rx_oversized",
    /// The packet is in a form that the port's device takes from nobody: too short, or in more
    /// pieces than it can join.
    TxUnsendable => "tx_unsendable",
    /// The transmit queue went away while the packet was on its way to it.
    TxQueueGone => "tx_queue_gone",
    /// Another connection's answers have the addresses and ports that this one's would have.
    FlowReplyCollision => "flow_reply_collision",
    /// An ICMP message of a type that a router neither forwards nor answers.
    IcmpUnserved => "icmp_unserved",
    /// The port was closed while the packet was in its receive ring, or on its way from there.
    RxPortClosed => "rx_port_closed",
    /// The port that the packet was to leave through was closed, or its interface went, before the
    /// kernel took it from the transmit ring.
    TxPortClosed => "tx_port_closed",
    /// What the port says is left to do to the frame (checksum, segmentation) contradicts the frame.
    RxOffloadMalformed => "rx_offload_malformed",
    /// The packet would be cut into more segments than one packet may become, or its headers are too
    /// long for a frame.
    SegmentImpossible => "segment_impossible",
    /// The port is a vhost-user port, and no frontend is there, or its driver has not started the
    /// queue.
    VhostDisconnected => "vhost_disconnected",
    /// The guest broke the rules of its ring, which is stopped until its driver starts it anew.
    VhostRingBroken => "vhost_ring_broken",
    /// The guest's buffer ends before the virtio-net header does, or right behind it.
    VhostHeaderTruncated => "vhost_header_truncated",
    /// The guest's receive buffer is too small for the packet, and its driver cannot merge several.
    VhostBufferTooSmall => "vhost_buffer_too_small",
    /// The policies that isolate the destination's port have no rule that allows the connection.
    PolicyIngressDenied => "policy_ingress_denied",
    /// The policies that isolate the source's port have no rule that allows the connection.
    PolicyEgressDenied => "policy_egress_denied",
}
