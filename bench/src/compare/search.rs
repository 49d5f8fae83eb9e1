//! The highest rate that is carried with hardly a loss, by halving.

use anyhow::Result;

/// Share of the units offered that may be lost.
pub const LOSS_LIMIT: f64 = 0.001;
/// The search ends when the rate is known this closely.
const CLOSE: f64 = 1.03;
/// What a rate is lowered by that failed when it was held for long.
const STEP_DOWN: f64 = 0.97;
/// Rates below this are none.
const LEAST: f64 = 500.0;

/// How long rates are tried.
#[derive(Clone, Copy, Debug)]
pub struct Durations {
    /// While searching, in seconds.
    pub probe: f64,
    /// What is found must be held this long, in seconds.
    pub hold: f64,
}

/// What came of a trial.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// Share lost.
    pub loss: f64,
    /// Units per second that were completed.
    pub rate: f64,
}

/// Finds the highest rate whose loss is within the limit.
///
/// `trial` gets units per second and seconds. `near` is a rate found before, if there is one; else too much is offered
/// first, to see where about the limit is. Zero if nothing is carried at all.
pub fn highest_rate(
    durations: Durations,
    too_much: f64,
    near: Option<f64>,
    mut trial: impl FnMut(f64, f64) -> Result<Trial>,
) -> Result<f64> {
    let (mut low, mut high) = match near {
        Some(near) => (near * 0.9, near * 1.1),
        None => {
            let flooded = trial(too_much, durations.probe)?.rate;
            (flooded * 0.5, (flooded * 1.2).min(too_much))
        }
    };
    let mut carries = |rate, seconds| Ok::<_, anyhow::Error>(trial(rate, seconds)?.loss <= LOSS_LIMIT);
    while low > LEAST && !carries(low, durations.probe)? {
        (low, high) = (low * 0.7, low);
    }
    while high < too_much && carries(high, durations.probe)? {
        (low, high) = (high, high * 1.2);
    }
    while high / low > CLOSE {
        let middle = f64::midpoint(low, high);
        if carries(middle, durations.probe)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    while low > LEAST && !carries(low, durations.hold)? {
        low *= STEP_DOWN;
    }
    Ok(if low > LEAST { low } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(limit: f64, near: Option<f64>) -> (f64, u32) {
        let mut trials = 0;
        let found = highest_rate(Durations { probe: 1.0, hold: 5.0 }, 3e6, near, |rate, _| {
            trials += 1;
            let carried = rate.min(limit);
            Ok(Trial { loss: 1.0 - carried / rate, rate: carried })
        });
        (found.unwrap(), trials)
    }

    #[test]
    fn the_limit_is_found_to_three_hundredths_in_few_trials() {
        for limit in [10_000.0, 123_456.0, 800_000.0, 2_900_000.0] {
            for near in [None, Some(limit), Some(limit * 1.3), Some(limit * 0.6)] {
                let (found, trials) = find(limit, near);
                assert!(found <= limit * 1.001 && found > limit / 1.035, "{limit} {near:?}: {found}");
                assert!(trials <= 12, "{limit} {near:?}: {trials}");
            }
        }
    }

    #[test]
    fn what_carries_nothing_has_no_rate() {
        assert_eq!(find(0.0, None).0, 0.0);
        assert_eq!(find(0.0, Some(100_000.0)).0, 0.0);
    }

    #[test]
    fn a_rate_that_is_not_held_for_long_is_lowered() {
        let found = highest_rate(Durations { probe: 1.0, hold: 5.0 }, 3e6, None, |rate, seconds| {
            let limit = if seconds > 1.0 { 400_000.0 } else { 500_000.0 };
            Ok(Trial { loss: 1.0 - rate.min(limit) / rate, rate: rate.min(limit) })
        });
        let found = found.unwrap();
        assert!(found <= 400_400.0 && found > 380_000.0, "{found}");
    }
}
