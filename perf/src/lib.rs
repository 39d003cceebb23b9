//! Measurements: what benches and allocation counts share. Nothing depends on this crate.

pub mod bench_node;
