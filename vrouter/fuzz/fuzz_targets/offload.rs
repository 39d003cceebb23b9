#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/pipeline/bench.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod bench;
#[path = "../src/offload.rs"]
mod offload;
#[path = "../../tests/pipeline/rig.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod rig;

fuzz_target!(|data: &[u8]| offload::run(data));
