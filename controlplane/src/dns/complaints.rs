//! Upstreams that do not answer, said in the log now and then.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long after a line the next one comes at the earliest.
const PAUSE: Duration = Duration::from_secs(10);

/// Gathers failures, so that a dead upstream costs a line each ten seconds, not one for each question.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<Gathered>);

#[derive(Debug, Default)]
struct Gathered {
    said: Option<Instant>,
    unsaid: u64,
}

impl Complaints {
    pub(super) fn note(&self, upstream: SocketAddr, error: &io::Error, now: Instant) {
        if let Some(failures) = self.due(now) {
            tracing::warn!(
                "upstream {upstream}: no answer: {error}; {failures} failures since the last such line"
            );
        }
    }

    /// Counts a failure, and returns how many there were if they are to be said now.
    fn due(&self, now: Instant) -> Option<u64> {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.unsaid += 1;
        if gathered.said.is_some_and(|said| now < said + PAUSE) {
            return None;
        }
        gathered.said = Some(now);
        Some(std::mem::take(&mut gathered.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_said_once_in_ten_seconds_with_their_number() {
        let (complaints, start) = (Complaints::default(), Instant::now());
        let said: Vec<Option<u64>> =
            [0, 1, 9, 10, 11, 25].map(|second| complaints.due(start + Duration::from_secs(second))).into();
        assert_eq!(said, [Some(1), None, None, Some(3), None, Some(2)]);
    }
}
