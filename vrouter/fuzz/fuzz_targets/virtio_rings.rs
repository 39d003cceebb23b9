#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/virtio_rings.rs"]
mod virtio_rings;

fuzz_target!(|data: &[u8]| virtio_rings::run(data));
