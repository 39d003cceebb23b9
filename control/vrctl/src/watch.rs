//! Repeating a question, and the rates between two answers.

use std::{str::FromStr, time::Duration};

use tokio::time::Instant;

use crate::{
    cli::WatchOptions,
    exit::Failure,
    print::{Printer, Row},
};

/// The shortest interval: below it the asking itself would show in the rates.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// The longest interval: a day.
const INTERVAL_MAX: Duration = Duration::from_hours(24);

/// The interval of a watch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch(Duration);

/// Why an interval is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an interval is a number of seconds from 0.1 to 86400")]
pub(crate) struct ParseWatchError;

impl FromStr for Watch {
    type Err = ParseWatchError;

    fn from_str(text: &str) -> Result<Self, ParseWatchError> {
        let seconds: f64 = text.parse().map_err(|_| ParseWatchError)?;
        let interval = Duration::try_from_secs_f64(seconds).map_err(|_| ParseWatchError)?;
        if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
            return Err(ParseWatchError);
        }
        Ok(Self(interval))
    }
}

/// How much a counter rose a second; none across a restart of the peer, when it fell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elapsed(Duration);

impl Elapsed {
    /// The rise a second from `before` to `now`, in whole units.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a rate is rounded, and never negative"
    )]
    pub(crate) fn rate(self, before: u64, now: u64) -> Option<u64> {
        let rise = now.checked_sub(before)?;
        Some((rise as f64 / self.0.as_secs_f64()).round() as u64)
    }
}

/// Asks with `fetch` every interval, and prints what `compare` makes of two answers, until the
/// rounds are over, the operator interrupts, or the peer fails.
///
/// # Errors
///
/// Fails as `fetch` does, or if the output fails.
pub(crate) async fn repeat<T, R: Row>(
    options: WatchOptions,
    watch: Watch,
    printer: &mut Printer,
    mut fetch: impl AsyncFnMut() -> Result<Vec<T>, Failure>,
    compare: impl Fn(&[T], &[T], Elapsed) -> Vec<R>,
) -> Result<(), Failure> {
    let mut asked = Instant::now();
    let mut before = fetch().await?;
    let mut rounds = options.count.unwrap_or(u64::MAX);
    while rounds > 0 {
        rounds -= 1;
        tokio::time::sleep_until(asked + watch.0).await;
        let now = Instant::now();
        let answer = fetch().await?;
        let rows = compare(&before, &answer, Elapsed(now - asked));
        printer.watched(&rows)?;
        (asked, before) = (now, answer);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Elapsed {
        pub(crate) const SECOND: Self = Self(Duration::from_secs(1));
    }

    #[test]
    fn a_rate_is_the_rise_a_second_and_none_after_a_restart() {
        let elapsed = Elapsed(Duration::from_millis(500));
        assert_eq!(elapsed.rate(100, 200), Some(200));
        assert_eq!(elapsed.rate(200, 100), None);
    }
}
