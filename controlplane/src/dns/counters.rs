//! What the server did, counted: under CoreDNS' names, so that its dashboards go on, and our own.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::Type;
use super::events::{EVENTS, Event, FORWARD_RESULTS, ForwardResult, GAUGES, Gauge, MAKERS, Maker};
use super::histogram::Histogram;
use super::upstream_counters::UpstreamCounters;

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
/// IANA address family numbers, as CoreDNS has them.
const FAMILIES: [&str; 2] = ["1", "2"];

/// Upper bounds of CoreDNS' buckets for times, seconds: 16 from a quarter of a millisecond, each twice the one before.
pub(super) const SECONDS: [f64; 16] = [
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048,
    4.096, 8.192,
];
/// Upper bounds of CoreDNS' buckets for sizes, octets.
const OCTETS: [f64; 14] =
    [0., 100., 200., 300., 400., 511., 1023., 2047., 4095., 8291., 16e3, 32e3, 48e3, 64e3];
/// Upper bounds of CoreDNS' buckets for the time from a change to its names, seconds.
const PROGRAMMING: [f64; 20] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
    32.768, 65.536, 131.072, 262.144, 524.288,
];

/// One client's question and its answer, as far as they are counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    pub(super) qtype: Option<Type>,
    pub(super) tcp: bool,
    pub(super) client: IpAddr,
    pub(super) asked_octets: usize,
    pub(super) began: Instant,
    pub(super) code: u16,
    pub(super) maker: Maker,
    pub(super) answered_octets: usize,
}

/// Counters of the DNS server. Relaxed atomics: one thread writes, others read.
#[derive(Debug)]
pub struct Counters {
    requests: [[[AtomicU64; 2]; 2]; Type::NAMED.len() + 1],
    responses: [[AtomicU64; 4]; CODES.len() + 1],
    forwards: [AtomicU64; 3],
    events: [AtomicU64; EVENTS.len()],
    gauges: [AtomicU64; GAUGES.len()],
    durations: Histogram<16>,
    request_octets: [Histogram<14>; 2],
    response_octets: [Histogram<14>; 2],
    programming: Histogram<20>,
    /// When the source was last known to tell what changes, in milliseconds after `started`.
    heard: AtomicU64,
    started: Instant,
    /// What is counted of each upstream, once the server has started.
    upstreams: OnceLock<Vec<Arc<UpstreamCounters>>>,
}

/// What a sample is.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Only grows.
    Count(u64),
    /// Rises and falls.
    Level(u64),
    /// How often which values were seen: upper bounds with the count in each bucket, the sum of all.
    Spread(Vec<(f64, u64)>, f64),
}

/// One value for the metrics endpoint.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Name of the metric.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// Label names and values.
    pub labels: Vec<(&'static str, String)>,
    /// Since start, or now.
    pub value: Value,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests: Default::default(),
            responses: Default::default(),
            forwards: Default::default(),
            events: Default::default(),
            gauges: Default::default(),
            durations: Histogram::new(&SECONDS),
            request_octets: [Histogram::new(&OCTETS), Histogram::new(&OCTETS)],
            response_octets: [Histogram::new(&OCTETS), Histogram::new(&OCTETS)],
            programming: Histogram::new(&PROGRAMMING),
            heard: AtomicU64::new(0),
            started: Instant::now(),
            upstreams: OnceLock::new(),
        }
    }
}

/// The labels that CoreDNS puts on everything, for a server with one block of configuration.
fn of_server() -> Vec<(&'static str, String)> {
    vec![("server", "dns://:53".into()), ("zone", ".".into()), ("view", String::new())]
}

