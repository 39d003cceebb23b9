use std::format;
use std::vec::Vec;

use etherparse::{TcpHeader, TcpOptionElement};
use proptest::prelude::*;

use super::*;

fn option() -> impl Strategy<Value = TcpOptionElement> {
    prop_oneof![
        Just(TcpOptionElement::Noop),
        any::<u16>().prop_map(TcpOptionElement::MaximumSegmentSize),
        (0..=14_u8).prop_map(TcpOptionElement::WindowScale),
        Just(TcpOptionElement::SelectiveAcknowledgementPermitted),
        any::<(u32, u32)>().prop_map(|(value, echo)| TcpOptionElement::Timestamp(value, echo)),
    ]
}

/// A header made by etherparse, and the options in it.
fn segment() -> impl Strategy<Value = (TcpHeader, Vec<TcpOptionElement>)> {
    (
        any::<(u16, u16, u32, u16)>(),
        any::<(u32, u16, u16, u8)>(),
        prop::collection::vec(option(), 0..4),
    )
        .prop_map(
            |((source, destination, sequence, window), (ack, checksum, urgent, flags), options)| {
                let mut header = TcpHeader::new(source, destination, sequence, window);
                header.acknowledgment_number = ack;
                header.checksum = checksum;
                header.urgent_pointer = urgent;
                header.fin = flags & 1 != 0;
                header.syn = flags & 2 != 0;
                header.rst = flags & 4 != 0;
                header.psh = flags & 8 != 0;
                header.ack = flags & 16 != 0;
                header.urg = flags & 32 != 0;
                header.ece = flags & 64 != 0;
                header.cwr = flags & 128 != 0;
                header.set_options(&options).unwrap();
                (header, options)
            },
        )
}

proptest! {
    #[test]
    fn etherparses_segments_are_read_field_by_field(
        (oracle, options) in segment(), payload in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = oracle.to_bytes().to_vec();
        bytes.extend(&payload);
        let (view, rest) = TcpView::parse(&bytes).unwrap();
        prop_assert_eq!(rest, &payload[..]);
        prop_assert_eq!(view.header_len(), oracle.header_len());
        prop_assert_eq!(view.source_port(), oracle.source_port);
        prop_assert_eq!(view.destination_port(), oracle.destination_port);
        prop_assert_eq!(view.sequence(), oracle.sequence_number);
        prop_assert_eq!(view.acknowledgement(), oracle.acknowledgment_number);
        prop_assert_eq!(view.window(), oracle.window_size);
        prop_assert_eq!(view.checksum(), oracle.checksum);
        prop_assert_eq!(view.urgent(), oracle.urgent_pointer);
        prop_assert_eq!(view.options(), oracle.options.as_slice());
        for (flag, is_set) in [
            (TcpFlags::FIN, oracle.fin), (TcpFlags::SYN, oracle.syn), (TcpFlags::RST, oracle.rst),
            (TcpFlags::PSH, oracle.psh), (TcpFlags::ACK, oracle.ack), (TcpFlags::URG, oracle.urg),
            (TcpFlags::ECE, oracle.ece), (TcpFlags::CWR, oracle.cwr),
        ] {
            prop_assert_eq!(view.flags().contains(flag), is_set);
            prop_assert_eq!(view.flags().intersects(flag), is_set);
        }
        let expected = options.iter().find_map(|option| match option {
            TcpOptionElement::MaximumSegmentSize(bytes) => Some(*bytes),
            _ => None,
        });
        prop_assert_eq!(view.maximum_segment_bytes(), expected);
        let expected = options.iter().find_map(|option| match option {
            TcpOptionElement::WindowScale(shift) => Some(*shift),
            _ => None,
        });
        prop_assert_eq!(view.window_scale(), expected);
        let expected = options.contains(&TcpOptionElement::SelectiveAcknowledgementPermitted);
        prop_assert_eq!(view.is_sack_permitted(), expected);
        for length in 0..view.header_len() {
            prop_assert!(TcpView::parse(&bytes[..length]).is_err(), "{}", length);
        }
    }

    #[test]
    fn noise_never_panics(
        mut bytes in prop::collection::vec(any::<u8>(), 0..80),
        offset in 0..16_u8,
    ) {
        if let Some(byte) = bytes.get_mut(12) {
            *byte = offset << 4;
        }
        if let Ok((view, _)) = TcpView::parse(&bytes) {
            let _ = (view.maximum_segment_bytes(), view.window_scale(), view.is_sack_permitted());
        }
    }
}

#[test]
fn a_data_offset_below_five_words_is_refused() {
    for words in 0..5_u8 {
        let mut bytes = [0; 60];
        bytes[12] = words << 4;
        let actual = usize::from(words) * 4;
        let error = ParseError::HeaderLengthTooSmall { layer: Layer::Tcp, minimum: 20, actual };
        assert_eq!(TcpView::parse(&bytes).unwrap_err(), error);
    }
}

#[test]
fn malformed_options_end_the_search() {
    // Length zero, length one, length beyond the end, wrong length for the kind.
    for options in [[2, 0, 5, 180], [2, 1, 5, 180], [2, 5, 5, 180], [2, 3, 5, 0]] {
        let mut bytes = [0; 24];
        bytes[12] = 6 << 4;
        bytes[20..].copy_from_slice(&options);
        assert_eq!(TcpView::parse(&bytes).unwrap().0.maximum_segment_bytes(), None);
    }
}

#[test]
fn a_window_scale_above_14_counts_as_14() {
    let mut bytes = [0; 24];
    bytes[12] = 6 << 4;
    bytes[20..].copy_from_slice(&[1, 3, 3, 200]);
    assert_eq!(TcpView::parse(&bytes).unwrap().0.window_scale(), Some(14));
}

#[test]
fn flags_print_as_letters() {
    assert_eq!(format!("{:?}", TcpFlags::SYN.union(TcpFlags::ACK)), "SA");
    assert_eq!(format!("{:?}", TcpFlags(0xff)), "FSRPAUEC");
    assert_eq!(format!("{:?}", TcpFlags(0)), "-");
}
