//! ARP for IPv4 over Ethernet (RFC 826).

use core::net::Ipv4Addr;

use crate::ethernet::{EtherType, EthernetHeader, EthernetView};
use crate::field::{bytes_at, put, put_u16, u16_at};
use crate::{BufferTooSmall, Layer, MacAddress, ParseError};

/// Hardware type of Ethernet.
const ETHERNET: u16 = 1;

/// What an ARP packet asks or tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(transparent)]
pub struct ArpOperation(pub u16);

impl ArpOperation {
    /// Who has the target address?
    pub const REQUEST: Self = Self(1);
    /// The sender has its address.
    pub const REPLY: Self = Self(2);
}

/// A read-only view of an ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug)]
pub struct ArpView<'a>(&'a [u8; ArpView::LEN]);

impl<'a> ArpView<'a> {
    /// Packet length in bytes.
    pub const LEN: usize = 28;

    /// Reads the packet at the start of `bytes`; what follows is Ethernet padding.
    ///
    /// # Errors
    ///
    /// Fails below [`Self::LEN`] bytes, and for other hardware or protocol addresses.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        let Some((packet, padding)) = bytes.split_first_chunk::<{ ArpView::LEN }>() else {
            return Err(ParseError::Truncated {
                layer: Layer::Arp,
                needed: Self::LEN,
                actual: bytes.len(),
            });
        };
        let hardware = u16_at::<0, _>(packet);
        let protocol = u16_at::<2, _>(packet);
        let (hardware_len, protocol_len) = (packet[4], packet[5]);
        if (hardware, protocol, hardware_len, protocol_len) != (ETHERNET, EtherType::IPV4.0, 6, 4) {
            return Err(ParseError::ArpNotIpv4OverEthernet {
                hardware,
                protocol,
                hardware_len,
                protocol_len,
            });
        }
        Ok((Self(packet), padding))
    }

    /// What the packet asks or tells.
    #[must_use]
    pub fn operation(&self) -> ArpOperation {
        ArpOperation(u16_at::<6, _>(self.0))
    }

    /// The sender's MAC address.
    #[must_use]
    pub fn sender_mac(&self) -> MacAddress {
        MacAddress::new(*bytes_at::<8, 6, _>(self.0))
    }

    /// The sender's IPv4 address; unspecified in a probe (RFC 5227).
    #[must_use]
    pub fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(*bytes_at::<14, 4, _>(self.0))
    }

    /// The target's MAC address; zero in most requests.
    #[must_use]
    pub fn target_mac(&self) -> MacAddress {
        MacAddress::new(*bytes_at::<18, 6, _>(self.0))
    }

    /// The target's IPv4 address: the one asked for.
    #[must_use]
    pub fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(*bytes_at::<24, 4, _>(self.0))
    }

    /// Whether the sender announces its own address (RFC 5227 section 3).
    #[must_use]
    pub fn is_announcement(&self) -> bool {
        self.sender_ip() == self.target_ip()
    }
}

/// The fields of an ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ArpPacket {
    /// What the packet asks or tells.
    pub operation: ArpOperation,
    /// The sender's MAC address.
    pub sender_mac: MacAddress,
    /// The sender's IPv4 address.
    pub sender_ip: Ipv4Addr,
    /// The target's MAC address.
    pub target_mac: MacAddress,
    /// The target's IPv4 address.
    pub target_ip: Ipv4Addr,
}

impl ArpPacket {
    /// Length of a frame that carries one, without padding and frame check sequence, in bytes.
    pub const FRAME_LEN: usize = EthernetView::LEN.saturating_add(ArpView::LEN);

    /// The question who has `target_ip`.
    #[must_use]
    pub const fn request(sender_mac: MacAddress, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> Self {
        Self {
            operation: ArpOperation::REQUEST,
            sender_mac,
            sender_ip,
            target_mac: MacAddress::ZERO,
            target_ip,
        }
    }

    /// The answer to `request`: the address asked for is at `mac`.
    #[must_use]
    pub fn reply(request: &ArpView<'_>, mac: MacAddress) -> Self {
        Self {
            operation: ArpOperation::REPLY,
            sender_mac: mac,
            sender_ip: request.target_ip(),
            target_mac: request.sender_mac(),
            target_ip: request.sender_ip(),
        }
    }

    /// The packet as it goes on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; ArpView::LEN] {
        let mut packet = [0; ArpView::LEN];
        put_u16::<0, _>(&mut packet, ETHERNET);
        put_u16::<2, _>(&mut packet, EtherType::IPV4.0);
        packet[4] = 6;
        packet[5] = 4;
        put_u16::<6, _>(&mut packet, self.operation.0);
        put::<8, 6, _>(&mut packet, self.sender_mac.octets());
        put::<14, 4, _>(&mut packet, self.sender_ip.octets());
        put::<18, 6, _>(&mut packet, self.target_mac.octets());
        put::<24, 4, _>(&mut packet, self.target_ip.octets());
        packet
    }

