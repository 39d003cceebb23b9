//! A port that receives the frames of one capture file, or of a list in memory, and writes what it
//! sends to another file.
//!
//! For tests and benchmarks: the input is read whole when the port is opened, so receiving costs a
//! copy into a frame and nothing else. What is sent lies in a ring until `flush` writes it out, or
//! is freed at once if there is no file; frame *n* is stamped *n* microseconds, so that the same
//! input makes the same output.

pub mod file;

use std::{
    borrow::Cow,
    collections::HashMap,
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use self::file::{CaptureWriter, Captured, ReadPcapError, WritePcapError};
use super::{
    OpenPortError, OpenedPort, PeerGone, PortDevice, PortOpener, PortQueue, PortRef, PortRequest,
    SteerError, Steering,
};
use crate::{
    burst::{BURST_PACKETS_MAX, Burst},
    memory::FramePool,
    packet::Packet,
    stats::{SentTally, WorkerStats},
};

/// Packets that wait for the next flush at most, as in a device's transmit ring.
const TX_RING_PACKETS: usize = 1024;

/// The largest IP packet of the port, in bytes: any that there is.
const MTU_BYTES: u32 = 65_535;

/// What comes in.
#[derive(Clone, Debug, Default)]
pub enum PcapInput {
    /// Nothing.
    #[default]
    Nothing,
    /// The frames of this file.
    File(PathBuf),
    /// These frames; their times do not matter.
    Frames(Arc<[Captured]>),
}

impl PcapInput {
    fn read(&self) -> Result<Arc<[Captured]>, ReadPcapError> {
        match self {
            Self::Nothing => Ok(Arc::default()),
            Self::File(path) => file::read(path).map(Into::into),
            Self::Frames(frames) => Ok(Arc::clone(frames)),
        }
    }
}

/// How often the input is received.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Repeat {
    /// Once; then the port is silent.
    #[default]
    Once,
    /// Round and round.
    Forever,
}

/// The files of a port.
#[derive(Clone, Debug, Default)]
pub struct PcapPortConfig {
    /// What comes in.
    pub input: PcapInput,
    /// How often the input comes in.
    pub repeat: Repeat,
    /// Where to write what goes out; if absent it is freed.
    pub output: Option<PathBuf>,
}

/// Why a pcap port could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum OpenPcapError {
    #[error(transparent)]
    Input(#[from] ReadPcapError),
    #[error(transparent)]
    Output(#[from] WritePcapError),
    #[error("port {name} has no files; name them")]
    NoFiles { name: String },
}

/// Opens a port of one queue. Nothing comes in before it is steered there.
///
/// # Errors
///
/// Fails if the input cannot be read or the output cannot be created.
pub fn open(port: PortRef, config: &PcapPortConfig) -> Result<OpenedPort, OpenPcapError> {
    let input = config.input.read()?;
    let output = config.output.as_deref().map(CaptureWriter::create).transpose()?;
    let is_steered = Arc::new(AtomicBool::new(false));
    let queue = PcapQueue {
        port,
        is_steered: Arc::clone(&is_steered),
        input,
        position: 0,
        repeat: config.repeat,
        tx_ring: Vec::with_capacity(TX_RING_PACKETS),
        output,
        written: 0,
        linear: Vec::with_capacity(file::PCAP_FRAME_BYTES_MAX),
    };
    Ok(OpenedPort { queues: vec![Box::new(queue)], device: Box::new(PcapDevice { is_steered }) })
}

/// Opens pcap ports by name.
#[derive(Debug, Default)]
pub struct PcapOpener {
    /// The files of each port.
    pub files: HashMap<String, PcapPortConfig>,
}

impl PortOpener for PcapOpener {
    fn open(
        &mut self,
        request: &PortRequest,
        _pool: &mut FramePool,
    ) -> Result<OpenedPort, OpenPortError> {
        let name = request.name.clone();
        let opened = match self.files.get(&name) {
            Some(config) => open(request.port, config),
            None => Err(OpenPcapError::NoFiles { name: name.clone() }),
        };
        opened.map_err(|source| OpenPortError { name, source: Box::new(source) })
    }
}

struct PcapQueue {
    port: PortRef,
    /// Whether anything comes in. The main thread writes, through the device; the worker reads.
    is_steered: Arc<AtomicBool>,
    input: Arc<[Captured]>,
    position: usize,
    repeat: Repeat,
    /// Never grows beyond [`TX_RING_PACKETS`].
    tx_ring: Vec<Packet>,
    output: Option<CaptureWriter>,
    written: u64,
    /// A chained packet in one piece, for the file.
    linear: Vec<u8>,
}

impl PcapQueue {
    /// Writes the ring out; what cannot be written is freed all the same.
    fn write_out(&mut self, pool: &mut FramePool) -> Result<(), PeerGone> {
        let Self { tx_ring, output, written, linear, .. } = self;
        let mut result = Ok(());
        let Some(writer) = output else { return result };
        for packet in tx_ring.drain(..) {
            linear.clear();
            packet.for_each_segment(pool.region(), |bytes| linear.extend_from_slice(bytes));
            if writer.write(Duration::from_micros(*written), linear).is_err() {
                result = Err(PeerGone);
            }
            *written += 1;
            pool.free_packet(packet);
        }
        result
    }
}

impl PortQueue for PcapQueue {
    fn rx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) -> usize {
        let before = burst.len();
        if !self.is_steered.load(Relaxed) {
            return 0;
        }
        while burst.len() < BURST_PACKETS_MAX {
            if self.position == self.input.len() && self.repeat == Repeat::Forever {
                self.position = 0;
            }
            let Some(captured) = self.input.get(self.position) else { break };
            // Without free frames, the file waits: nothing is received, so nothing is lost.
            if !pool.copy_to(&captured.frame, self.port, burst) {
                break;
            }
            self.position += 1;
        }
        burst.len() - before
    }

    fn tx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst, stats: &WorkerStats) -> usize {
        let mut sent = SentTally::new(self.port, stats);
        if self.output.is_none() {
            let count = burst.len();
            for packet in burst.drain(..) {
                sent.add(packet.ingress, packet.total_bytes());
                pool.free_packet(packet);
            }
            return count;
        }
        let count = (TX_RING_PACKETS - self.tx_ring.len()).min(burst.len());
        for packet in burst.drain(..count) {
            sent.add(packet.ingress, packet.total_bytes());
            self.tx_ring.push(packet);
        }
        count
    }

    fn flush(&mut self, pool: &mut FramePool, _stats: &WorkerStats) -> Result<(), PeerGone> {
        self.write_out(pool)
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn drain(&mut self, pool: &mut FramePool, _stats: &WorkerStats) -> usize {
        // An output that cannot be written has nobody left to be told.
        let _ = self.write_out(pool);
        if let Some(output) = self.output.take() {
            let _ = output.finish();
        }
        0
    }
}