impl Counters {
    pub(super) fn count_exchange(&self, exchange: &Exchange) {
        let types = &Type::NAMED;
        let kind = types.iter().position(|(own, _)| Some(*own) == exchange.qtype).unwrap_or(types.len());
        let (tcp, v6) = (usize::from(exchange.tcp), usize::from(exchange.client.is_ipv6()));
        self.requests[kind][tcp][v6].fetch_add(1, Ordering::Relaxed);
        let code = CODES.iter().position(|(own, _)| *own == exchange.code).unwrap_or(CODES.len());
        self.responses[code][exchange.maker as usize].fetch_add(1, Ordering::Relaxed);
        self.durations.note(exchange.began.elapsed().as_secs_f64());
        self.request_octets[tcp].note(exchange.asked_octets as f64);
        self.response_octets[tcp].note(exchange.answered_octets as f64);
    }

    pub(super) fn count_forward(&self, result: ForwardResult) {
        self.forwards[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count(&self, event: Event) {
        self.events[event as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn raise(&self, gauge: Gauge) {
        self.gauges[gauge as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lower(&self, gauge: Gauge) {
        self.gauges[gauge as usize].fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn set(&self, gauge: Gauge, value: usize) {
        self.gauges[gauge as usize].store(value as u64, Ordering::Relaxed);
    }

    /// Shows what is counted of these upstreams; the first call holds.
    pub(super) fn show_upstreams(&self, upstreams: Vec<Arc<UpstreamCounters>>) {
        let _first = self.upstreams.set(upstreams);
    }

    /// Notes how long a change took from when it was heard of to its names.
    pub fn note_programming(&self, took: Duration) {
        self.programming.note(took.as_secs_f64());
    }

    /// Notes that the source still tells what changes; without it the names age.
    pub fn note_source(&self) {
        self.heard.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Notes that every source has been read and names are answered.
    pub fn note_synced(&self) {
        self.set(Gauge::Synced, 1);
    }

    /// CoreDNS counts hits and misses together too.
    fn cache_requests(&self) -> Sample {
        let name = "coredns_cache_requests";
        let looked = [Event::CacheHitSuccess, Event::CacheHitDenial, Event::CacheMiss];
        let count = looked.map(|event| self.events[event as usize].load(Ordering::Relaxed)).iter().sum();
        let help = "Questions that the cache was asked about";
        Sample { name, help, labels: labels(name, ""), value: Value::Count(count) }
    }

    /// Returns for how long nobody has told what changes, in whole seconds.
    fn age(&self) -> Sample {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        let help = "Seconds for which the source has not told what changes: how old the names may be";
        let value = Value::Level(self.started.elapsed().saturating_sub(heard).as_secs());
        Sample { name: "dns_age_seconds", help, labels: Vec::new(), value }
    }

    /// Reads all counters; each is exact, together they are of about the same moment.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Sample> {
        let mut samples = self.requests_and_responses();
        for (labels, counter) in FORWARD_RESULTS.into_iter().zip(&self.forwards) {
            let help = "Questions for names of others, by how they ended";
            samples.push(sample("dns_forwards", help, vec![("result", labels.into())], counter));
        }
        for ((name, kind, help), counter) in EVENTS.into_iter().zip(&self.events) {
            samples.push(sample(name, help, labels(name, kind), counter));
        }
        for ((name, kind, help), gauge) in GAUGES.into_iter().zip(&self.gauges) {
            let value = Value::Level(gauge.load(Ordering::Relaxed));
            samples.push(Sample { name, help, labels: labels(name, kind), value });
        }
        samples.push(self.age());
        samples.push(self.cache_requests());
        samples.extend(self.upstreams.get().into_iter().flatten().flat_map(|upstream| upstream.samples()));
        samples.extend(self.spreads());
        samples
    }

    fn requests_and_responses(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        let types = Type::NAMED.iter().map(|(_, label)| *label).chain(["other"]);
        for (kind, by_protocol) in types.zip(&self.requests) {
            for (protocol, by_family) in PROTOCOLS.into_iter().zip(by_protocol) {
                for (family, counter) in FAMILIES.into_iter().zip(by_family) {
                    let mut labels = of_server();
                    labels.extend([
                        ("proto", protocol.into()),
                        ("family", family.into()),
                        ("type", kind.into()),
                    ]);
                    let help = "Questions by transport, address family and type";
                    samples.push(sample("coredns_dns_requests", help, labels, counter));
                }
            }
        }
        let codes = CODES.iter().map(|(_, label)| *label).chain(["other"]);
        for (code, by_maker) in codes.zip(&self.responses) {
            for ((_, maker), counter) in MAKERS.into_iter().zip(by_maker) {
                let mut labels = of_server();
                labels.extend([("rcode", code.into()), ("plugin", maker.into())]);
                let help = "Answers by code and who made them";
                samples.push(sample("coredns_dns_responses", help, labels, counter));
            }
        }
        samples
    }

    fn spreads(&self) -> Vec<Sample> {
        let spread = |name, help, labels, value| Sample { name, help, labels, value };
        let mut samples = vec![
            spread(
                "coredns_dns_request_duration_seconds",
                "Time from a question to its answer",
                of_server(),
                self.durations.read(),
            ),
            spread(
                "coredns_kubernetes_dns_programming_duration_seconds",
                "Time from when a change was heard of to its names",
                vec![("service_kind", "any".into())],
                self.programming.read(),
            ),
        ];
        for (at, protocol) in PROTOCOLS.into_iter().enumerate() {
            let mut labels = of_server();
            labels.push(("proto", protocol.into()));
            let (asked, answered) = (&self.request_octets[at], &self.response_octets[at]);
            let sizes = [
                ("coredns_dns_request_size_bytes", "Octets of questions", asked),
                ("coredns_dns_response_size_bytes", "Octets of answers", answered),
            ];
            samples.extend(sizes.map(|(name, help, h)| spread(name, help, labels.clone(), h.read())));
        }
        samples
    }
}

fn labels(name: &str, kind: &str) -> Vec<(&'static str, String)> {
    match (name.starts_with("coredns_cache"), kind) {
        (true, "") => vec![("server", "dns://:53".into()), ("zones", ".".into()), ("view", String::new())],
        (true, kind) => vec![
            ("server", "dns://:53".into()),
            ("type", kind.to_owned()),
            ("zones", ".".into()),
            ("view", String::new()),
        ],
        (false, _) => Vec::new(),
    }
}

fn sample(
    name: &'static str,
    help: &'static str,
    labels: Vec<(&'static str, String)>,
    counter: &AtomicU64,
) -> Sample {
    Sample { name, help, labels, value: Value::Count(counter.load(Ordering::Relaxed)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_and_gauge_has_a_counter_of_its_own() {
        let counters = Counters::default();
        counters.count(Event::ForwardBusy);
        counters.raise(Gauge::Loops);
        let one: Vec<Sample> = counters
            .snapshot()
            .into_iter()
            .filter(|sample| matches!(sample.value, Value::Count(1) | Value::Level(1)))
            .collect();
        let names: Vec<&str> = one.iter().map(|sample| sample.name).collect();
        assert_eq!(names, ["coredns_forward_max_concurrent_rejects", "dns_forward_loops"]);
        assert_eq!(Maker::Nobody as usize, MAKERS.len() - 1);
    }

    fn age(counters: &Counters) -> u64 {
        let samples = counters.snapshot();
        match samples.iter().find(|sample| sample.name == "dns_age_seconds").map(|sample| &sample.value) {
            Some(Value::Level(seconds)) => *seconds,
            other => panic!("{other:?} is no age"),
        }
    }

    #[test]
    fn names_age_while_the_source_is_silent() {
        let started = Instant::now().checked_sub(Duration::from_secs(90)).expect("the machine is older");
        let counters = Counters { started, ..Counters::default() };
        assert_eq!(age(&counters), 90);
        counters.note_source();
        assert_eq!(age(&counters), 0);
    }
}
