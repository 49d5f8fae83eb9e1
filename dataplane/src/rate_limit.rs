//! How many answers of a kind that anybody can provoke leave in a time: a token bucket without tokens.

use crate::clock::Now;

/// What accrues; `icmp_msgs_per_sec` of Linux has the same default.
const PER_SECOND: u64 = 1_000;
/// What may leave at once after a quiet time: a second's worth.
const BURST: u64 = 1_000;
/// Time that one answer stands for.
const INTERVAL_NS: u64 = 1_000_000_000 / PER_SECOND;

/// A worker's allowance of ICMP errors and RSTs. Source: RFC 1812 §4.3.2.8.
///
/// Instead of tokens it keeps the moment up to which the allowance is spent: at most a burst behind `now`, and
/// each answer moves it on by its interval.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimit {
    spent_until_ns: u64,
}

impl RateLimit {
    /// Takes one answer from the allowance; false if there is none left.
    pub fn admit(&mut self, now: Now) -> bool {
        let full = now.ns().saturating_sub(BURST * INTERVAL_NS);
        let spent_until = self.spent_until_ns.max(full) + INTERVAL_NS;
        let admitted = spent_until <= now.ns();
        if admitted {
            self.spent_until_ns = spent_until;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn admitted(limit: &mut RateLimit, now_ns: u64, asked: u64) -> u64 {
        (0..asked).filter(|_| limit.admit(Now::from_ns(now_ns))).count() as u64
    }

    #[test]
    fn a_burst_passes_and_then_one_in_each_interval() {
        let mut limit = RateLimit::default();
        let start = 100 * 1_000_000_000;
        assert_eq!(admitted(&mut limit, start, 5_000), BURST);
        assert_eq!(admitted(&mut limit, start + INTERVAL_NS - 1, 10), 0);
        assert_eq!(admitted(&mut limit, start + INTERVAL_NS, 10), 1);
        assert_eq!(admitted(&mut limit, start + 4 * INTERVAL_NS, 10), 3);
        assert_eq!(admitted(&mut limit, start + 3_600 * 1_000_000_000, 5_000), BURST);
    }

    proptest! {
        #[test]
        fn it_admits_what_a_bucket_of_tokens_admits(
            steps in proptest::collection::vec((0..3_000_000u64, 0..40u64), 1..200),
        ) {
            let mut limit = RateLimit::default();
            let (mut now, mut nanotokens) = (100_000_000_000, BURST * INTERVAL_NS);
            for (passed, asked) in steps {
                now += passed;
                nanotokens = (nanotokens + passed).min(BURST * INTERVAL_NS);
                let granted = asked.min(nanotokens / INTERVAL_NS);
                nanotokens -= granted * INTERVAL_NS;
                prop_assert_eq!(admitted(&mut limit, now, asked), granted);
            }
        }
    }
}
