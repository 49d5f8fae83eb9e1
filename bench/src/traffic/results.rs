//! What came of a run.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::ends::Counts;
use super::latency::{Latency, histogram};
use super::plan::Plan;

/// What the generator counted.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Units that left.
    pub sent: u64,
    /// Datagrams that came back.
    pub replies: u64,
    /// Connections that were opened, in both directions.
    pub opened: u64,
    /// Connections that were closed, in both directions.
    pub closed: u64,
    /// Connections that were reset.
    pub reset: u64,
    /// How late units left.
    pub lateness: Histogram<u64>,
    /// From due to the reply: of datagrams that came back, or of SYNs.
    pub round_trip: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            sent: 0,
            replies: 0,
            opened: 0,
            closed: 0,
            reset: 0,
            lateness: histogram(),
            round_trip: histogram(),
        }
    }
}

/// What came of a run. Units are packets, or connections for that kind.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Results {
    /// What was wanted.
    pub plan: Plan,
    /// How long units were sent.
    pub seconds: f64,
    /// Work of all processors meanwhile, that of others' programs not counted.
    pub cpu_seconds: f64,
    /// Units that were due.
    pub offered: u64,
    /// Units that left.
    pub sent: u64,
    /// Units that arrived; connections that were closed by both sides.
    pub completed: u64,
    /// Share of the units due that did not complete, those that never left included.
    pub loss: f64,
    /// What the sink saw.
    pub sink: Counts,
    /// Datagrams that came back, of those asked for.
    pub replies: u64,
    /// Connections that were reset.
    pub reset: u64,
    /// From due to arrival at the sink.
    pub latency: Latency,
    /// From due to reply.
    pub round_trip: Latency,
    /// From due to leaving: how far the generator itself was behind.
    pub lateness: Latency,
}

impl Results {
    /// Puts together what both ends saw.
    #[must_use]
    pub fn new(
        plan: Plan,
        (seconds, cpu_seconds): (f64, f64),
        tally: &Tally,
        sink: Counts,
        latency: &Histogram<u64>,
    ) -> Self {
        let offered = plan.offered();
        let completed = match plan.kind {
            super::plan::Kind::Connections => tally.closed,
            _ => sink.received,
        };
        Self {
            plan,
            seconds,
            cpu_seconds,
            offered,
            sent: tally.sent,
            completed,
            loss: 1.0 - (completed as f64 / offered as f64).min(1.0),
            sink,
            replies: tally.replies,
            reset: tally.reset,
            latency: latency.into(),
            round_trip: (&tally.round_trip).into(),
            lateness: (&tally.lateness).into(),
        }
    }

    /// Units per second that completed.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.completed as f64 / self.seconds
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |ns: u64| ns as f64 / 1000.0;
        write!(
            f,
            "offered {} sent {} completed {} ({:.0}/s) lost {:.4} % reordered {}; latency p50 {:.1} p99 {:.1} p99.9 {:.1} max {:.1} us",
            self.offered,
            self.sent,
            self.completed,
            self.rate(),
            self.loss * 100.0,
            self.sink.reordered,
            us(self.latency.p50),
            us(self.latency.p99),
            us(self.latency.p99_9),
            us(self.latency.max),
        )?;
        if self.round_trip.count > 0 {
            let Latency { p50, p99, p99_9, .. } = self.round_trip;
            write!(f, "; round trip p50 {:.1} p99 {:.1} p99.9 {:.1} us", us(p50), us(p99), us(p99_9))?;
        }
        Ok(())
    }
}
