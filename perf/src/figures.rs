//! Figures of repeated runs.

use serde::{Deserialize, Serialize};

/// What repeated runs of one measurement gave.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Figures {
    /// The middle one; of an even number of runs, the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Figures {
    /// Of some runs; `None` without any.
    #[must_use]
    pub fn of(runs: &[f64]) -> Option<Self> {
        let mut sorted = runs.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Self { median: f64::midpoint(lower, upper), min, max })
    }
}

/// What one of `count` has of a total.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub fn per(total: u64, count: u64) -> f64 {
    total as f64 / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_run() {
        assert_eq!(Figures::of(&[]), None);
        assert_eq!(Figures::of(&[3.0]), Some(Figures { median: 3.0, min: 3.0, max: 3.0 }));
        let odd = Figures { median: 2.0, min: 1.0, max: 9.0 };
        assert_eq!(Figures::of(&[9.0, 1.0, 2.0]), Some(odd));
        let even = Figures { median: 2.5, min: 1.0, max: 9.0 };
        assert_eq!(Figures::of(&[9.0, 1.0, 2.0, 3.0]), Some(even));
    }
}
