//! Capture files.
//!
//! The input is one. It is read or refused, and what was read is written and read again as it was.

use std::path::Path;

use vrouter::port::pcap::file::{Captured, PCAP_FRAME_BYTES_MAX, parse};

pub(crate) fn run(file: &[u8]) {
    let Ok(frames) = parse(file, Path::new("input.pcap")) else { return };
    for Captured { timestamp, frame } in &frames {
        assert!(frame.len() <= PCAP_FRAME_BYTES_MAX);
        assert!(timestamp.subsec_nanos() < 1_000_000_000);
    }
    let again = parse(&nanosecond_file(&frames), Path::new("again.pcap"));
    assert_eq!(again.expect("what was read can be read again"), frames);
}

/// The frames as a capture file with times in nanoseconds, written without the library that reads
/// it.
fn nanosecond_file(frames: &[Captured]) -> Vec<u8> {
    let mut file = Vec::new();
    // Magic, version 2.4, time zone, accuracy, longest frame, Ethernet.
    for (word, bytes) in [(0xa1b2_3c4d, 4), (2, 2), (4, 2), (0, 4), (0, 4), (1 << 18, 4), (1, 4)] {
        file.extend_from_slice(&u32::to_le_bytes(word)[..bytes]);
    }
    for Captured { timestamp, frame } in frames {
        let seconds = u32::try_from(timestamp.as_secs()).expect("the file had 32 bits for it");
        let length = u32::try_from(frame.len()).expect("frames are short");
        for word in [seconds, timestamp.subsec_nanos(), length, length] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(frame);
    }
    file
}
