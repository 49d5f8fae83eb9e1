//! What is counted of one upstream.

use std::net::SocketAddr;
use std::time::Duration;

use super::Sample;
use super::counters::SECONDS;
use super::histogram::Histogram;

/// Codes of upstreams that have a label of their own; the last is for all others, and for no answer at all.
const UPSTREAM_CODES: [(u16, &str); 4] =
    [(0, "NOERROR"), (3, "NXDOMAIN"), (2, "SERVFAIL"), (u16::MAX, "other")];

/// What is counted of one upstream.
#[derive(Debug)]
pub(super) struct UpstreamCounters {
    address: SocketAddr,
    durations: [Histogram<16>; UPSTREAM_CODES.len()],
}

impl UpstreamCounters {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, durations: std::array::from_fn(|_| Histogram::new(&SECONDS)) }
    }

    /// Notes how long an upstream took to say a code, or to say nothing.
    pub(super) fn note(&self, code: Option<u16>, took: Duration) {
        let at = UPSTREAM_CODES.iter().position(|(own, _)| Some(*own) == code);
        self.durations[at.unwrap_or(UPSTREAM_CODES.len() - 1)].note(took.as_secs_f64());
    }

    pub(super) fn samples(&self) -> impl Iterator<Item = Sample> {
        UPSTREAM_CODES.iter().zip(&self.durations).map(|((_, code), durations)| Sample {
            name: "coredns_proxy_request_duration_seconds",
            help: "Time from a question to an upstream to its answer",
            labels: vec![
                ("proxy_name", "forward".into()),
                ("to", self.address.to_string()),
                ("rcode", (*code).into()),
            ],
            value: durations.read(),
        })
    }
}
