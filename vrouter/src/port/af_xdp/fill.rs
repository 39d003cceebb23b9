//! How many frames a port keeps ready to receive into.
//!
//! They are lent for as long as the port is open, so what one port takes no other has: queues that
//! have to share a worker share its frames, and no port takes more than a share of the region.

use crate::port::Role;

/// What an uplink keeps: two thousand frames are 1.6 ms of small frames at 1.25 Mpps, the longest
/// pause of a busy worker.
const UPLINK: Wanted = Wanted { per_worker: 2048, per_queue_min: 256 };
/// What a guest port keeps: a TCP window of 700 kB, and 1 MiB of packet memory.
const GUEST: Wanted = Wanted { per_worker: 512, per_queue_min: 128 };
/// The part of the region that one port may keep: an uplink at its limit, and what is on its way in
/// rings and pools, leave pods half of it.
const REGION_SHARE: u32 = 4;
/// Frames that a queue has at least: what a driver takes in one turn (`NAPI_POLL_WEIGHT`).
pub(super) const QUEUE_FRAMES_MIN: u32 = 64;

/// What a port keeps where packet memory is plentiful.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// What a queue has that is alone on its worker.
    per_worker: u32,
    /// What a queue has however many share the worker: a burst or two of one flow.
    per_queue_min: u32,
}

/// A port's queues do not fit its share of packet memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ShareTooSmall {
    /// Frames that the queues need at least.
    pub(super) needed: u32,
    /// Frames that one port may keep.
    pub(super) share: u32,
    /// Frames of a region with room for these queues.
    pub(super) region_frames: u32,
}

/// Frames that each queue keeps of a port with `queue_count` queues, served by at most
/// `worker_count` workers, in a region of `region_frames` frames.
///
/// # Errors
///
/// Fails if the port's share of the region is less than [`QUEUE_FRAMES_MIN`] a queue.
pub(super) fn frames_of_queue(
    role: Role,
    queue_count: u32,
    worker_count: u16,
    region_frames: u32,
) -> Result<u32, ShareTooSmall> {
    let wanted = if role == Role::Uplink { UPLINK } else { GUEST };
    let queue_count = queue_count.max(1);
    let workers = u32::from(worker_count).clamp(1, queue_count);
    let of_workers = wanted.per_worker.saturating_mul(workers) / queue_count;
    let share = region_frames / REGION_SHARE;
    let frames = of_workers.max(wanted.per_queue_min).min(share / queue_count);
    if frames < QUEUE_FRAMES_MIN {
        let needed = QUEUE_FRAMES_MIN.saturating_mul(queue_count);
        let region_frames = needed.saturating_mul(REGION_SHARE);
        return Err(ShareTooSmall { needed, share, region_frames });
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn queues_that_share_a_worker_share_its_frames() {
        let frames = |queues, workers| frames_of_queue(Role::Uplink, queues, workers, 1 << 20);
        assert_eq!(frames(1, 1), Ok(2048));
        assert_eq!(frames(2, 4), Ok(2048), "more workers than queues");
        assert_eq!(frames(4, 4), Ok(2048));
        assert_eq!(frames(4, 2), Ok(1024));
        assert_eq!(frames(4, 1), Ok(512));
        assert_eq!(frames(64, 1), Ok(256), "never less than a burst or two");
    }

    #[test]
    fn many_queues_share_a_quarter_of_packet_memory() {
        let frames = |queues| frames_of_queue(Role::Uplink, queues, 1, 16_384);
        assert_eq!(frames(16), Ok(256));
        assert_eq!(frames(32), Ok(128));
        assert_eq!(frames(64), Ok(64));
        let refused = ShareTooSmall { needed: 4160, share: 4096, region_frames: 16_640 };
        assert_eq!(frames(65), Err(refused));
        assert_eq!(frames_of_queue(Role::Uplink, 65, 1, 16_640), Ok(64));
    }

    proptest! {
        #[test]
        fn no_port_keeps_more_than_its_share(
            is_uplink: bool, queues in 1..=256_u32, workers in 1..=64_u16,
            region_frames in 64..=1_u32 << 24,
        ) {
            let role = if is_uplink { Role::Uplink } else { Role::Guest };
            match frames_of_queue(role, queues, workers, region_frames) {
                Ok(frames) => {
                    prop_assert!(frames >= QUEUE_FRAMES_MIN);
                    prop_assert!(frames * queues <= region_frames / 4);
                }
                Err(refused) => {
                    prop_assert!(refused.needed > refused.share);
                    let enough = frames_of_queue(role, queues, workers, refused.region_frames);
                    prop_assert!(enough.is_ok());
                }
            }
        }
    }
}
