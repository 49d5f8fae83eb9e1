//! The numbers that table, plots and sentences are made of.

use crate::compare::contender::{Carrier, Contender};
use crate::compare::record::{Comparison, Findings, LatencyAt, Spread};

/// A figure of each contender that has it.
pub struct Figure {
    /// What it is.
    pub title: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Takes it from the findings.
    pub of: fn(&Comparison, &Findings) -> Option<Spread>,
}

/// All figures for which more is better.
pub const FIGURES: [Figure; 6] = [
    Figure {
        title: "Established UDP flows: highest rate",
        unit: "packets/s",
        of: |_, findings| Spread::of(&findings.established),
    },
    Figure {
        title: "One-packet UDP flows: highest rate",
        unit: "flows/s",
        of: |_, findings| Spread::of(&findings.new_flows),
    },
    Figure {
        title: "TCP connections from SYN to the last ACK: highest rate",
        unit: "connections/s",
        of: |_, findings| Spread::of(&findings.connections),
    },
    Figure {
        title: "Packets per CPU-second over all CPUs, generator and sink included",
        unit: "packets/CPU-s",
        of: |_, findings| raw_cost(findings),
    },
    Figure {
        title: "Packets per CPU-second over all CPUs, generator and sink subtracted",
        unit: "packets/CPU-s",
        of: net_cost,
    },
    Figure {
        title: "Bulk TCP, one stream, the kernel's segmentation offload on",
        unit: "bit/s",
        of: |_, findings| Spread::of(&findings.bulk_tcp),
    },
];

fn raw_cost(findings: &Findings) -> Option<Spread> {
    Spread::of(&findings.costs.iter().map(|cost| cost.packets_per_cpu_second).collect::<Vec<_>>())
}

/// What a packet costs beyond what it costs on a bare wire.
fn net_cost(comparison: &Comparison, findings: &Findings) -> Option<Spread> {
    let wire = comparison.contenders.iter().find(|other| other.contender.carrier == Carrier::Wire)?;
    let alone = wire.cpu_seconds_per_packet()?;
    let beyond = findings.costs.iter().map(|cost| 1.0 / cost.packets_per_cpu_second - alone);
    let all: Vec<f64> = beyond.filter(|seconds| *seconds > 0.0).map(|seconds| 1.0 / seconds).collect();
    if findings.contender.carrier == Carrier::Wire { None } else { Spread::of(&all) }
}

/// The latencies that were taken nearest to a part of the highest rate.
#[must_use]
pub fn latency_at(findings: &Findings, load: f64) -> Option<&LatencyAt> {
    findings.latencies.iter().find(|at| (at.load - load).abs() < 0.01)
}

/// How the product stands beside another contender in one figure.
pub struct Ratio {
    /// Title of the figure.
    pub title: &'static str,
    /// The product, with how many Services.
    pub ours: Contender,
    /// The other one.
    pub theirs: Contender,
    /// Ours by theirs, of the medians.
    pub ratio: f64,
}

/// Compares the product with each peer that has as many Services, or none.
#[must_use]
pub fn ratios(comparison: &Comparison) -> Vec<Ratio> {
    let ours =
        comparison.contenders.iter().filter(|findings| findings.contender.carrier == Carrier::Tidegate);
    let Some(ours) = ours.max_by_key(|findings| findings.contender.services) else { return Vec::new() };
    let is_peer = |findings: &&Findings| {
        let other = findings.contender;
        !matches!(other.carrier, Carrier::Tidegate | Carrier::Wire)
            && (!other.knows_services() || other.services == ours.contender.services)
    };
    let mut all = Vec::new();
    for figure in &FIGURES {
        let Some(own) = (figure.of)(comparison, ours) else { continue };
        for theirs in comparison.contenders.iter().filter(is_peer) {
            let Some(peer) = (figure.of)(comparison, theirs).filter(|peer| peer.median > 0.0) else {
                continue;
            };
            let ratio = own.median / peer.median;
            all.push(Ratio { title: figure.title, ours: ours.contender, theirs: theirs.contender, ratio });
        }
    }
    all
}
