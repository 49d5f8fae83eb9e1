//! What the server did, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Type;

/// Types that have a label of their own; all others are counted as `other`.
const TYPES: [(Type, &str); 12] = [
    (Type::A, "A"),
    (Type::AAAA, "AAAA"),
    (Type::CNAME, "CNAME"),
    (Type::SRV, "SRV"),
    (Type::PTR, "PTR"),
    (Type::TXT, "TXT"),
    (Type::SOA, "SOA"),
    (Type::NS, "NS"),
    (Type(15), "MX"),
    (Type(64), "SVCB"),
    (Type(65), "HTTPS"),
    (Type(255), "ANY"),
];

/// Response codes that have a label of their own. Source: RFC 6895 §2.3.
const CODES: [(u16, &str); 7] = [
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (16, "BADVERS"),
];

const PROTOCOLS: [&str; 2] = ["udp", "tcp"];
const FORWARD_RESULTS: [&str; 3] = ["ok", "failed", "refused"];

/// How a forwarded question ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ForwardResult {
    /// An upstream answered.
    Ok,
    /// No upstream answered.
    Failed,
    /// The source may not, or too many were waiting.
    Refused,
}

/// Counters of the DNS server. Relaxed atomics: one thread writes, others read.
///
/// Messages that the server shell answers or drops by itself (not decodable, not a query) are not seen here.
#[derive(Debug, Default)]
pub struct Counters {
    requests: [[AtomicU64; 2]; TYPES.len() + 1],
    responses: [AtomicU64; CODES.len() + 1],
    forwards: [AtomicU64; 3],
}

/// One value for the metrics endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Name of the counter.
    pub name: &'static str,
    /// Label names and values.
    pub labels: Vec<(&'static str, &'static str)>,
    /// Count since start.
    pub value: u64,
}

impl Counters {
    pub(super) fn count_request(&self, qtype: Option<Type>, tcp: bool) {
        let at = TYPES.iter().position(|(own, _)| Some(*own) == qtype).unwrap_or(TYPES.len());
        self.requests[at][usize::from(tcp)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_response(&self, code: u16) {
        let at = CODES.iter().position(|(own, _)| *own == code).unwrap_or(CODES.len());
        self.responses[at].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_forward(&self, result: ForwardResult) {
        self.forwards[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Reads all counters; each is exact, together they are of about the same moment.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Sample> {
        let sample = |name, labels, counter: &AtomicU64| {
            let value = counter.load(Ordering::Relaxed);
            Sample { name, labels, value }
        };
        let other = std::iter::once("other");
        let mut samples = Vec::new();
        for (label, pair) in TYPES.iter().map(|(_, label)| *label).chain(other.clone()).zip(&self.requests) {
            for (protocol, counter) in PROTOCOLS.into_iter().zip(pair) {
                samples.push(sample("dns_requests", vec![("type", label), ("proto", protocol)], counter));
            }
        }
        for (label, counter) in CODES.iter().map(|(_, label)| *label).chain(other).zip(&self.responses) {
            samples.push(sample("dns_responses", vec![("rcode", label)], counter));
        }
        for (label, counter) in FORWARD_RESULTS.into_iter().zip(&self.forwards) {
            samples.push(sample("dns_forwards", vec![("result", label)], counter));
        }
        samples
    }
}
