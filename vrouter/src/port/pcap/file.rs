//! Capture files: Ethernet frames with their times. Both formats are read, the classic one (pcap)
//! is written.

mod ng;

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use pcap_file::{
    DataLink, Endianness, PcapError, TsResolution,
    pcap::{PcapHeader, PcapReader, PcapWriter, RawPcapPacket},
};

/// The largest frame in a file, in bytes: what 16 bits of an IP length and a link header can say.
pub const PCAP_FRAME_BYTES_MAX: usize = 65_535 + 18;

/// Frames of a file at most: it is held in memory, and 16 Mi of the smallest take 1 GiB.
pub const PCAP_FRAMES_MAX: usize = 1 << 24;

/// One frame of a capture.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Captured {
    /// When it was captured, since 1970.
    pub timestamp: Duration,
    /// Its bytes, from the destination MAC on.
    pub frame: Box<[u8]>,
}

/// Why a capture file could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum ReadPcapError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} is not a capture file (pcap or pcapng): its header is cut off or wrong",
        path.display()
    )]
    NotPcap { path: PathBuf },
    #[error("{} holds {link_type:?} frames, not ethernet ones", path.display())]
    LinkType { path: PathBuf, link_type: DataLink },
    #[error("{} ends inside frame {frame}; cut it off or capture again", path.display())]
    Truncated { path: PathBuf, frame: usize },
    #[error(
        "frame {frame} of {} has {bytes} bytes; at most {PCAP_FRAME_BYTES_MAX} are possible",
        path.display()
    )]
    Oversized { path: PathBuf, frame: usize, bytes: u32 },
    #[error("frame {frame} of {} has a time of {fraction} parts of a second", path.display())]
    Timestamp { path: PathBuf, frame: usize, fraction: u32 },
    #[error(
        "frame {frame} of {} is of interface {interface}, which the file does not describe",
        path.display()
    )]
    Interface { path: PathBuf, frame: usize, interface: u32 },
    #[error(
        "frame {frame} of {} has a time resolution {resolution} that cannot be read; \
         convert it with `editcap -F pcap`",
        path.display()
    )]
    Resolution { path: PathBuf, frame: usize, resolution: u8 },
    #[error(
        "frame {frame} of {} is in a block without a readable time; \
         convert it with `editcap -F pcap`",
        path.display()
    )]
    PacketBlock { path: PathBuf, frame: usize },
    #[error("{} has more than {PCAP_FRAMES_MAX} frames; split it with editcap", path.display())]
    TooManyFrames { path: PathBuf },
}

/// Reads all frames of a capture file, in the file's order. A frame that the capture cut short is
/// what was captured of it.
///
/// # Errors
///
/// Fails if the file cannot be read, is no capture of Ethernet frames, or is damaged; frames are
/// numbered from 0.
pub fn read(path: &Path) -> Result<Vec<Captured>, ReadPcapError> {
    let bytes =
        std::fs::read(path).map_err(|source| ReadPcapError::Read { path: path.into(), source })?;
    parse(&bytes, path)
}

/// Reads all frames of a capture file that is in memory; `path` names it in errors.
///
/// # Errors
///
/// As [`read`], but for what reading the file itself can meet.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Captured>, ReadPcapError> {
    if bytes.starts_with(&ng::MAGIC) {
        return ng::parse(bytes, path);
    }
    let mut reader =
        PcapReader::new(bytes).map_err(|_| ReadPcapError::NotPcap { path: path.into() })?;
    let header = reader.header();
    if header.datalink != DataLink::ETHERNET {
        return Err(ReadPcapError::LinkType { path: path.into(), link_type: header.datalink });
    }
    let mut frames = Vec::new();
    while let Some(raw) = reader.next_raw_packet() {
        let raw = raw.map_err(|error| damaged(&error, path, frames.len()))?;
        if frames.len() == PCAP_FRAMES_MAX {
            return Err(ReadPcapError::TooManyFrames { path: path.into() });
        }
        frames.push(captured(raw, header.ts_resolution, path, frames.len())?);
    }
    Ok(frames)
}

fn captured(
    raw: RawPcapPacket<'_>,
    resolution: TsResolution,
    path: &Path,
    frame: usize,
) -> Result<Captured, ReadPcapError> {
    if raw.data.len() > PCAP_FRAME_BYTES_MAX {
        return Err(ReadPcapError::Oversized { path: path.into(), frame, bytes: raw.incl_len });
    }
    let parts = if resolution == TsResolution::MicroSecond { 1_000_000 } else { 1_000_000_000 };
    if raw.ts_frac >= parts {
        let fraction = raw.ts_frac;
        return Err(ReadPcapError::Timestamp { path: path.into(), frame, fraction });
    }
    let nanoseconds = raw.ts_frac * (1_000_000_000 / parts);
    let timestamp = Duration::new(u64::from(raw.ts_sec), nanoseconds);
    Ok(Captured { timestamp, frame: raw.data.into_owned().into_boxed_slice() })
}

