//! The summary as Markdown, and its place in a README.

use std::fmt::Write as _;

use super::figures::{FIGURES, latency_at, ratios};
use crate::compare::record::{Comparison, Findings, Spread};

/// What stands before the table in a README.
pub const BEGIN: &str = "<!-- comparison: written by bench/compare -->";
/// What stands after it.
pub const END: &str = "<!-- end of comparison -->";

/// Writes the summary.
#[must_use]
pub fn summary(comparison: &Comparison) -> String {
    let mut text = format!("### {}\n\n{}\n\n", comparison.date, circumstances(comparison));
    text += "| | established, packets/s | new UDP flows/s | TCP connections/s | packets/CPU-s | net of generator and sink \
             | bulk TCP, Gbit/s | memory, MB | set up in, s |\n|---|---|---|---|---|---|---|---|---|\n";
    for findings in &comparison.contenders {
        let cells =
            [0, 1, 2, 3, 4].map(|figure| cell((FIGURES[figure].of)(comparison, findings), in_thousands));
        let bulk = cell((FIGURES[5].of)(comparison, findings), |rate| format!("{:.2}", rate / 1e9));
        let memory = findings.memory_bytes / 1_000_000;
        let _never_fails = writeln!(
            text,
            "| `{}` | {} | {bulk} | {memory} | {:.1} |",
            findings.contender,
            cells.join(" | "),
            findings.setup_seconds
        );
    }
    text += "\nLatency of established flows at parts of each one's own highest rate, µs as p50 / p99 / p99.9, and loss:\n\n";
    text += "| | at 10 % | at 50 % | at 90 % |\n|---|---|---|---|\n";
    for findings in comparison.contenders.iter().filter(|findings| !findings.latencies.is_empty()) {
        let cells = [0.1, 0.5, 0.9].map(|load| latency_cell(findings, load));
        let _never_fails = writeln!(text, "| `{}` | {} |", findings.contender, cells.join(" | "));
    }
    for findings in comparison.contenders.iter().filter(|findings| !findings.problems.is_empty()) {
        let _never_fails =
            writeln!(text, "\nNot measured of `{}`: {}.", findings.contender, findings.problems.join("; "));
    }
    text += "\nMedians in the same run; above 1 we are ahead, below 1 we lose:\n\n| | beside | ours / theirs |\n|---|---|---|\n";
    for ratio in ratios(comparison) {
        let _never_fails = writeln!(text, "| {} | `{}` | {:.2} |", ratio.title, ratio.theirs, ratio.ratio);
    }
    text
}

/// Machine, modes and load, in words.
#[must_use]
pub fn circumstances(comparison: &Comparison) -> String {
    let machine = &comparison.machine;
    let [before, after] = comparison.load;
    format!(
        "{} × {}, Linux {}; generator and sender's kernel work on core {}, worker on core {}; {}. Load average before \
         {before:.1}, after {after:.1}{}. Tables of {} flows. Packets per CPU-second at {} packets/s.{}",
        machine.processors,
        machine.processor,
        machine.kernel,
        machine.generator_core,
        machine.worker_core,
        machine.versions.join(", "),
        if before > 0.5 { ": **not a quiet machine**" } else { "" },
        machine.flows,
        in_thousands(comparison.cost_rate),
        if comparison.quick { " Short run (`--quick`)." } else { "" },
    )
}

fn cell(spread: Option<Spread>, show: impl Fn(f64) -> String) -> String {
    match spread {
        None => "-".to_owned(),
        Some(Spread { median, low, high }) if low.to_bits() == high.to_bits() => show(median),
        Some(Spread { median, low, high }) => format!("{} ({}-{})", show(median), show(low), show(high)),
    }
}

fn latency_cell(findings: &Findings, load: f64) -> String {
    let Some(at) = latency_at(findings, load) else { return "-".to_owned() };
    let us = |ns: u64| format!("{:.1}", ns as f64 / 1000.0);
    let latency = at.latency;
    format!("{} / {} / {}, {:.4} %", us(latency.p50), us(latency.p99), us(latency.p99_9), at.loss * 100.0)
}

/// Returns a number with three digits that count.
#[must_use]
pub fn in_thousands(value: f64) -> String {
    match value {
        1e6.. => format!("{:.2} M", value / 1e6),
        1e3.. => format!("{:.0} k", value / 1e3),
        _ => format!("{value:.0}"),
    }
}

/// Puts a summary in the place of the one before; `None` if the README has no place for it.
#[must_use]
pub fn placed(readme: &str, summary: &str) -> Option<String> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{summary}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_takes_the_place_of_the_one_before_and_nothing_else() {
        let readme = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let once = placed(&readme, "new\n").unwrap();
        assert_eq!(once, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(placed(&once, "new\n").unwrap(), once);
        assert_eq!(placed("no place", "new"), None);
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        assert_eq!(
            [0.0, 999.0, 1000.0, 412_345.0, 1_234_567.0].map(in_thousands),
            ["0", "999", "1 k", "412 k", "1.23 M"]
        );
    }
}
