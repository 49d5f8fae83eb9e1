//! What is to be sent, and when each packet is due.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::popularity::Popularity;
use super::targets::Protocol;

/// What each unit of the rate is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Datagrams of flows that were opened, and answered once, before the clock starts.
    EstablishedUdp,
    /// Segments with data of connections that were opened before the clock starts.
    EstablishedTcp,
    /// Datagrams of which each is the first and last of its flow.
    NewUdp,
    /// Connections: SYN, its answer, ACK, a segment with data, FIN, its answer, ACK.
    Connections,
}

impl Kind {
    /// Returns the transport protocol.
    #[must_use]
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::EstablishedUdp | Self::NewUdp => Protocol::Udp,
            Self::EstablishedTcp | Self::Connections => Protocol::Tcp,
        }
    }

    /// Returns whether each unit is a flow of its own.
    #[must_use]
    pub const fn opens_flows(self) -> bool {
        matches!(self, Self::NewUdp | Self::Connections)
    }
}

/// What the generator does while nothing is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// Looks at the clock: packets leave when they are due. For latencies.
    Spin,
    /// Sleeps 200 µs: packets leave in small bursts, and the processor is free. For costs.
    Sleep,
}

/// One run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// What is sent.
    pub kind: Kind,
    /// Units per second.
    pub rate: f64,
    /// Octets of each frame, its checksum not counted; cut or filled to what the kind can be.
    pub bytes: usize,
    /// Flows, for the kinds that keep them.
    pub flows: u32,
    /// How often each flow comes.
    pub popularity: Popularity,
    /// How long.
    pub seconds: f64,
    /// What is done between packets.
    pub pace: Pace,
    /// Whether every datagram is sent back, so that round trips are measured too.
    pub echo: bool,
}

impl Plan {
    /// Returns how many units are offered in all.
    #[must_use]
    pub fn offered(&self) -> u64 {
        (self.rate * self.seconds) as u64
    }

    /// Returns the times that units are due, from `start` on.
    #[must_use]
    pub fn schedule(&self, start_ns: u64) -> Schedule {
        Schedule { start_ns, interval_ns: 1e9 / self.rate, offered: self.offered(), given: 0 }
    }
}

/// When each unit is due: at a fixed rate, whatever became of those before.
///
/// A unit that leaves late is timed from when it was due. Were it timed from when it left, one stall would be one
/// slow packet instead of all those that stood behind it (coordinated omission).
#[derive(Clone, Debug)]
pub struct Schedule {
    start_ns: u64,
    interval_ns: f64,
    offered: u64,
    given: u64,
}

impl Schedule {
    /// Returns when the next unit is due if that has come.
    pub fn due(&mut self, now_ns: u64) -> Option<u64> {
        let due = self.next_due()?;
        if due > now_ns {
            return None;
        }
        self.given += 1;
        Some(due)
    }

    /// Returns when the next unit will be due; `None` after the last.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        (self.given < self.offered).then(|| self.start_ns + (self.given as f64 * self.interval_ns) as u64)
    }

    /// Returns how many units were taken.
    #[must_use]
    pub const fn given(&self) -> u64 {
        self.given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_due_at_the_rate_however_late_they_are_taken() {
        let plan = Plan {
            kind: Kind::NewUdp,
            rate: 1000.0,
            bytes: 60,
            flows: 1,
            popularity: Popularity::Uniform,
            seconds: 0.005,
            pace: Pace::Spin,
            echo: false,
        };
        let mut schedule = plan.schedule(7);
        assert_eq!(schedule.due(6), None);
        assert_eq!(schedule.due(7), Some(7));
        assert_eq!(schedule.due(8), None);
        let late: Vec<_> = std::iter::from_fn(|| schedule.due(1_000_000_000)).collect();
        assert_eq!(late, [1_000_007, 2_000_007, 3_000_007, 4_000_007]);
        assert_eq!((schedule.given(), schedule.next_due()), (5, None));
    }
}
