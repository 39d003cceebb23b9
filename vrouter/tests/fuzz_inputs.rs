//! The bodies of the fuzz targets, on stable: their seeds, and every input that once made one of
//! them fail.
//!
//! `scripts/fuzz` looks for new ones. What it finds is kept in `fuzz/seeds/TARGET`, under a name
//! that says what it is.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{fs, path::Path};

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

/// Runs a target's body on each of its seeds, and on each cut short at up to `cuts` lengths.
fn run_seeds(target: &str, cuts: usize, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut seeds: Vec<_> = fs::read_dir(folder)
        .expect("the target has seeds")
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    for path in seeds {
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
