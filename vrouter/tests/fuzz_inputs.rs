//! The bodies of the fuzz targets, on stable: their seeds, every input that once made one of them
//! fail, and what earlier runs learned.
//!
//! `scripts/fuzz` looks for new ones. What it finds is kept in `fuzz/seeds/TARGET`, under a name
//! that says what it is; what it learned on the way, in `fuzz/learned/TARGET` (`--learn`).

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

#[path = "pipeline/bench.rs"]
#[expect(dead_code, reason = "the tests of the pipeline use more of it")]
mod bench;
#[path = "../fuzz/src/config.rs"]
mod config;
#[path = "../fuzz/src/flow_table.rs"]
mod flow_table;
#[path = "../fuzz/src/offload.rs"]
mod offload;
#[path = "../fuzz/src/pcap.rs"]
mod pcap;
#[path = "../fuzz/src/pipeline.rs"]
mod pipeline;
#[path = "pipeline/rig.rs"]
#[expect(dead_code, reason = "the tests of the pipeline use more of it")]
mod rig;
#[path = "../fuzz/src/vhost_messages.rs"]
mod vhost_messages;
#[path = "../fuzz/src/virtio_rings.rs"]
mod virtio_rings;

/// The files of a folder of the fuzz targets, by name; none if it is not there.
fn inputs(folder: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder).join(target);
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> =
        entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    files.sort();
    files
}

/// Runs a target's body on each of its seeds, and on each cut short at up to `cuts` lengths; then
/// on what was learned.
fn run_seeds(target: &str, cuts: usize, body: fn(&[u8])) {
    let seeds = inputs("seeds", target);
    assert!(!seeds.is_empty());
    let cuts = seeds.iter().map(|path| (path, cuts));
    let learned = inputs("learned", target);
    for (path, cuts) in cuts.chain(learned.iter().map(|path| (path, 0))) {
        // Printed if the body panics, and the test with it.
        eprintln!("{}", path.display());
        let seed = fs::read(path).expect("the seed can be read");
        body(&seed);
        (0..cuts).for_each(|cut| body(&seed[..seed.len() * cut / cuts]));
    }
}

#[test]
fn seeds_of_the_config_target_hold() {
    run_seeds("config", 200, config::run);
}

#[test]
fn seeds_of_the_flow_table_target_hold() {
    run_seeds("flow_table", 20, flow_table::run);
}

#[test]
fn seeds_of_the_offload_target_hold() {
    run_seeds("offload", 20, offload::run);
}

#[test]
fn seeds_of_the_pcap_target_hold() {
    run_seeds("pcap", 200, pcap::run);
}

#[test]
fn seeds_of_the_pipeline_target_hold() {
    run_seeds("pipeline", 10, pipeline::run);
}

#[test]
fn seeds_of_the_vhost_messages_target_hold() {
    run_seeds("vhost_messages", 20, vhost_messages::run);
}

#[test]
fn seeds_of_the_virtio_rings_target_hold() {
    run_seeds("virtio_rings", 20, virtio_rings::run);
}
