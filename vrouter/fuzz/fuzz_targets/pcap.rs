#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/pcap.rs"]
mod pcap;

fuzz_target!(|data: &[u8]| pcap::run(data));
