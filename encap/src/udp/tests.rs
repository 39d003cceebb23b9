use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::ip::IpProtocol;

proptest! {
    #[test]
    fn a_header_round_trips(
        source_port: u16, destination_port: u16, length in 8_u16.., checksum: u16,
    ) {
        let header = UdpHeader { source_port, destination_port, length, checksum };
        let bytes = header.to_bytes();
        let (view, rest) = UdpView::parse_header(&bytes).unwrap();
        prop_assert!(rest.is_empty());
        let again = UdpHeader {
            source_port: view.source_port(),
            destination_port: view.destination_port(),
            length: view.length(),
            checksum: view.checksum(),
        };
        prop_assert_eq!(again, header);
    }

    #[test]
    fn a_datagram_truncated_anywhere_is_refused(
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let length = u16::try_from(8 + payload.len()).unwrap();
        let header = UdpHeader { source_port: 1, destination_port: 2, length, checksum: 0 };
        let mut datagram = header.to_bytes().to_vec();
        datagram.extend(&payload);
        for length in 0..datagram.len() {
            prop_assert!(UdpView::parse(&datagram[..length]).is_err(), "{length}");
        }
        // Bytes beyond the length field are not payload.
        datagram.extend([0xee; 3]);
        let (view, found) = UdpView::parse(&datagram).unwrap();
        prop_assert_eq!(found, &payload[..]);
        prop_assert_eq!(view.payload_len(), payload.len());
        // The first segment of a chain may hold less.
        let (_, found) = UdpView::parse_chained(&datagram[..8], 8 + payload.len()).unwrap();
        prop_assert!(found.is_empty());
    }

    #[test]
    fn noise_never_panics(bytes: Vec<u8>, chain: usize) {
        let _ = UdpView::parse(&bytes);
        let _ = UdpView::parse_chained(&bytes, chain);
        let _ = UdpView::parse_header(&bytes);
    }

    #[test]
    fn etherparses_checksums_are_right_and_others_are_wrong(
        ports: (u16, u16), v4: ([u8; 4], [u8; 4]), v6: ([u8; 16], [u8; 16]),
        payload in prop::collection::vec(any::<u8>(), 0..200), flip in 1..=u16::MAX,
    ) {
        let length = u16::try_from(8 + payload.len()).unwrap();
        let ip = etherparse::Ipv4Header::new(length, 64, etherparse::ip_number::UDP, v4.0, v4.1);
        let oracle4 =
            etherparse::UdpHeader::with_ipv4_checksum(ports.0, ports.1, &ip.unwrap(), &payload);
        let ip = etherparse::Ipv6Header { source: v6.0, destination: v6.1, ..Default::default() };
        let oracle6 =
            etherparse::UdpHeader::with_ipv6_checksum(ports.0, ports.1, &ip, &payload);
        let pseudo4 =
            Sum::of_ipv4_pseudo_header(v4.0.into(), v4.1.into(), IpProtocol::UDP, length);
        let pseudo6 =
            Sum::of_ipv6_pseudo_header(v6.0.into(), v6.1.into(), IpProtocol::UDP, length.into());
        for (oracle, pseudo) in [(oracle4.unwrap(), pseudo4), (oracle6.unwrap(), pseudo6)] {
            let mut bytes = oracle.to_bytes();
            let (view, _) = UdpView::parse_header(&bytes).unwrap();
            prop_assert_eq!(view.verify_checksum(pseudo, Sum::of(&payload)), Ok(()));

            let found = oracle.checksum ^ flip;
            prop_assume!(found != 0);
            bytes[6..].copy_from_slice(&found.to_be_bytes());
            let (view, _) = UdpView::parse_header(&bytes).unwrap();
            let computed = oracle.checksum;
            let error = ParseError::ChecksumMismatch { layer: Layer::Udp, found, computed };
            prop_assert_eq!(view.verify_checksum(pseudo, Sum::of(&payload)), Err(error));
        }
    }
}

#[test]
fn a_length_below_the_header_is_refused() {
    for stated in 0..8_u8 {
        let bytes = [0, 1, 0, 2, 0, stated, 0, 0];
        let stated = usize::from(stated);
        let error = ParseError::LengthBelowHeader { layer: Layer::Udp, stated, header: 8 };
        assert_eq!(UdpView::parse(&bytes).unwrap_err(), error);
    }
}

#[test]
fn no_checksum_passes() {
    let bytes =
        UdpHeader { source_port: 1, destination_port: 2, length: 8, checksum: 0 }.to_bytes();
    let (view, _) = UdpView::parse(&bytes).unwrap();
    assert_eq!(view.verify_checksum(Sum::of_u16(0x1234), Sum::ZERO), Ok(()));
}
