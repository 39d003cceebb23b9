//! Measurements: what benches, allocation counts and `vrouter-perf` share. Nothing depends on this
//! crate.

pub mod bench_node;
pub mod cycles;
pub mod disturbance;
pub mod engine_run;
pub mod figures;
pub mod flow_tables;
pub mod huge_pages;
pub mod machine;
pub mod meter;
pub mod peers;
pub mod pktgen;
pub mod policy_load;
pub mod traffic;
