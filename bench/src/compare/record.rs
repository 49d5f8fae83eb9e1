//! What a comparison found, as it is written down.

use serde::{Deserialize, Serialize};

use super::contender::Contender;
use crate::traffic::latency::Latency;

/// A whole comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// The day, as YYYY-MM-DD.
    pub date: String,
    /// Whether it was the short one.
    pub quick: bool,
    /// Where it ran.
    pub machine: Machine,
    /// Load average before it began and after it ended.
    pub load: [f64; 2],
    /// Rate of the runs that costs are taken from, in packets per second.
    pub cost_rate: f64,
    /// Every contender, in the order of the table.
    pub contenders: Vec<Findings>,
}

/// Where it ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor.
    pub processor: String,
    /// Processors there are.
    pub processors: usize,
    /// Kernel release.
    pub kernel: String,
    /// Core of the generator, and of everything the kernel does for it.
    pub generator_core: usize,
    /// Core of the worker.
    pub worker_core: usize,
    /// Versions of the peers.
    pub versions: Vec<String>,
    /// Capacity of the flow table and of connection tracking.
    pub flows: u32,
}

/// What was found of one contender. Lists have a value for each repeat.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Findings {
    /// Who.
    pub contender: Contender,
    /// How its sockets were bound, or how else it works.
    pub mode: String,
    /// From nothing to serving, in seconds.
    pub setup_seconds: f64,
    /// Memory that was gone when it served, in octets.
    pub memory_bytes: u64,
    /// Highest rates of established UDP flows, in packets per second.
    pub established: Vec<f64>,
    /// Highest rates of one-packet UDP flows per second.
    pub new_flows: Vec<f64>,
    /// Highest rates of whole TCP connections per second.
    pub connections: Vec<f64>,
    /// What packets cost at the common rate.
    pub costs: Vec<Cost>,
    /// Latencies at parts of its own highest rate.
    pub latencies: Vec<LatencyAt>,
    /// Bulk TCP with the kernel's segmentation offload, in bits per second.
    pub bulk_tcp: Vec<f64>,
    /// What could not be measured, and why.
    pub problems: Vec<String>,
}

/// What packets cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// Packets that arrived per second of any processor's work.
    pub packets_per_cpu_second: f64,
    /// Work of all processors for each second, in seconds.
    pub cpu_seconds_per_second: f64,
    /// Share lost.
    pub loss: f64,
}

/// Latencies at a part of the highest rate.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LatencyAt {
    /// Part of its own highest rate.
    pub load: f64,
    /// Packets per second.
    pub rate: f64,
    /// From due to the sink.
    pub latency: Latency,
    /// Share lost.
    pub loss: f64,
}

/// The middle of some values, and how far they are apart.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Spread {
    /// Returns the spread; `None` of no values.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) && middle > 0 {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            *sorted.get(middle)?
        };
        Some(Self { median, low: *sorted.first()?, high: *sorted.last()? })
    }
}

impl Findings {
    /// Starts with nothing found.
    #[must_use]
    pub const fn new(contender: Contender, mode: String, setup_seconds: f64, memory_bytes: u64) -> Self {
        Self {
            contender,
            mode,
            setup_seconds,
            memory_bytes,
            established: Vec::new(),
            new_flows: Vec::new(),
            connections: Vec::new(),
            costs: Vec::new(),
            latencies: Vec::new(),
            bulk_tcp: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Median of the processors' work for a packet, in seconds.
    #[must_use]
    pub fn cpu_seconds_per_packet(&self) -> Option<f64> {
        let all: Vec<f64> = self.costs.iter().map(|cost| 1.0 / cost.packets_per_cpu_second).collect();
        Spread::of(&all).map(|spread| spread.median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(Spread::of(&[3.0, 1.0, 10.0, 2.0]), Some(Spread { median: 2.5, low: 1.0, high: 10.0 }));
        assert_eq!(Spread::of(&[5.0]), Some(Spread { median: 5.0, low: 5.0, high: 5.0 }));
        assert_eq!(Spread::of(&[]), None);
    }
}