/// What is wrong where the library could not go on: the file ends, or a length is nonsense.
#[cold]
fn damaged(error: &PcapError, path: &Path, frame: usize) -> ReadPcapError {
    if let PcapError::IoError(source) = error
        && source.kind() != io::ErrorKind::UnexpectedEof
    {
        let source = io::Error::from(source.kind());
        return ReadPcapError::Read { path: path.into(), source };
    }
    ReadPcapError::Truncated { path: path.into(), frame }
}

/// Why a capture file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct WritePcapError {
    /// The file.
    pub path: PathBuf,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

/// Writes a capture file: little-endian, nanoseconds, whatever the machine, so that the same frames
/// make the same file.
#[derive(Debug)]
pub struct CaptureWriter {
    path: PathBuf,
    writer: PcapWriter<BufWriter<File>>,
}

impl CaptureWriter {
    /// Creates the file, or empties the one that is there.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be created.
    pub fn create(path: &Path) -> Result<Self, WritePcapError> {
        let failed = |source| WritePcapError { path: path.into(), source };
        let file = BufWriter::new(File::create(path).map_err(failed)?);
        let header = PcapHeader {
            // Larger than any frame, or the library refuses to write the largest.
            snaplen: 1 << 18,
            ts_resolution: TsResolution::NanoSecond,
            endianness: Endianness::Little,
            ..PcapHeader::default()
        };
        let writer =
            PcapWriter::with_header(file, header).map_err(|error| failed(io_error(error)))?;
        Ok(Self { path: path.into(), writer })
    }

    /// Appends a frame that was sent at `timestamp`, since 1970.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn write(&mut self, timestamp: Duration, frame: &[u8]) -> Result<(), WritePcapError> {
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let raw = RawPcapPacket {
            // 32 bits of seconds last until 2106; later times stay there.
            ts_sec: u32::try_from(timestamp.as_secs()).unwrap_or(u32::MAX),
            ts_frac: timestamp.subsec_nanos(),
            incl_len: len,
            orig_len: len,
            data: frame.into(),
        };
        let written = self.writer.write_raw_packet(&raw);
        written.map(drop).map_err(|error| self.failed(io_error(error)))
    }

    /// Writes out what is buffered, and closes the file.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn finish(self) -> Result<(), WritePcapError> {
        let Self { path, writer } = self;
        let flushed = writer.into_writer().flush();
        flushed.map_err(|source| WritePcapError { path, source })
    }

    fn failed(&self, source: io::Error) -> WritePcapError {
        WritePcapError { path: self.path.clone(), source }
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(source) => source,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file_of(frames: &[Captured]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.pcap");
        let mut writer = CaptureWriter::create(&path).unwrap();
        for captured in frames {
            writer.write(captured.timestamp, &captured.frame).unwrap();
        }
        writer.finish().unwrap();
        std::fs::read(path).unwrap()
    }

    fn captured() -> impl Strategy<Value = Captured> {
        let frame = prop::collection::vec(any::<u8>(), 0..300);
        (0..u32::MAX, 0_u32..1_000_000_000, frame).prop_map(|(seconds, nanoseconds, frame)| {
            Captured { timestamp: Duration::new(seconds.into(), nanoseconds), frame: frame.into() }
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(frames in prop::collection::vec(captured(), 0..10)) {
            prop_assert_eq!(parse(&file_of(&frames), Path::new("x")).unwrap(), frames);
        }

        #[test]
        fn a_file_that_is_cut_off_anywhere_is_an_error_or_shorter(
            frames in prop::collection::vec(captured(), 1..4),
            cut in 0.0..1.0,
        ) {
            let bytes = file_of(&frames);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss,
                clippy::cast_precision_loss, reason = "a position in a short file")]
            let bytes = &bytes[..(bytes.len() as f64 * cut) as usize];
            match parse(bytes, Path::new("x")) {
                Ok(read) => prop_assert!(read.len() < frames.len() && frames.starts_with(&read)),
                Err(ReadPcapError::NotPcap { .. }) => prop_assert!(bytes.len() < 24),
                Err(ReadPcapError::Truncated { frame, .. }) => prop_assert!(frame < frames.len()),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }

        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, Path::new("x"));
        }
    }

    #[test]
    fn errors_name_the_file_and_the_next_step() {
        let message = |bytes: &[u8]| parse(bytes, Path::new("in.pcap")).unwrap_err().to_string();
        assert!(message(b"no").contains("in.pcap is not a capture file (pcap or pcapng)"));
        let mut linux_cooked = file_of(&[]);
        linux_cooked[20] = 113;
        assert!(message(&linux_cooked).contains("LINUX_SLL"), "{}", message(&linux_cooked));
        let missing = read(Path::new("/nowhere/in.pcap")).unwrap_err();
        assert_eq!(missing.to_string(), "cannot read /nowhere/in.pcap");
    }

    #[test]
    fn a_length_beyond_the_file_is_found() {
        let frame = Captured { timestamp: Duration::ZERO, frame: [7; 60].into() };
        let mut bytes = file_of(&[frame.clone(), frame]);
        bytes[24 + 76 + 8..24 + 76 + 12].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = parse(&bytes, Path::new("in.pcap")).unwrap_err();
        assert!(matches!(error, ReadPcapError::Truncated { frame: 1, .. }), "{error}");
    }
}
