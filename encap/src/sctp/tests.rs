use std::vec::Vec;

use proptest::prelude::*;

use super::*;

#[test]
fn the_published_crc_32c_vectors_hold() {
    // RFC 3720 appendix B.4, and the usual check input.
    assert_eq!(checksum(b"123456789"), 0xe306_9283);
    assert_eq!(checksum(&[0; 32]), 0x8a91_36aa);
    assert_eq!(checksum(&[0xff; 32]), 0x62a8_ab43);
}

proptest! {
    #[test]
    fn a_packet_with_its_checksum_is_intact(
        header: [u8; 8],
        chunks in prop::collection::vec(any::<u8>(), 0..100),
        bit: prop::sample::Index,
    ) {
        let mut packet = header.to_vec();
        packet.extend([0; 4]);
        packet.extend(&chunks);
        let crc = checksum(&packet);
        packet[8..12].copy_from_slice(&crc.to_le_bytes());
        let (view, rest) = SctpView::parse(&packet).unwrap();
        prop_assert_eq!(rest, &chunks[..]);
        prop_assert!(view.is_intact(rest));
        prop_assert_eq!(view.source_port(), u16::from_be_bytes([header[0], header[1]]));
        prop_assert_eq!(view.destination_port(), u16::from_be_bytes([header[2], header[3]]));
        prop_assert_eq!(view.verification_tag().to_be_bytes(), &header[4..]);
        prop_assert_eq!(SctpView::first_chunk_type(rest), chunks.first().copied().map(ChunkType));

        let bit = bit.index(packet.len() * 8);
        packet[bit / 8] ^= 1 << (bit % 8);
        let (view, rest) = SctpView::parse(&packet).unwrap();
        prop_assert!(!view.is_intact(rest));
    }

    #[test]
    fn noise_never_panics(bytes: Vec<u8>) {
        if let Ok((view, chunks)) = SctpView::parse(&bytes) {
            let _ = view.is_intact(chunks);
        }
    }
}

#[test]
fn a_header_truncated_anywhere_is_refused() {
    for actual in 0..SctpView::LEN {
        let error = ParseError::Truncated { layer: Layer::Sctp, needed: 12, actual };
        assert_eq!(SctpView::parse(&[0; 12][..actual]).unwrap_err(), error);
    }
}
