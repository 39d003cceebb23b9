//! How long a CNI verb may take: each limit is made of those inside it, and all fit into what the
//! kubelet waits.
//!
//! ```text
//! kubelet ─► plugin ─► control ─► engine, IPAM plugin, and what has to be undone
//!   240 s     210 s     120 s      10 s + 60 s                                       ADD
//!   120 s      90 s      70 s      10 s + 60 s                                       DEL
//! ```
//!
//! So the plugin hears how a verb ended even if everything takes as long as it may. If the plugin
//! is killed, or gives up all the same, control sees the connection end, and undoes an ADD.

use std::time::Duration;

/// What the kubelet waits for a sandbox to run, unless it is told otherwise: twice the next.
pub const KUBELET_ADD: Duration = Duration::from_mins(4);

/// What the kubelet waits for any other call of its runtime, unless `runtimeRequestTimeout` says
/// otherwise.
pub const KUBELET_OTHER: Duration = Duration::from_mins(2);

/// What control waits for an IPAM plugin: a DHCP exchange with its repetitions takes some ten
/// seconds.
pub const IPAM: Duration = Duration::from_mins(1);

/// What control waits for the engine to take a port: a machine may stall for seconds.
pub const ENGINE_OPEN: Duration = Duration::from_secs(20);

/// What control waits for the engine to let go of a port before it goes on without.
pub const ENGINE_CLOSE: Duration = Duration::from_secs(10);

/// What control needs at most to remove an attachment: the engine's port, then the addresses.
pub const DETACH: Duration = sum(&[ENGINE_CLOSE, IPAM]);

/// What control spends on an ADD before it gives up and undoes it: an IPAM plugin and the engine
/// may both be slow, and there is some time left to wait for another verb's end.
pub const ATTACH: Duration = Duration::from_mins(2);

/// Room for everything that has no limit of its own: the database, the kernel, a busy machine.
const SLACK: Duration = Duration::from_secs(20);

/// What the plugin waits for an ADD.
pub const PLUGIN_ADD: Duration = sum(&[ATTACH, DETACH, SLACK]);

/// What the plugin waits for any other verb but STATUS.
pub const PLUGIN_OTHER: Duration = sum(&[DETACH, SLACK]);

/// What the plugin waits for STATUS, which runtimes ask every five seconds, and which is answered
/// from memory.
pub const PLUGIN_STATUS: Duration = Duration::from_secs(4);

const fn sum(parts: &[Duration]) -> Duration {
    let mut seconds = 0;
    let mut rest = parts;
    while let Some((first, others)) = rest.split_first() {
        seconds += first.as_secs();
        rest = others;
    }
    Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_fits_into_the_one_around_it() {
        assert!(PLUGIN_ADD < KUBELET_ADD && PLUGIN_OTHER < KUBELET_OTHER);
        assert!(ATTACH + DETACH < PLUGIN_ADD && DETACH < PLUGIN_OTHER);
        assert!(IPAM + ENGINE_OPEN < ATTACH, "a slow ADD may still succeed");
        // The figure above.
        let seconds = [PLUGIN_ADD, ATTACH, PLUGIN_OTHER, DETACH].map(|limit| limit.as_secs());
        assert_eq!(seconds, [210, 120, 90, 70]);
    }
}
