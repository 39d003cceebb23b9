//! What an engine is made for, and what comes in on its ports.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use perf::{
    engine_run::{Inputs, RunConfig},
    traffic::{self, Way},
};
use vrouter::port::pcap::{
    Repeat,
    file::{self, Captured, ReadPcapError},
};

use super::options::{MIX_PODS, PipelineCase};

/// Connections that the table has room for at least.
const CONNECTIONS_MIN: u32 = 1024;
/// Connections that the table has room for where frames are the user's own.
const CAPTURE_CONNECTIONS: u32 = 1 << 20;
/// Connections that the table has room for, for each 16 that there are: nearly half of it stays
/// free, and the most flows still fit the largest table.
const ROOM_PER_16_FLOWS: u32 = 31;

/// What is measured with one engine.
pub(super) struct Workload {
    pub(super) case: &'static str,
    pub(super) config: RunConfig,
    pub(super) inputs: Inputs,
    /// Flows of the frames; `None` where only the engine can tell.
    pub(super) flows: Option<u32>,
    /// Of pods' frames; of a capture's frames the mean.
    pub(super) frame_bytes: usize,
}

/// Why there is nothing to measure.
#[derive(Debug, thiserror::Error)]
pub(super) enum CaptureError {
    #[error(transparent)]
    Read(#[from] ReadPcapError),
    #[error("{} holds no frames", path.display())]
    Empty { path: PathBuf },
}

impl Workload {
    /// A case with so many flows, each of them a frame, in random order.
    pub(super) fn of_case(case: PipelineCase, flows: u32, frame_bytes: usize, cpu: usize) -> Self {
        let (ways, pods) = (case.ways(), if case == PipelineCase::Mix { MIX_PODS } else { 2 });
        // Packets of one way go from or to the first pod, those of a mix from or to every one.
        let sources = if ways.len() > 1 { u32::from(pods) } else { 1 };
        let mut inputs: HashMap<String, Vec<Captured>> = HashMap::new();
        let mut connections = [0_u32; 2];
        for flow in traffic::shuffled(flows) {
            let pod = u8::try_from(flow % sources).unwrap_or(0);
            let way = ways.get((flow / sources) as usize % ways.len()).copied();
            let way = way.unwrap_or(Way::PodToPod);
            let frame = traffic::frame(way, pod, flow, frame_bytes);
            let captured = Captured { timestamp: Duration::ZERO, frame: frame.into() };
            inputs.entry(way.ingress(pod)).or_default().push(captured);
            let [v4, v6] = &mut connections;
            *(if way == Way::PodToPodV6 { v6 } else { v4 }) += 1;
        }
        let is_once = case == PipelineCase::NewFlow;
        Self {
            case: case.name(),
            config: RunConfig {
                pods,
                connections_max: connections.map(room_for),
                repeat: if is_once { Repeat::Once } else { Repeat::Forever },
                cpu,
            },
            inputs: inputs.into_iter().map(|(port, frames)| (port, frames.into())).collect(),
            flows: Some(flows),
            frame_bytes,
        }
    }

    /// The frames of a capture file, from a pod.
    pub(super) fn of_capture(path: &Path, cpu: usize) -> Result<Self, CaptureError> {
        let frames = file::read(path)?;
        let bytes: usize = frames.iter().map(|captured| captured.frame.len()).sum();
        if frames.is_empty() {
            return Err(CaptureError::Empty { path: path.into() });
        }
        let frame_bytes = bytes / frames.len();
        Ok(Self {
            case: "pcap",
            config: RunConfig {
                pods: 2,
                connections_max: [CAPTURE_CONNECTIONS; 2],
                repeat: Repeat::Forever,
                cpu,
            },
            inputs: HashMap::from([(traffic::pod_name(0), Arc::from(frames))]),
            flows: None,
            frame_bytes,
        })
    }

    /// Whether only first packets are measured.
    pub(super) fn is_of_first_packets(&self) -> bool {
        self.config.repeat == Repeat::Once
    }
}

fn room_for(flows: u32) -> u32 {
    (flows.div_ceil(16) * ROOM_PER_16_FLOWS).max(CONNECTIONS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_comes_in_on_twenty_ports() {
        let mix = Workload::of_case(PipelineCase::Mix, 7600, 64, 0);
        assert_eq!(mix.inputs.len(), 20);
        assert_eq!(mix.inputs.values().map(|frames| frames.len()).sum::<usize>(), 7600);
        assert_eq!(mix.inputs["uplink"].len(), 1900);
        assert_eq!(mix.config.connections_max, [5712 / 16 * 31, 1904 / 16 * 31]);
    }

    #[test]
    fn a_capture_without_frames_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty.pcap");
        file::CaptureWriter::create(&path).unwrap().finish().unwrap();
        let error = Workload::of_capture(&path, 0).err().unwrap();
        assert!(error.to_string().ends_with("empty.pcap holds no frames"), "{error}");
    }
}
