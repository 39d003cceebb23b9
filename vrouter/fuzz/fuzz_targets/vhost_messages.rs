#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/vhost_messages.rs"]
mod vhost_messages;

fuzz_target!(|data: &[u8]| vhost_messages::run(data));
