//! Whether B is faster than A, from values that were taken in turn.

use std::fmt;

/// Differences smaller than this are none, however sure.
const NEGLIGIBLE: f64 = 0.01;

/// Quantiles 0.975 of Student's t by degrees of freedom, from 1.
///
/// Source: computed from the distribution; as in any table of it.
const STUDENT: [f64; 20] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086,
];

/// What is said of a difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// B is faster.
    Faster,
    /// B is slower.
    Slower,
    /// Neither can be said.
    NoDifference,
}

/// B's speed by A's, with the interval that holds it with 95 % confidence.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Difference {
    /// The middle.
    pub ratio: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Difference {
    /// Compares speeds (more is better) that were taken in pairs; `None` of fewer than three pairs.
    ///
    /// What disturbs both of a pair alike drops out. Ratios are compared by their logarithms, so that twice as fast
    /// and half as fast are equally far from level.
    #[must_use]
    pub fn between(a: &[f64], b: &[f64]) -> Option<Self> {
        let logarithms: Vec<f64> =
            a.iter().zip(b).map(|(a, b)| (b / a).ln()).filter(|log| log.is_finite()).collect();
        let count = logarithms.len();
        if count < 3 {
            return None;
        }
        let mean = logarithms.iter().sum::<f64>() / count as f64;
        let variance = logarithms.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
        let quantile = STUDENT.get(count - 2).copied().unwrap_or(1.96);
        let margin = quantile * (variance / count as f64).sqrt();
        Some(Self { ratio: mean.exp(), low: (mean - margin).exp(), high: (mean + margin).exp() })
    }

    /// Says what it means.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.low > 1.0 && self.ratio > 1.0 + NEGLIGIBLE {
            Verdict::Faster
        } else if self.high < 1.0 && self.ratio < 1.0 - NEGLIGIBLE {
            Verdict::Slower
        } else {
            Verdict::NoDifference
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |ratio: f64| (ratio - 1.0) * 100.0;
        let verdict = match self.verdict() {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::NoDifference => "no difference",
        };
        write!(
            f,
            "{verdict}: {:+.1} % (95 % confidence: {:+.1} to {:+.1} %)",
            percent(self.ratio),
            percent(self.low),
            percent(self.high)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::popularity::Random;

    fn values(random: &mut Random, speed: f64, noise: f64, count: usize) -> Vec<f64> {
        (0..count).map(|_| speed * (1.0 + noise * (random.unit() - 0.5))).collect()
    }

    #[test]
    fn a_tenth_more_is_faster_a_tenth_less_is_slower() {
        let mut random = Random::seeded(1);
        let a = values(&mut random, 100.0, 0.05, 10);
        let verdict = |b: &[f64]| Difference::between(&a, b).unwrap().verdict();
        assert_eq!(verdict(&values(&mut random, 110.0, 0.05, 10)), Verdict::Faster);
        assert_eq!(verdict(&values(&mut random, 90.0, 0.05, 10)), Verdict::Slower);
    }

    #[test]
    fn of_two_that_are_alike_hardly_ever_one_is_called_faster() {
        let mut random = Random::seeded(2);
        let is_different = |_| {
            let (a, b) = (values(&mut random, 100.0, 0.3, 10), values(&mut random, 100.0, 0.3, 10));
            usize::from(Difference::between(&a, &b).unwrap().verdict() != Verdict::NoDifference)
        };
        let wrong: usize = (0..1000).map(is_different).sum();
        assert!((20..80).contains(&wrong), "{wrong} of 1000, where 50 are to be expected");
    }

    #[test]
    fn what_disturbs_both_of_a_pair_alike_does_not_matter() {
        let a = [100.0, 50.0, 10.0, 80.0];
        let b = a.map(|value| value * 1.05);
        assert_eq!(Difference::between(&a, &b).unwrap().verdict(), Verdict::Faster);
    }

    #[test]
    fn two_pairs_say_nothing() {
        assert_eq!(Difference::between(&[1.0, 1.0], &[2.0, 2.0]), None);
    }
}
