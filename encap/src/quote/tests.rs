use std::net::{Ipv4Addr, Ipv6Addr};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::ecn::TrafficClass;
use crate::ipv4::Ipv4Header;
use crate::ipv6::Ipv6Header;

const SOURCE4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const DESTINATION4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const SOURCE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const DESTINATION6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// The start of a packet of 1400 bytes, as an error quotes it.
fn quote4(protocol: IpProtocol, transport: &[u8]) -> Vec<u8> {
    let mut quote = Ipv4Header {
        traffic_class: TrafficClass(0),
        total_length: 1400,
        identification: 0,
        dont_fragment: true,
        ttl: 1,
        protocol,
        source: SOURCE4,
        destination: DESTINATION4,
    }
    .to_bytes()
    .to_vec();
    quote.extend(transport);
    quote
}

fn quote6(next_header: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let mut quote = Ipv6Header {
        traffic_class: TrafficClass(0),
        flow_label: 0,
        payload_length: 1400,
        next_header,
        hop_limit: 1,
        source: SOURCE6,
        destination: DESTINATION6,
    }
    .to_bytes()
    .to_vec();
    quote.extend(payload);
    quote
}

fn parse4(quote: &[u8]) -> Result<QuotedView<'_>, ParseError> {
    let (icmp, _) = IcmpView::parse(&[11, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    QuotedView::parse_icmp(&icmp, quote)
}

fn parse6(quote: &[u8]) -> Result<QuotedView<'_>, ParseError> {
    let (icmp, _) = Icmpv6View::parse(&[3, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    QuotedView::parse_icmpv6(&icmp, quote)
}

proptest! {
    #[test]
    fn ports_are_found_in_the_first_eight_bytes(
        protocol in prop_oneof![Just(6), Just(17), Just(132)].prop_map(IpProtocol),
        source: u16, destination: u16,
    ) {
        let mut transport = source.to_be_bytes().to_vec();
        transport.extend(destination.to_be_bytes());
        transport.extend([0; 4]);
        let flow = QuotedFlow::Ports { source, destination };

        let quote = quote4(protocol, &transport);
        let view = parse4(&quote).unwrap();
        prop_assert_eq!((view.source(), view.destination()), (SOURCE4.into(), DESTINATION4.into()));
        prop_assert_eq!((view.protocol(), view.flow(), view.upper_offset()), (protocol, flow, 20));
        // Four bytes of transport suffice, fewer do not.
        prop_assert_eq!(parse4(&quote[..24]).unwrap().flow(), flow);
        for length in 0..24 {
            prop_assert!(parse4(&quote[..length]).is_err());
        }

        let quote = quote6(protocol, &transport);
        let view = parse6(&quote).unwrap();
        prop_assert_eq!((view.source(), view.destination()), (SOURCE6.into(), DESTINATION6.into()));
        prop_assert_eq!((view.protocol(), view.flow(), view.upper_offset()), (protocol, flow, 40));
        for length in 0..44 {
            prop_assert!(parse6(&quote[..length]).is_err());
        }
    }

    #[test]
    fn noise_never_panics(bytes: Vec<u8>) {
        let _ = parse4(&bytes);
        let _ = parse6(&bytes);
        for protocol in [1, 6, 17, 58, 0, 44] {
            let _ = parse4(&quote4(IpProtocol(protocol), &bytes));
            let _ = parse6(&quote6(IpProtocol(protocol), &bytes));
        }
    }
}

#[test]
fn an_echo_is_found_by_its_identifier() {
    for (kind, asked, is_request) in [(8, 8, true), (0, 8, false), (13, 13, true), (14, 13, false)]
    {
        let quote = quote4(IpProtocol::ICMP, &[kind, 0, 0, 0, 0x12, 0x34, 0, 1]);
        let flow = QuotedFlow::Echo { id: 0x1234, asked, is_request };
        assert_eq!(parse4(&quote).unwrap().flow(), flow);
    }
    for (kind, asked, is_request) in [(128, 128, true), (129, 128, false)] {
        let quote = quote6(IpProtocol::ICMPV6, &[kind, 0, 0, 0, 0x12, 0x34, 0, 1]);
        let flow = QuotedFlow::Echo { id: 0x1234, asked, is_request };
        assert_eq!(parse6(&quote).unwrap().flow(), flow);
    }
}

#[test]
fn extension_headers_are_walked_in_a_quote() {
    let payload = [17, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78];
    let quote = quote6(IpProtocol::DESTINATION_OPTIONS, &payload);
    let view = parse6(&quote).unwrap();
    assert_eq!((view.protocol(), view.upper_offset()), (IpProtocol::UDP, 48));
    assert_eq!(view.flow(), QuotedFlow::Ports { source: 0x1234, destination: 0x5678 });
}

#[test]
fn later_fragments_and_other_protocols_have_no_known_flow() {
    let payload = [17, 0, 0x05, 0x00, 0, 0, 0, 1, 0x12, 0x34, 0x56, 0x78];
    let quote = quote6(IpProtocol::FRAGMENT, &payload);
    assert_eq!(parse6(&quote).unwrap().flow(), QuotedFlow::Unknown);
    let mut quote = quote4(IpProtocol::UDP, &[0; 8]);
    quote[7] = 1;
    assert_eq!(parse4(&quote).unwrap().flow(), QuotedFlow::Unknown);
    assert_eq!(parse4(&quote4(IpProtocol(47), &[])).unwrap().flow(), QuotedFlow::Unknown);
    let redirect = quote4(IpProtocol::ICMP, &[5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(parse4(&redirect).unwrap().flow(), QuotedFlow::Unknown);
}

#[test]
fn a_quote_of_the_other_family_is_refused() {
    let error = ParseError::VersionMismatch { layer: Layer::Ipv4, actual: 6 };
    assert_eq!(parse4(&quote6(IpProtocol::UDP, &[0; 8])).unwrap_err(), error);
    let error = ParseError::VersionMismatch { layer: Layer::Ipv6, actual: 4 };
    assert_eq!(parse6(&quote4(IpProtocol::UDP, &[0; 8])).unwrap_err(), error);
}

#[test]
fn only_errors_quote() {
    let (quote4, quote6) = (quote4(IpProtocol::UDP, &[0; 8]), quote6(IpProtocol::UDP, &[0; 8]));
    for kind in 0..=255 {
        let header = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        let (icmp, _) = IcmpView::parse(&header).unwrap();
        let is_error = is_icmp_error(IpProtocol::ICMP, kind);
        assert_eq!(QuotedView::parse_icmp(&icmp, &quote4).is_ok(), is_error);
        let (icmp, _) = Icmpv6View::parse(&header).unwrap();
        let is_error = is_icmp_error(IpProtocol::ICMPV6, kind);
        assert_eq!(QuotedView::parse_icmpv6(&icmp, &quote6).is_ok(), is_error);
        assert!(!is_icmp_error(IpProtocol::UDP, kind));
    }
}
