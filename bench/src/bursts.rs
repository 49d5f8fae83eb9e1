//! What a burst takes, told from what else the machine did meanwhile.

use std::time::{Duration, Instant};

/// Runs `each` so many times, and returns what they would have taken had each taken as long as the median one.
///
/// A burst is shorter than a turn of the scheduler: one that was interrupted takes a hundred times as long as its
/// neighbours, and a mean over all would tell of the machine's other work. On an idle machine mean and median agree.
pub fn by_median(count: u64, mut each: impl FnMut() -> Duration) -> Duration {
    let mut taken: Vec<Duration> = (0..count).map(|_| each()).collect();
    let middle = taken.len() / 2;
    if taken.is_empty() {
        return Duration::ZERO;
    }
    let (_, median, _) = taken.select_nth_unstable(middle);
    median.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Returns how long something took. The value is dropped outside the time.
pub fn time<T>(body: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    let value = measured(body);
    let taken = start.elapsed();
    drop(std::hint::black_box(value));
    taken
}

/// Runs what is measured: a function by itself, so that `bench/instructions` finds it by its name.
#[inline(never)]
pub fn measured<T>(body: impl FnOnce() -> T) -> T {
    body()
}
