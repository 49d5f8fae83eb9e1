//! Latencies: the sink's buckets, and what is told of a distribution.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Buckets of the sink's histogram for each power of two of nanoseconds, as a power of two.
const BUCKET_BITS: u32 = 7;
/// The longest latency that is told apart from longer ones: 100 s.
const LONGEST_NS: u64 = 100_000_000_000;

/// Makes an empty histogram of nanoseconds, to three digits.
///
/// # Panics
/// Never: the bounds are right.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("bounds are in order")
}

/// Returns the middle of a bucket of the sink, in nanoseconds.
#[must_use]
pub const fn middle_of_bucket(bucket: u32) -> u64 {
    let power = bucket >> BUCKET_BITS;
    let place = (bucket & ((1 << BUCKET_BITS) - 1)) as u64;
    if power == 0 {
        return place;
    }
    let width = 1 << (power - 1);
    (((1 << BUCKET_BITS) | place) << (power - 1)) + width / 2
}

/// What is told of a distribution, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// Half were at most this.
    pub p50: u64,
    /// 90 % were at most this.
    pub p90: u64,
    /// 99 % were at most this.
    pub p99: u64,
    /// 99.9 % were at most this.
    pub p99_9: u64,
    /// 99.99 % were at most this.
    pub p99_99: u64,
    /// The longest.
    pub max: u64,
}

impl From<&Histogram<u64>> for Latency {
    fn from(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: histogram.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `record` of the sink's program does it.
    fn bucket_of(ns: u64) -> u32 {
        if ns >> BUCKET_BITS == 0 {
            return ns as u32;
        }
        let power = 63 - ns.leading_zeros();
        let place = (ns >> (power - BUCKET_BITS)) as u32 & ((1 << BUCKET_BITS) - 1);
        place + ((power - BUCKET_BITS + 1) << BUCKET_BITS)
    }

    #[test]
    fn the_middle_of_its_bucket_is_within_a_hundredth_of_every_latency() {
        for ns in (0..200_u64).chain((1..40).flat_map(|power| [(1_u64 << power) - 1, 1 << power, 3 << power]))
        {
            let middle = middle_of_bucket(bucket_of(ns));
            assert!(middle.abs_diff(ns) <= ns / 128 + 1, "{ns} became {middle}");
        }
    }
}
