//! The sleep flag in all interleavings and memory orders that loom finds.

#[path = "sleep_flag.rs"]
#[expect(clippy::duplicate_mod, reason = "the same source over the atomics of loom")]
mod sleep_flag;
mod unfenced;

use std::sync::{
    Arc as StdArc,
    atomic::{AtomicBool as StdBool, Ordering::SeqCst},
};

use atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};
use loom::{
    sync::{Arc, atomic},
    thread,
};
use sleep_flag::SleepFlag;
use unfenced::sleep_flag::SleepFlag as UnfencedFlag;

/// One who pushes an item and one who sleeps: whether the sleeper may sleep on although the item is
/// there and nobody rang.
fn wake_up_is_lost<F: Send + Sync + 'static>(
    new: fn() -> F,
    lower: fn(&F),
    raise: fn(&F),
    take: fn(&F) -> bool,
) -> bool {
    let lost = StdArc::new(StdBool::new(false));
    let found = StdArc::clone(&lost);
    loom::model(move || {
        let flag = Arc::new(new());
        let item = Arc::new(AtomicBool::new(false));
        let producer = {
            let (flag, item) = (Arc::clone(&flag), Arc::clone(&item));
            thread::spawn(move || {
                item.store(true, Release);
                take(&flag)
            })
        };
        // Awake from the sleep before, and about to sleep again.
        lower(&flag);
        raise(&flag);
        let sees_item = item.load(Acquire);
        let rang = producer.join().unwrap();
        // What the last look missed must be seen at the latest after the bell rang.
        if !(sees_item || rang && item.load(Relaxed)) {
            found.store(true, SeqCst);
        }
    });
    lost.load(SeqCst)
}

#[test]
fn either_the_sleeper_sees_the_item_or_it_is_woken() {
    assert!(!wake_up_is_lost(SleepFlag::new, SleepFlag::lower, SleepFlag::raise, SleepFlag::take));
}

#[test]
fn the_model_notices_missing_fences() {
    assert!(wake_up_is_lost(
        UnfencedFlag::new,
        UnfencedFlag::lower,
        UnfencedFlag::raise,
        UnfencedFlag::take
    ));
}
