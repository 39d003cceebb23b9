//! `vrctl replay` from the outside: files in, files out, and what the operator reads.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic, too")]

mod bad_input;
mod bench;
mod forwarding;
