//! The bodies of the fuzz targets, on stable: their seeds, and every input that once made one of
//! them fail.
//!
//! `scripts/fuzz` looks for new ones. What it finds is kept in `fuzz/seeds/TARGET`, under a name
//! that says what it is.

#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{fs, path::Path};

#[path = "../fuzz/src/decap.rs"]
mod decap;
#[path = "../fuzz/src/parse.rs"]
mod parse;

/// Runs a target's body on each of its seeds, and on each cut short at every length.
fn run_seeds(target: &str, body: fn(&[u8])) {
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
        (0..=seed.len()).for_each(|end| body(&seed[..end]));
    }
}

#[test]
fn seeds_of_the_parse_target_hold() {
    run_seeds("parse", parse::run);
}

#[test]
fn seeds_of_the_decap_target_hold() {
    run_seeds("decap", decap::run);
}
