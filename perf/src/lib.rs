//! Measurements: what benches, allocation counts and `vrouter-perf` share. Nothing depends on this
//! crate.

pub mod bench_node;
pub mod figures;
pub mod flow_tables;
pub mod machine;
pub mod peers;
