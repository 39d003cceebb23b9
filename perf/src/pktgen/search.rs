//! The highest rate at which a device loses no more than some part: RFC 2544 section 26.1.
//!
//! Several loss ratios are searched for at once, in the manner of Multiple Loss Ratio Search (RFC
//! 9971): a trial counts for all of them, and the first guess is what the device forwarded at full
//! load. The rest is a binary search for each goal. Unlike there, all trials are of one length, and
//! no load is tried again for the sake of devices that change their mind: of loads that contradict
//! each other the lowest that lost too much is the limit.

/// Trials of one search, at most: 20 halvings are one in a million, for each of a few goals.
pub const TRIALS_MAX: u32 = 100;
/// A sender that came to less than this part of a load did not offer it.
pub const LOAD_REACHED: f64 = 0.99;

/// A sender that misses its load so often in a row is taken to be unable to offer it, and not only
/// to have been held up.
const MISSES_MAX: u32 = 5;

/// What a trial gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Packets a second that were sent.
    pub offered: f64,
    /// The part of them that was lost.
    pub loss_ratio: f64,
}

/// What is searched for.
#[derive(Clone, Debug)]
pub struct Goals {
    /// Loss ratios that are still good.
    pub loss_ratios: Vec<f64>,
    /// The highest load to try, in packets a second; none is as fast as the sender can.
    pub load_max: Option<f64>,
    /// How near lower and upper bound have to be, as a part of the upper one.
    pub precision: f64,
}

/// What was found for one goal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// The loss ratio that is still good.
    pub goal: f64,
    /// The highest load that was good, and which of the trials it was; none if none was.
    pub throughput: Option<(f64, usize)>,
    /// The lowest load that was not good; none if the sender could offer none such.
    pub too_much: Option<f64>,
    /// Whether the two are as near as was asked. If not, the sender did not come to the loads between
    /// them, or there were too many trials.
    pub is_settled: bool,
}

/// Trials made so far: what was asked for, and what was measured.
///
/// A sender that was held up for a while has offered its load with pauses. If that was too much, so
/// is the load without pauses; if not, no more is known than that what was offered is good.
#[derive(Debug, Default)]
struct Trials(Vec<(f64, Measured)>);

/// Searches; `trial` makes one at a load, without one as fast as it can.
///
/// # Errors
///
/// Fails as soon as a trial does.
pub fn search<E>(
    goals: &Goals,
    mut trial: impl FnMut(Option<f64>) -> Result<Measured, E>,
) -> Result<Vec<Found>, E> {
    let mut trials = Trials::default();
    let full = trial(goals.load_max)?;
    trials.0.push((full.offered, full));
    // Loads that the sender does not reach are not asked for again.
    let mut ceiling = full.offered;
    let mut left = TRIALS_MAX;
    let mut misses = 0;
    for &goal in &goals.loss_ratios {
        while let Some(load) = trials.next_load(goal, full, goals.precision, ceiling)
            && left > 0
        {
            left -= 1;
            let measured = trial(Some(load))?;
            trials.0.push((load, measured));
            // What a sender that is too slow did offer counts, too.
            if measured.offered >= load * LOAD_REACHED || measured.loss_ratio > goal {
                misses = 0;
                continue;
            }
            misses += 1;
            if misses == MISSES_MAX {
                ceiling = measured.offered;
            }
        }
    }
    Ok(goals.loss_ratios.iter().map(|&goal| trials.found(goal, goals.precision)).collect())
}

impl Trials {
    /// The lowest load that lost too much.
    fn upper(&self, goal: f64) -> Option<f64> {
        let bad = self.0.iter().filter(|(_, it)| it.loss_ratio > goal).map(|(asked, _)| *asked);
        bad.reduce(f64::min)
    }

    /// The highest load below that which did not, and which trial it was.
    fn lower(&self, goal: f64) -> Option<(f64, usize)> {
        let upper = self.upper(goal).unwrap_or(f64::INFINITY);
        self.0
            .iter()
            .enumerate()
            .filter(|(_, (_, it))| it.loss_ratio <= goal && it.offered < upper)
            .map(|(index, (_, it))| (it.offered, index))
            .max_by(|one, other| one.0.total_cmp(&other.0))
    }

