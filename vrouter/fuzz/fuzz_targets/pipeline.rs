#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/pipeline/bench.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod bench;
#[path = "../src/pipeline.rs"]
mod pipeline;
#[path = "../../tests/pipeline/rig.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod rig;

fuzz_target!(|data: &[u8]| pipeline::run(data));
