//! How long a worker goes on asking for packets before it sleeps until the kernel wakes it.

use crate::clock::Now;

/// How a worker waits for packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Polling {
    /// It spins while packets come in short order, and sleeps in the kernel when they do not.
    #[default]
    Adaptive,
    /// It always spins, and takes all of its core.
    Busy,
}

/// Longest spin for a packet that is expected; a sleep and the waking cost about a tenth of it.
const SPIN_LONG_NS: u64 = 200_000;
/// Spin for a packet that is not expected soon.
const SPIN_SHORT_NS: u64 = 20_000;
/// The mean gap moves by this part of the difference with each round that has packets.
const WEIGHT: u64 = 8;

/// What a worker knows of when packets come.
#[derive(Debug)]
pub(super) struct Patience {
    polling: Polling,
    last: Now,
    /// Mean time between rounds with packets, none counted as longer than twice the longest spin.
    gap_ns: u64,
}

impl Patience {
    pub(super) const fn new(polling: Polling) -> Self {
        Self { polling, last: Now::from_ns(0), gap_ns: 2 * SPIN_LONG_NS }
    }

    /// Notes a round with packets.
    pub(super) fn note(&mut self, now: Now) {
        let gap = now.ns().saturating_sub(self.last.ns()).min(2 * SPIN_LONG_NS);
        self.gap_ns = (self.gap_ns * (WEIGHT - 1) + gap) / WEIGHT;
        self.last = now;
    }

    /// Says whether it is time to sleep: the next packet is not expected within a spin, or did not come in one.
    pub(super) fn is_over(&self, now: Now) -> bool {
        let spin = if 2 * self.gap_ns <= SPIN_LONG_NS { SPIN_LONG_NS } else { SPIN_SHORT_NS };
        self.polling == Polling::Adaptive && now.ns().saturating_sub(self.last.ns()) > spin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what a worker knows after a hundred packets in equal gaps, and when the last came.
    fn after(polling: Polling, gap_ns: u64) -> (Patience, u64) {
        let mut patience = Patience::new(polling);
        (1..=100).for_each(|packet| patience.note(Now::from_ns(packet * gap_ns)));
        (patience, 100 * gap_ns)
    }

    #[test]
    fn a_worker_sleeps_soon_after_packets_that_come_seldom_and_late_after_those_that_come_often() {
        for (gap_ns, spin_ns) in [(1_000, SPIN_LONG_NS), (90_000, SPIN_LONG_NS), (1_000_000, SPIN_SHORT_NS)] {
            let (patience, last) = after(Polling::Adaptive, gap_ns);
            assert!(!patience.is_over(Now::from_ns(last + spin_ns)), "gap {gap_ns}");
            assert!(patience.is_over(Now::from_ns(last + spin_ns + 1)), "gap {gap_ns}");
        }
    }

    #[test]
    fn a_worker_that_had_no_packet_ever_sleeps() {
        assert!(Patience::new(Polling::Adaptive).is_over(Now::from_seconds(1)));
    }

    #[test]
    fn a_busy_worker_never_sleeps() {
        let (patience, last) = after(Polling::Busy, 1_000_000);
        assert!(!patience.is_over(Now::from_ns(last + 1_000_000_000)));
    }

    #[test]
    fn one_long_pause_does_not_make_a_worker_forget_that_packets_come_often() {
        let (mut patience, last) = after(Polling::Adaptive, 1_000);
        patience.note(Now::from_ns(last + 10_000_000_000));
        assert!(!patience.is_over(Now::from_ns(last + 10_000_000_000 + SPIN_LONG_NS)));
    }
}