    /// The next load to try, if the bounds are not near enough.
    fn next_load(&self, goal: f64, full: Measured, precision: f64, ceiling: f64) -> Option<f64> {
        let upper = self.upper(goal)?.min(ceiling);
        let lower = self.lower(goal).map_or(0.0, |(load, _)| load);
        if upper - lower <= upper * precision {
            return None;
        }
        // What came out at full load is a good guess, but may be just too much.
        let forwarded = full.offered * (1.0 - full.loss_ratio) / (1.0 - goal.min(0.99));
        let guess = forwarded * (1.0 - precision / 2.0);
        let is_new = lower == 0.0 && guess > 0.0 && guess < upper;
        let load = if is_new { guess } else { f64::midpoint(lower, upper) };
        (load >= 1.0).then_some(load)
    }

    fn found(&self, goal: f64, precision: f64) -> Found {
        let (throughput, too_much) = (self.lower(goal), self.upper(goal));
        let is_settled = too_much.is_some_and(|upper| {
            upper - throughput.map_or(0.0, |(lower, _)| lower) <= upper * precision
        });
        Found { goal, throughput, too_much, is_settled }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// A device that forwards so many packets a second, and a sender that comes to so many.
    fn run(goals: &Goals, capacity: f64, sender_max: f64) -> (Vec<Found>, u32) {
        let mut trials = 0;
        let found = search(goals, |load| {
            trials += 1;
            let offered = load.unwrap_or(f64::INFINITY).min(sender_max);
            let loss_ratio = (1.0 - capacity / offered).max(0.0);
            Ok::<_, Infallible>(Measured { offered, loss_ratio })
        });
        (found.unwrap(), trials)
    }

    fn goals(precision: f64) -> Goals {
        Goals { loss_ratios: vec![0.0, 0.005], load_max: None, precision }
    }

    proptest! {
        #[test]
        fn the_rate_of_a_device_is_found_for_each_goal(
            capacity in 100.0..20e6_f64, above in 1.01..100.0_f64, precision in 0.001..0.05_f64,
        ) {
            let (found, trials) = run(&goals(precision), capacity, capacity * above);
            for found in found {
                prop_assert!(found.is_settled);
                let expected = capacity / (1.0 - found.goal);
                let (rate, _) = found.throughput.unwrap();
                prop_assert!(rate <= expected * 1.000_001, "{found:?}");
                prop_assert!(rate >= expected * (1.0 - precision) * 0.999_999, "{found:?}");
            }
            prop_assert!(trials <= 40, "{trials} trials");
        }

        #[test]
        fn noise_ends_after_a_limited_number_of_trials(
            losses in prop::collection::vec(0.0..0.02_f64, 1..50), precision in 0.0..0.01_f64,
        ) {
            let mut trials = 0;
            let found = search(&goals(precision), |load| {
                trials += 1;
                let loss_ratio = losses[trials % losses.len()];
                Ok::<_, Infallible>(Measured { offered: load.unwrap_or(1e6), loss_ratio })
            });
            prop_assert!(trials <= 1 + 2 * TRIALS_MAX as usize);
            for found in found.unwrap() {
                if let (Some((good, _)), Some(bad)) = (found.throughput, found.too_much) {
                    prop_assert!(good < bad);
                }
            }
        }
    }

    #[test]
    fn a_device_faster_than_the_sender_has_no_upper_bound() {
        let (found, trials) = run(&goals(0.01), 2e6, 1e6);
        assert_eq!(trials, 1);
        assert_eq!((found[0].throughput, found[0].too_much), (Some((1e6, 0)), None));
        assert!(!found[0].is_settled);
    }

    #[test]
    fn a_device_that_always_loses_has_no_throughput() {
        let found = search(&goals(0.01), |load| {
            let offered = load.unwrap_or(1000.0);
            Ok::<_, Infallible>(Measured { offered, loss_ratio: 0.5 })
        });
        for found in found.unwrap() {
            assert_eq!(found.throughput, None);
        }
    }

    #[test]
    fn a_load_that_the_sender_does_not_reach_is_no_bound_of_the_device() {
        // At full load the sender gets in its own way and comes to less than it could.
        let mut trials = 0;
        let found = search(&goals(0.01), |load| {
            trials += 1;
            let offered =
                load.unwrap_or(1000.0).min(600.0_f64.max(1000.0 * f64::from(load.is_none())));
            Ok::<_, Infallible>(Measured {
                offered,
                loss_ratio: if offered > 900.0 { 0.1 } else { 0.0 },
            })
        });
        assert!(trials < 50, "{trials}");
        let found = found.unwrap();
        assert!(found[0].throughput.unwrap().0 >= 600.0 && !found[0].is_settled, "{found:?}");
    }
}
