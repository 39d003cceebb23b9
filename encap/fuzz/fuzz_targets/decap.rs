#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/decap.rs"]
mod decap;

fuzz_target!(|data: &[u8]| decap::run(data));