    /// Writes a whole frame: a request is broadcast, anything else goes to the target's MAC
    /// address.
    ///
    /// Returns the frame's length, [`Self::FRAME_LEN`].
    ///
    /// # Errors
    ///
    /// Fails, and writes nothing, if `frame` is shorter than that.
    pub fn write_frame(self, frame: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let actual = frame.len();
        let Some((ethernet, rest)) = frame.split_first_chunk_mut::<{ EthernetView::LEN }>() else {
            return Err(BufferTooSmall { needed: Self::FRAME_LEN, actual });
        };
        let Some(packet) = rest.first_chunk_mut::<{ ArpView::LEN }>() else {
            return Err(BufferTooSmall { needed: Self::FRAME_LEN, actual });
        };
        let destination = if self.operation == ArpOperation::REQUEST {
            MacAddress::BROADCAST
        } else {
            self.target_mac
        };
        let header =
            EthernetHeader { destination, source: self.sender_mac, ether_type: EtherType::ARP };
        *ethernet = header.to_bytes();
        *packet = self.to_bytes();
        Ok(Self::FRAME_LEN)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet() -> impl Strategy<Value = ArpPacket> {
        (any::<u16>(), any::<[u8; 6]>(), any::<[u8; 4]>(), any::<[u8; 6]>(), any::<[u8; 4]>())
            .prop_map(|(operation, sender_mac, sender_ip, target_mac, target_ip)| ArpPacket {
                operation: ArpOperation(operation),
                sender_mac: sender_mac.into(),
                sender_ip: sender_ip.into(),
                target_mac: target_mac.into(),
                target_ip: target_ip.into(),
            })
    }

    proptest! {
        #[test]
        fn a_packet_round_trips(packet in packet()) {
            let bytes = packet.to_bytes();
            let (view, padding) = ArpView::parse(&bytes).unwrap();
            prop_assert!(padding.is_empty());
            prop_assert_eq!(view.operation(), packet.operation);
            prop_assert_eq!(view.sender_mac(), packet.sender_mac);
            prop_assert_eq!(view.sender_ip(), packet.sender_ip);
            prop_assert_eq!(view.target_mac(), packet.target_mac);
            prop_assert_eq!(view.target_ip(), packet.target_ip);
            prop_assert_eq!(view.is_announcement(), packet.sender_ip == packet.target_ip);
        }

        #[test]
        fn noise_never_panics(bytes: std::vec::Vec<u8>) {
            let _ = ArpView::parse(&bytes);
        }

        #[test]
        fn smoltcp_reads_what_we_write(packet in packet()) {
            use smoltcp::wire::{ArpPacket as Oracle, ArpRepr};
            let packet = ArpPacket { operation: ArpOperation::REPLY, ..packet };
            let bytes = packet.to_bytes();
            let ArpRepr::EthernetIpv4 { source_protocol_addr, target_hardware_addr, .. } =
                ArpRepr::parse(&Oracle::new_checked(&bytes).unwrap()).unwrap()
            else {
                panic!("not Ethernet and IPv4");
            };
            prop_assert_eq!(source_protocol_addr, packet.sender_ip);
            prop_assert_eq!(target_hardware_addr.as_bytes(), packet.target_mac.octets());
        }
    }

    #[test]
    fn a_packet_truncated_anywhere_is_refused() {
        let bytes = ArpPacket::request(MacAddress::ZERO, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST)
            .to_bytes();
        for actual in 0..ArpView::LEN {
            let error = ParseError::Truncated { layer: Layer::Arp, needed: 28, actual };
            assert_eq!(ArpView::parse(&bytes[..actual]).unwrap_err(), error);
        }
    }

    #[test]
    fn other_hardware_and_protocols_are_refused() {
        let good = ArpPacket::request(MacAddress::ZERO, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST)
            .to_bytes();
        for offset in 0..6 {
            let mut bytes = good;
            bytes[offset] ^= 1;
            let error = ArpView::parse(&bytes).unwrap_err();
            assert!(matches!(error, ParseError::ArpNotIpv4OverEthernet { .. }), "{error}");
        }
    }

    #[test]
    fn a_request_is_broadcast_and_its_reply_comes_back_to_the_asker() {
        let (asker, owner) = (MacAddress::new([2; 6]), MacAddress::new([4; 6]));
        let (ours, theirs) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut frame = [0; 60];
        let length = ArpPacket::request(asker, ours, theirs).write_frame(&mut frame).unwrap();
        assert_eq!(length, 42);
        let (ethernet, rest) = EthernetView::parse(&frame).unwrap();
        assert_eq!(ethernet.destination(), MacAddress::BROADCAST);
        assert_eq!(ethernet.ether_type(), EtherType::ARP);

        let (request, padding) = ArpView::parse(rest).unwrap();
        assert_eq!(padding.len(), 18);
        let reply = ArpPacket::reply(&request, owner);
        assert_eq!((reply.sender_ip, reply.target_ip), (theirs, ours));
        assert_eq!((reply.sender_mac, reply.target_mac), (owner, asker));
        reply.write_frame(&mut frame).unwrap();
        let (ethernet, _) = EthernetView::parse(&frame).unwrap();
        assert_eq!((ethernet.destination(), ethernet.source()), (asker, owner));
    }

    #[test]
    fn a_buffer_too_small_stays_untouched() {
        let packet = ArpPacket::request(MacAddress::ZERO, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
        for actual in 0..ArpPacket::FRAME_LEN {
            let mut frame = std::vec![0xaa; actual];
            let error = BufferTooSmall { needed: 42, actual };
            assert_eq!(packet.write_frame(&mut frame), Err(error));
            assert!(frame.iter().all(|byte| *byte == 0xaa));
        }
    }
}
