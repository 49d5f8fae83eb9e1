//! How long to wait before the next try.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The first wait; the next ones double.
const FIRST: Duration = Duration::from_millis(200);
/// The longest wait that a server is believed to want.
const ASKED_MAX: Duration = Duration::from_secs(60);

/// Waits that double up to a limit, each shortened by chance by up to a half, so that the gateways of a cluster do
/// not come back to a restarted server all at once.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    /// The longest wait, but for what the server asks for.
    longest: Duration,
}

impl Backoff {
    /// Begins with a short wait.
    pub(super) fn new(longest: Duration) -> Self {
        Self { next: FIRST.min(longest), longest }
    }

    /// Returns the next wait; at least what the server asked for, within reason.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.longest);
        let part = chance() % 512;
        let wait = full / 1024 * (1024 - part as u32);
        wait.max(asked.unwrap_or_default().min(ASKED_MAX))
    }

    /// Begins anew: it works again.
    pub(super) fn reset(&mut self) {
        self.next = FIRST.min(self.longest);
    }
}

/// Any number.
fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_no_two_gateways_wait_alike() {
        const LONGEST: Duration = Duration::from_secs(10);
        let mut backoff = Backoff::new(LONGEST);
        let mut full = FIRST;
        for _ in 0..12 {
            let wait = backoff.next(None);
            assert!(full / 2 <= wait && wait <= full, "{wait:?} of {full:?}");
            full = (full * 2).min(LONGEST);
        }
        let mut waits: Vec<Duration> =
            (0..64).map(|_| Backoff { next: LONGEST, longest: LONGEST }.next(None)).collect();
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 16, "{waits:?}");
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
    }

    #[test]
    fn a_server_that_asks_for_a_wait_gets_it_within_reason() {
        let mut backoff = Backoff::new(FIRST);
        assert_eq!(backoff.next(Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(backoff.next(Some(Duration::from_secs(86_400))), ASKED_MAX);
    }
}