struct PcapDevice {
    is_steered: Arc<AtomicBool>,
}

impl PortDevice for PcapDevice {
    fn backend(&self) -> &'static str {
        "pcap"
    }

    fn detail(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn mac_address(&self) -> Option<[u8; 6]> {
        None
    }

    fn mtu_bytes(&self) -> u32 {
        MTU_BYTES
    }

    fn numa_node(&self) -> Option<u32> {
        None
    }

    fn steer(&mut self, steering: &Steering) -> Result<(), SteerError> {
        self.is_steered.store(*steering != Steering::Nothing, Relaxed);
        Ok(())
    }

    fn kernel_rx_dropped(&self) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Depot, Region, RegionConfig};

    const FRAME_SIZES: [usize; 4] = [60, 1514, 9000, 65_549];

    fn pool() -> FramePool {
        let config = RegionConfig { frame_count: 256, frame_bytes: 2048, huge_pages: false };
        FramePool::new(Depot::new(Arc::new(Region::create(&config).unwrap())))
    }

    fn write_input(path: &std::path::Path) {
        let mut writer = CaptureWriter::create(path).unwrap();
        for (second, bytes) in (0..).zip(FRAME_SIZES) {
            let frame: Vec<u8> = (0..bytes).map(|byte| byte.to_le_bytes()[0]).collect();
            writer.write(Duration::from_secs(second), &frame).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn what_comes_in_goes_out_whole_and_all_frames_are_back() {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (folder.path().join("in.pcap"), folder.path().join("out.pcap"));
        write_input(&input);
        let config = PcapPortConfig {
            input: PcapInput::File(input.clone()),
            output: Some(output.clone()),
            ..PcapPortConfig::default()
        };
        let mut opened = open(PortRef { index: 3, generation: 1 }, &config).unwrap();
        let (mut pool, stats) = (pool(), WorkerStats::new());
        let queue = &mut opened.queues[0];
        let mut burst = Burst::new();
        assert_eq!(queue.rx_burst(&mut pool, &mut burst), 0, "nothing is steered there yet");
        opened.device.steer(&Steering::Everything).unwrap();
        assert_eq!(queue.rx_burst(&mut pool, &mut burst), 4);
        assert_eq!(queue.rx_burst(&mut pool, &mut burst), 0);
        assert_eq!(burst[0].ingress, PortRef { index: 3, generation: 1 });
        assert_eq!(queue.tx_burst(&mut pool, &mut burst, &stats), 4);
        queue.flush(&mut pool, &stats).unwrap();
        assert_eq!(queue.drain(&mut pool, &stats), 0);
        let (sent, received) = (file::read(&output).unwrap(), file::read(&input).unwrap());
        for (number, (sent, received)) in (0..).zip(sent.iter().zip(&received)) {
            assert_eq!(sent.frame, received.frame);
            assert_eq!(sent.timestamp, Duration::from_micros(number));
        }
        let free = std::iter::from_fn(|| pool.allocate()).count();
        assert_eq!(free, 256);
    }

    #[test]
    fn a_file_can_come_in_round_and_round() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.pcap");
        write_input(&input);
        let config = PcapPortConfig {
            input: PcapInput::File(input),
            repeat: Repeat::Forever,
            ..PcapPortConfig::default()
        };
        let mut opened = open(PortRef::default(), &config).unwrap();
        opened.device.steer(&Steering::Everything).unwrap();
        let (mut pool, stats) = (pool(), WorkerStats::new());
        let mut sizes = Vec::new();
        while sizes.len() < 100 {
            let mut burst = Burst::new();
            assert!(opened.queues[0].rx_burst(&mut pool, &mut burst) > 0);
            sizes.extend(burst.iter().map(|packet| packet.total_bytes() as usize));
            opened.queues[0].tx_burst(&mut pool, &mut burst, &stats);
            opened.queues[0].flush(&mut pool, &stats).unwrap();
        }
        assert!(sizes.iter().eq(FRAME_SIZES.iter().cycle().take(sizes.len())));
    }

    #[test]
    fn a_missing_input_and_a_port_without_files_are_errors() {
        let input = PcapInput::File("/nowhere.pcap".into());
        let config = PcapPortConfig { input, ..PcapPortConfig::default() };
        let error = open(PortRef::default(), &config).err().unwrap();
        assert_eq!(error.to_string(), "cannot read /nowhere.pcap");
        let config =
            PcapPortConfig { output: Some("/nowhere/o".into()), ..PcapPortConfig::default() };
        let error = open(PortRef::default(), &config).err().unwrap();
        assert_eq!(error.to_string(), "cannot write /nowhere/o");
    }
}
