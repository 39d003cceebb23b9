#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/flow_table.rs"]
mod flow_table;

fuzz_target!(|data: &[u8]| flow_table::run(data));
