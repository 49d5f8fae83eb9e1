//! One self-contained HTML page.

use std::fmt::Write as _;

use anyhow::Result;

use super::figures::{FIGURES, ratios};
use super::plots;
use super::table::circumstances;
use crate::compare::record::Comparison;

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.25em .6em;text-align:left}\
td.number{text-align:right}.lose{background:#fbe3d6}.ahead{background:#dcebf5}svg{display:block;margin:1.2em 0}";

const HOW: &str = "Each contender stands between a client and pods of its own, in namespaces, on veth pairs of one \
queue. They are measured in turn, one at a time; those whose turn it is not are stopped. A rate is the highest at which \
at most 0.1 % of what was offered is lost, what never left included. Latency is counted from when a packet was due to \
its arrival, however late it left. Packets per CPU-second are counted over all processors from /proc/stat, with the \
processes of others subtracted; what generator and sink cost by themselves is measured on a bare wire. Bars are \
medians; the black line is from the lowest to the highest repeat.";

/// Writes the page.
pub fn html(comparison: &Comparison) -> Result<String> {
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Tidegate beside its peers, {date}</title>\
         <style>{STYLE}</style></head><body>\n<h1>Tidegate beside its peers, {date}</h1>\n<p>{}</p>\n<p>{HOW}</p>\n",
        escaped(&circumstances(comparison)),
        date = comparison.date,
    );
    text += "<h2>Who</h2>\n<table><tr><th>Name</th><th>What</th><th>How</th><th>Memory, MB</th><th>Set up in, s</th></tr>\n";
    for findings in &comparison.contenders {
        let _never_fails = writeln!(
            text,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{:.1}</td></tr>",
            findings.contender,
            escaped(findings.contender.description()),
            escaped(&findings.mode),
            findings.memory_bytes / 1_000_000,
            findings.setup_seconds
        );
    }
    text += "</table>\n<h2>Rates and costs</h2>\n";
    for figure in &FIGURES {
        text += &plots::bars(comparison, figure)?.unwrap_or_default();
    }
    text += "<h2>Latencies</h2>\n";
    for load in [0.1, 0.5, 0.9] {
        text += &plots::latencies(comparison, load)?.unwrap_or_default();
    }
    text += "<h2>Where we are ahead, and where we lose</h2>\n<table><tr><th>Figure</th><th>Beside</th><th>Ours / theirs</th></tr>\n";
    for ratio in ratios(comparison) {
        let _never_fails = writeln!(
            text,
            "<tr class=\"{}\"><td>{}</td><td>{}</td><td class=\"number\">{:.2}</td></tr>",
            if ratio.ratio < 1.0 { "lose" } else { "ahead" },
            ratio.title,
            ratio.theirs,
            ratio.ratio
        );
    }
    text += "</table>\n</body></html>\n";
    Ok(text)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace("**", "")
}
