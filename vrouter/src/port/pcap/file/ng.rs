//! The newer capture format, pcapng: sections, interfaces with a link type and a unit of time each,
//! and packets of them.

use std::{path::Path, time::Duration};

use pcap_file::{
    DataLink, PcapError,
    pcapng::{
        Block, PcapNgParser,
        blocks::{
            enhanced_packet::EnhancedPacketBlock,
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};

use super::{Captured, PCAP_FRAME_BYTES_MAX, PCAP_FRAMES_MAX, ReadPcapError};

/// How a file begins.
pub(super) const MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// The unit of time of an interface that names none: 10⁻⁶ seconds.
const RESOLUTION_DEFAULT: u8 = 6;
/// In a resolution: the exponent is one of 2, not of 10.
const RESOLUTION_IS_BINARY: u8 = 0x80;
/// Finer units than these would last for less than two seconds in 64 bits.
const DECIMAL_EXPONENT_MAX: u8 = 19;
const BINARY_EXPONENT_MAX: u8 = 63;

/// Reads all frames; `path` names the file in errors.
pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Captured>, ReadPcapError> {
    let damaged = |_: PcapError, frame| ReadPcapError::Truncated { path: path.into(), frame };
    let (mut rest, mut parser) =
        PcapNgParser::new(bytes).map_err(|_| ReadPcapError::NotPcap { path: path.into() })?;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let frame = frames.len();
        let (after, block) = parser.next_block(rest).map_err(|error| damaged(error, frame))?;
        rest = after;
        match block {
            Block::EnhancedPacket(packet) if frame < PCAP_FRAMES_MAX => {
                let interface = parser.packet_interface(&packet);
                frames.push(captured(&packet, interface, path, frame)?);
            }
            Block::EnhancedPacket(_) => {
                return Err(ReadPcapError::TooManyFrames { path: path.into() });
            }
            Block::SimplePacket(_) | Block::Packet(_) => {
                return Err(ReadPcapError::PacketBlock { path: path.into(), frame });
            }
            _ => {}
        }
    }
    Ok(frames)
}

fn captured(
    packet: &EnhancedPacketBlock<'_>,
    interface: Option<&InterfaceDescriptionBlock<'_>>,
    path: &Path,
    frame: usize,
) -> Result<Captured, ReadPcapError> {
    let Some(interface) = interface else {
        let interface = packet.interface_id;
        return Err(ReadPcapError::Interface { path: path.into(), frame, interface });
    };
    if interface.linktype != DataLink::ETHERNET {
        let link_type = interface.linktype;
        return Err(ReadPcapError::LinkType { path: path.into(), link_type });
    }
    if packet.data.len() > PCAP_FRAME_BYTES_MAX {
        let bytes = u32::try_from(packet.data.len()).unwrap_or(u32::MAX);
        return Err(ReadPcapError::Oversized { path: path.into(), frame, bytes });
    }
    let clock = Clock::of(interface);
    // The library takes every unit for a nanosecond.
    let units = packet.timestamp.as_nanos();
    let timestamp = clock.time(units).ok_or_else(|| ReadPcapError::Resolution {
        path: path.into(),
        frame,
        resolution: clock.resolution,
    })?;
    Ok(Captured { timestamp, frame: packet.data.as_ref().into() })
}

/// How an interface tells the time.
#[derive(Clone, Copy, Debug)]
struct Clock {
    resolution: u8,
    /// What its times count from, in seconds since 1970.
    offset_seconds: u64,
}

impl Clock {
    fn of(interface: &InterfaceDescriptionBlock<'_>) -> Self {
        let mut clock = Self { resolution: RESOLUTION_DEFAULT, offset_seconds: 0 };
        for option in &interface.options {
            match option {
                InterfaceDescriptionOption::IfTsResol(resolution) => clock.resolution = *resolution,
                InterfaceDescriptionOption::IfTsOffset(seconds) => clock.offset_seconds = *seconds,
                _ => {}
            }
        }
        clock
    }

    /// The moment that `units` stand for; `None` if the unit is too fine.
    fn time(self, units: u128) -> Option<Duration> {
        const NANOSECONDS: u128 = 1_000_000_000;
        let exponent = self.resolution & !RESOLUTION_IS_BINARY;
        let units_per_second = if self.resolution & RESOLUTION_IS_BINARY == 0 {
            (exponent <= DECIMAL_EXPONENT_MAX).then(|| 10_u128.pow(exponent.into()))
        } else {
            (exponent <= BINARY_EXPONENT_MAX).then(|| 1_u128 << exponent)
        }?;
        let seconds = u64::try_from(units / units_per_second).ok()?;
        let nanoseconds = units % units_per_second * NANOSECONDS / units_per_second;
        let seconds = seconds.checked_add(self.offset_seconds)?;
        Some(Duration::new(seconds, u32::try_from(nanoseconds).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use pcap_file::{
        Endianness,
        pcapng::{PcapNgWriter, blocks::simple_packet::SimplePacketBlock},
    };
    use proptest::prelude::*;

    use super::*;

    fn interface(
        linktype: DataLink,
        options: Vec<InterfaceDescriptionOption<'static>>,
    ) -> Block<'static> {
        Block::InterfaceDescription(InterfaceDescriptionBlock { linktype, snaplen: 0, options })
    }

    fn packet(interface_id: u32, units: u64, data: &[u8]) -> Block<'_> {
        Block::EnhancedPacket(EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(units),
            original_len: u32::try_from(data.len()).unwrap(),
            data: Cow::Borrowed(data),
            options: vec![],
        })
    }

    fn file_of(endianness: Endianness, blocks: &[Block<'_>]) -> Vec<u8> {
        let mut writer = PcapNgWriter::with_endianness(Vec::new(), endianness).unwrap();
        for block in blocks {
            writer.write_block(block).unwrap();
        }
        writer.into_inner()
    }

    fn parsed(blocks: &[Block<'_>]) -> Result<Vec<Captured>, ReadPcapError> {
        parse(&file_of(Endianness::Little, blocks), Path::new("in.pcapng"))
    }

    #[test]
    fn each_interface_has_its_own_unit_of_time() {
        use InterfaceDescriptionOption::{IfTsOffset, IfTsResol};
        for endianness in [Endianness::Little, Endianness::Big] {
            let blocks = [
                interface(DataLink::ETHERNET, vec![]),
                interface(DataLink::ETHERNET, vec![IfTsResol(9)]),
                interface(DataLink::ETHERNET, vec![IfTsResol(0x80 | 0x0a), IfTsOffset(1000)]),
                packet(0, 1_700_000_000_123_456, &[1; 60]),
                packet(1, 1_700_000_000_123_456_789, &[2; 61]),
                packet(2, 5 * 1024 + 512, &[3; 62]),
            ];
            let frames = parse(&file_of(endianness, &blocks), Path::new("in.pcapng")).unwrap();
            let times: Vec<_> = frames.iter().map(|frame| frame.timestamp).collect();
            let expected = [
                Duration::new(1_700_000_000, 123_456_000),
                Duration::new(1_700_000_000, 123_456_789),
                Duration::new(1005, 500_000_000),
            ];
            assert_eq!(times, expected);
            let frames: Vec<_> =
                frames.iter().map(|frame| (frame.frame[0], frame.frame.len())).collect();
            assert_eq!(frames, [(1, 60), (2, 61), (3, 62)]);
        }
    }

    #[test]
    fn errors_name_the_file_and_what_is_wrong() {
        let ethernet = || interface(DataLink::ETHERNET, vec![]);
        let message = |blocks: &[Block<'_>]| parsed(blocks).unwrap_err().to_string();
        let error = message(&[
            ethernet(),
            interface(DataLink::LINUX_SLL, vec![]),
            packet(0, 1, &[0; 60]),
            packet(1, 2, &[0; 60]),
        ]);
        assert_eq!(error, "in.pcapng holds LINUX_SLL frames, not ethernet ones");
        let mut bytes = file_of(Endianness::Little, &[ethernet(), packet(0, 1, &[0; 60])]);
        // The interface's number is behind the last block's type and length.
        let at = bytes.len() - (8 + 20 + 60 + 4) + 8;
        bytes[at] = 3;
        let error = parse(&bytes, Path::new("in.pcapng")).unwrap_err().to_string();
        assert!(error.starts_with("frame 0 of in.pcapng is of interface 3, which"), "{error}");
        let resolution = InterfaceDescriptionOption::IfTsResol(20);
        let error = message(&[interface(DataLink::ETHERNET, vec![resolution]), packet(0, 1, &[0])]);
        assert!(error.contains("time resolution 20"), "{error}");
        let simple = SimplePacketBlock { original_len: 1, data: Cow::Borrowed(&[0]) };
        let error = message(&[ethernet(), Block::SimplePacket(simple)]);
        assert!(error.contains("convert it with `editcap"), "{error}");
        let error = parse(&MAGIC, Path::new("in.pcapng")).unwrap_err().to_string();
        assert!(error.contains("in.pcapng is not a capture file"), "{error}");
        // An interface that no frame is of may be anything.
        assert_eq!(parsed(&[interface(DataLink::LINUX_SLL, vec![])]).unwrap(), []);
    }

    proptest! {
        #[test]
        fn a_file_that_is_cut_off_or_altered_is_an_error_or_other_frames(
            cut in 0_usize..250,
            at in any::<prop::sample::Index>(),
            byte: u8,
        ) {
            let data = [7; 60];
            let blocks =
                [interface(DataLink::ETHERNET, vec![]), packet(0, 1, &data), packet(0, 2, &data)];
            let mut bytes = file_of(Endianness::Little, &blocks);
            bytes.truncate(bytes.len().saturating_sub(cut));
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = parse(&bytes, Path::new("x"));
        }

        #[test]
        fn noise_behind_the_magic_never_panics(
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = parse(&[&MAGIC[..], &noise].concat(), Path::new("x"));
        }
    }
}
