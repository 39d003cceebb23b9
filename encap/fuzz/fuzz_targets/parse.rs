#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/parse.rs"]
mod parse;

fuzz_target!(|data: &[u8]| parse::run(data));
