#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/config.rs"]
mod config;

fuzz_target!(|data: &[u8]| config::run(data));
