//! How often which values were seen.

use std::sync::atomic::{AtomicU64, Ordering};

use super::counters::Value;

/// Sums are kept in this part of a unit.
const SUM_UNIT: f64 = 1e-6;

/// Counts values in `N` buckets and one for what is beyond. Costs a search of the bounds and two additions.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    bounds: &'static [f64; N],
    buckets: [AtomicU64; N],
    beyond: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    pub(super) fn new(bounds: &'static [f64; N]) -> Self {
        Self {
            bounds,
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            beyond: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    pub(super) fn note(&self, value: f64) {
        let at = self.bounds.iter().position(|bound| value <= *bound);
        at.and_then(|at| self.buckets.get(at)).unwrap_or(&self.beyond).fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value / SUM_UNIT) as u64, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Value {
        let counts = self.buckets.iter().chain([&self.beyond]).map(|bucket| bucket.load(Ordering::Relaxed));
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        Value::Spread(bounds.zip(counts).collect(), self.sum.load(Ordering::Relaxed) as f64 * SUM_UNIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(&[1., 2.]);
        [0.5, 1., 1.5, 9.].into_iter().for_each(|value| histogram.note(value));
        assert_eq!(histogram.read(), Value::Spread(vec![(1., 2), (2., 1), (f64::INFINITY, 1)], 12.));
    }
}
