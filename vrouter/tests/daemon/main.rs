//! The binary `vrouter` from the outside: its socket, its files, its exit codes. Ports are rings in
//! process, so nothing here needs a network device.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests may panic, too, and figures are shown"
)]

mod api;
mod life;
mod rig;
mod scale;
