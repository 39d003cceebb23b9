//! `vrouter-perf instructions`: one piece of work, always the same, for callgrind to count.
//!
//! One thread, a fixed secret, a clock of its own: two runs execute the same instructions. What is
//! counted is what [`measured_part`] calls (`--toggle-collect='*measured_part*'`); see
//! `scripts/lib/bench-gate`.
#![expect(clippy::print_stdout, reason = "results go to the standard output")]

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use flowtable::FlowKey;
use perf::{
    bench_node::{BenchNode, frames},
    flow_tables::{Access, FlowMap, key, ours, packets},
    traffic::Way,
};
use serde::Serialize;
use vrouter::burst::BURST_PACKETS_MAX;

/// Flows of a case with known ones.
const FLOWS: u32 = 1024;
/// Packets, lookups or connections that are counted.
const OPERATIONS: u32 = 1 << 14;
/// Connections that the flow table has room for: twice as many as there are at the end.
const CONNECTIONS_MAX: u32 = 1 << 16;
const FRAME_BYTES: usize = 64;

#[derive(Args, Debug)]
pub(crate) struct InstructionsOptions {
    /// What to do.
    case: Work,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Work {
    /// Packets of known flows, IPv4 from pod to pod.
    Ipv4Routed,
    /// Packets of known flows, IPv6 from pod to pod.
    Ipv6Routed,
    /// Packets of known flows, IPv4 from a pod into a VXLAN tunnel.
    VxlanEncap,
    /// Packets of known flows, IPv4 out of a VXLAN tunnel to a pod.
    VxlanDecap,
    /// First packets, IPv4 from pod to pod.
    NewFlow,
    /// Lookups in the flow table that find their key.
    LookupHit,
    /// Lookups in the flow table that do not.
    LookupMiss,
    /// Connections that are entered into the flow table.
    InsertPair,
}

/// What the counts depend on besides the program: which paths code takes that looks at the
/// processor, ours and the C library's.
#[derive(Debug, Serialize)]
struct Counted {
    operations: u32,
    architecture: &'static str,
    features: Vec<&'static str>,
}

/// Does the work, and tells how many operations were in the counted part.
pub(crate) fn run(options: &InstructionsOptions) -> anyhow::Result<()> {
    match options.case {
        Work::Ipv4Routed => known_flows(Way::PodToPod)?,
        Work::Ipv6Routed => known_flows(Way::PodToPodV6)?,
        Work::VxlanEncap => known_flows(Way::Encap)?,
        Work::VxlanDecap => known_flows(Way::Decap)?,
        Work::NewFlow => new_flows()?,
        Work::LookupHit => lookups(0, OPERATIONS as usize)?,
        Work::LookupMiss => lookups(OPERATIONS, 0)?,
        Work::InsertPair => inserts()?,
    }
    let counted = Counted {
        operations: OPERATIONS,
        architecture: std::env::consts::ARCH,
        features: processor_features(),
    };
    println!("{}", serde_json::to_string(&counted)?);
    Ok(())
}

/// Those that are there, of the ones that code asks for.
fn processor_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("aes", is_x86_feature_detected!("aes")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("ermsb", is_x86_feature_detected!("ermsb")),
        ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let features: [(&str, bool); 0] = [];
    features.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect()
}

/// The only function whose instructions are counted, with all that it calls.
#[inline(never)]
fn measured_part<T>(work: impl FnOnce() -> T) -> T {
    work()
}

fn known_flows(way: Way) -> anyhow::Result<()> {
    let mut node = BenchNode::new(CONNECTIONS_MAX)?;
    let frames = frames(way, FLOWS, FRAME_BYTES);
    forward(&mut node, way, &frames)?;
    let rounds = OPERATIONS / FLOWS;
    measured_part(|| (0..rounds).try_for_each(|_| forward(&mut node, way, &frames)))
}

fn new_flows() -> anyhow::Result<()> {
    let mut node = BenchNode::new(CONNECTIONS_MAX)?;
    let frames = frames(Way::PodToPod, OPERATIONS + FLOWS, FRAME_BYTES);
    let (first, others) = frames.split_at(FLOWS as usize);
    forward(&mut node, Way::PodToPod, first)?;
    measured_part(|| forward(&mut node, Way::PodToPod, others))
}

fn forward(node: &mut BenchNode, way: Way, frames: &[Vec<u8>]) -> anyhow::Result<()> {
    let ingress = node.ingress(way);
    for burst in frames.chunks(BURST_PACKETS_MAX) {
        let (_, sent) = node.process(ingress, burst);
        ensure!(sent == burst.len(), "{sent} of {} packets were sent", burst.len());
    }
    Ok(())
}

fn lookups(first: u32, expected: usize) -> anyhow::Result<()> {
    let (mut access, _) = table(OPERATIONS)?;
    let keys = packets(first, OPERATIONS, OPERATIONS as usize);
    access.look_up(&keys);
    match measured_part(|| access.look_up(&keys)) {
        found if found == expected => Ok(()),
        found => bail!("{found} keys were found, not {expected}"),
    }
}

fn inserts() -> anyhow::Result<()> {
    let (mut access, _) = table(FLOWS)?;
    let keys: Vec<FlowKey> = (FLOWS..FLOWS + OPERATIONS).map(key).collect();
    measured_part(|| access.insert_pairs(&keys));
    let found = access.look_up(&keys);
    ensure!(found == keys.len(), "{found} connections are there, not {}", keys.len());
    Ok(())
}

/// A table with the first `connections` in it, and room for twice as many directions as come.
fn table(connections: u32) -> anyhow::Result<(Box<dyn Access>, Box<dyn FlowMap>)> {
    let map = ours(OPERATIONS * 4, 50)?;
    let mut access = map.access();
    access.insert_pairs(&(0..connections).map(key).collect::<Vec<_>>());
    Ok((access, map))
}
