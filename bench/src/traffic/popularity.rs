//! Which flow the next packet is of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Draws that are made before the start and then repeated.
const DRAWS: usize = 1 << 20;

/// How often each flow comes.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub enum Popularity {
    /// All equally often.
    Uniform,
    /// The k-th most popular with a weight of k to the power of minus this.
    Zipf(f64),
}

impl Popularity {
    /// Returns flow numbers below `flows` in the order of their packets, the same in every run; repeat them.
    #[must_use]
    pub fn draws(self, flows: u32) -> Vec<u32> {
        match self {
            Self::Uniform => crate::order::Order::new(flows).take(flows as usize).collect(),
            Self::Zipf(exponent) => zipf(flows, exponent),
        }
    }
}

/// Inverts the distribution function for each draw.
fn zipf(flows: u32, exponent: f64) -> Vec<u32> {
    let mut total = 0.0;
    let up_to: Vec<f64> = (1..=flows)
        .map(|rank| {
            total += f64::from(rank).powf(-exponent);
            total
        })
        .collect();
    let mut random = Random::default();
    let draw = |_| {
        let place = random.unit() * total;
        up_to.partition_point(|sum| *sum < place).min(flows as usize - 1) as u32
    };
    (0..DRAWS).map(draw).collect()
}

impl FromStr for Popularity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let exponent = text.strip_prefix("zipf:").map(str::parse);
        match (text, exponent) {
            ("uniform", _) => Ok(Self::Uniform),
            (_, Some(Ok(exponent))) if exponent > 0.0 => Ok(Self::Zipf(exponent)),
            _ => Err(format!("{text:?} is not uniform or zipf:EXPONENT")),
        }
    }
}

impl fmt::Display for Popularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(exponent) => write!(f, "zipf:{exponent}"),
        }
    }
}

/// Numbers without a pattern, the same in every run.
///
/// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014 (SplitMix64).
#[derive(Clone, Copy, Debug, Default)]
pub struct Random(u64);

impl Random {
    /// Makes a source of numbers of its own for each seed.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns the next number in 0 to 1, 1 not included.
    pub fn unit(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_draws_every_flow_once_in_a_round() {
        let mut draws = Popularity::Uniform.draws(1000);
        draws.sort_unstable();
        assert!(draws.into_iter().eq(0..1000));
    }

    #[test]
    fn the_second_of_zipf_comes_half_as_often_as_the_first_and_the_tenth_a_tenth() {
        let draws = Popularity::Zipf(1.0).draws(1000);
        let often = |flow| draws.iter().filter(|draw| **draw == flow).count() as f64;
        assert!((often(0) / often(1) - 2.0).abs() < 0.05, "{} {}", often(0), often(1));
        assert!((often(0) / often(9) - 10.0).abs() < 0.5, "{} {}", often(0), often(9));
        assert!(draws.iter().all(|draw| *draw < 1000));
    }

    #[test]
    fn what_is_shown_is_read_again_and_nonsense_is_not() {
        for popularity in [Popularity::Uniform, Popularity::Zipf(1.1)] {
            assert_eq!(popularity.to_string().parse(), Ok(popularity));
        }
        for nonsense in ["", "zipf", "zipf:", "zipf:-1", "zipf:x"] {
            assert!(nonsense.parse::<Popularity>().is_err(), "{nonsense}");
        }
    }
}
