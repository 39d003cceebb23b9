//! The frames that all dataplanes get, as captures in files.

use std::{path::Path, time::Duration};

use perf::{peers::open_vswitch::Traffic, traffic};
use tempfile::TempDir;
use vrouter::port::pcap::file::CaptureWriter;

use super::options::CompareCase;

/// Frames in a file at least: several bursts, however few flows there are.
const FRAMES_MIN: usize = 1024;
/// Replies, and times that each comes, at least: Open vSwitch drops the first packets, some
/// hundred, of a port that is just added.
const REPLIES_MIN: usize = 4096;
const REPLY_ROUNDS: usize = 4;

/// Captures of what comes in, and of replies. They are removed with this.
pub(super) struct Files {
    routed: Traffic,
    tunnelled: Traffic,
    _folder: TempDir,
}

impl Files {
    pub(super) fn write(flows: u32, frame_bytes: usize) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vrouter-perf-").tempdir()?;
        let of = |case| write_traffic(folder.path(), case, flows, frame_bytes);
        let (routed, tunnelled) = (of(CompareCase::Conntrack)?, of(CompareCase::VxlanEncap)?);
        Ok(Self { routed, tunnelled, _folder: folder })
    }

    /// What comes in in a case.
    pub(super) fn of(&self, case: CompareCase) -> &Traffic {
        if case.forwarding().is_tunnelled { &self.tunnelled } else { &self.routed }
    }
}

/// The frames that our engine gets in the case, in the same order.
fn write_traffic(
    folder: &Path,
    case: CompareCase,
    flows: u32,
    frame_bytes: usize,
) -> anyhow::Result<Traffic> {
    let way = case.ours().way();
    let frames: Vec<Vec<u8>> = traffic::shuffled(flows)
        .into_iter()
        .map(|flow| traffic::frame(way, 0, flow, frame_bytes))
        .collect();
    let replies: Vec<Vec<u8>> = frames.iter().map(|frame| reply(frame)).collect();
    let rounds = FRAMES_MIN.div_ceil(frames.len().max(1));
    let path = |what: &str| folder.join(format!("{}-{what}.pcap", case.name()));
    let traffic =
        Traffic { frames: path("frames"), replies: path("replies"), connections: frames.len() };
    write_capture(&traffic.frames, (0..rounds).flat_map(|_| &frames))?;
    let rounds = REPLIES_MIN.div_ceil(replies.len().max(1)).max(REPLY_ROUNDS);
    write_capture(&traffic.replies, (0..rounds).flat_map(|_| &replies))?;
    Ok(traffic)
}

fn write_capture<'a>(
    path: &Path,
    frames: impl IntoIterator<Item = &'a Vec<u8>>,
) -> anyhow::Result<()> {
    let mut writer = CaptureWriter::create(path)?;
    for frame in frames {
        writer.write(Duration::ZERO, frame)?;
    }
    Ok(writer.finish()?)
}

/// A UDP frame over IPv4 with its ends exchanged, which changes no checksum.
pub(super) fn reply(frame: &[u8]) -> Vec<u8> {
    let mut reply = frame.to_vec();
    for (one, other, bytes) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
        for index in 0..bytes {
            if one + index < reply.len() && other + index < reply.len() {
                reply.swap(one + index, other + index);
            }
        }
    }
    reply
}

#[cfg(test)]
mod tests {
    use etherparse::SlicedPacket;

    use super::*;

    #[test]
    fn a_reply_goes_back_where_the_frame_came_from() {
        let way = CompareCase::Forward.ours().way();
        let frame = traffic::frame(way, 0, 77, 64);
        let reply = reply(&frame);
        let ends = |frame: &[u8]| {
            let packet = SlicedPacket::from_ethernet(frame).unwrap();
            let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else { panic!("no IPv4") };
            let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else {
                panic!("no UDP")
            };
            let header = ip.header();
            let from = (header.source_addr(), udp.source_port());
            (from, (header.destination_addr(), udp.destination_port()))
        };
        let (from, to) = ends(&frame);
        assert_eq!(ends(&reply), (to, from));
        assert_eq!(reply.len(), frame.len());
        assert_eq!(super::reply(&reply), frame);
    }

    #[test]
    fn few_flows_still_make_several_bursts() {
        let files = Files::write(3, 64).unwrap();
        let traffic = files.of(CompareCase::ConntrackVxlanEncap);
        assert_eq!(traffic.connections, 3);
        let frames = vrouter::port::pcap::file::read(&traffic.frames).unwrap();
        assert!(frames.len() >= FRAMES_MIN && frames.iter().all(|it| it.frame.len() == 64));
    }
}
