//! Receives frames and keeps the account of a stream.

use std::io;

use super::{
    FCS_BYTES,
    account::Account,
    locate,
    port::RxPort,
    tag::{Reading, Tag},
};

/// Takes in what is there; returns how many frames.
///
/// The clock is read once, at the first frame: all of a burst have arrived by then.
///
/// # Errors
///
/// Fails if the port is gone.
pub fn poll(
    port: &mut dyn RxPort,
    account: &mut Account,
    clock: impl Fn() -> u64,
) -> io::Result<usize> {
    let mut arrived_ns = None;
    port.receive(&mut |frame| {
        let now_ns = *arrived_ns.get_or_insert_with(&clock);
        let reading = locate::payload(frame).map_or(Reading::Foreign, Tag::read);
        account.enter(reading, frame.len() + FCS_BYTES, now_ns);
    })
}
