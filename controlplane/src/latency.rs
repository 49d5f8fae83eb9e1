//! How long changes of the cluster take until packets follow them (K34).

use std::time::{Duration, Instant, SystemTime};

use crate::http::metrics::Spread;
use crate::source::Origin;

/// Upper bounds of the buckets.
const BOUNDS: [Duration; 15] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];
/// A time since what an object shows that is longer says something of clocks, not of us.
const TRIGGER_MAX: Duration = Duration::from_secs(3600);

/// How often times of which length were seen.
#[derive(Clone, Debug)]
struct Distribution {
    name: &'static str,
    help: &'static str,
    /// By bucket; the last one has no bound.
    counts: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Distribution {
    fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, counts: [0; BOUNDS.len() + 1], sum: Duration::ZERO }
    }

    fn record(&mut self, time: Duration) {
        let bucket = BOUNDS.iter().position(|bound| time <= *bound).unwrap_or(BOUNDS.len());
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(time);
    }

    fn spread(&self) -> Spread {
        let bounds = BOUNDS.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
        let buckets = bounds.zip(self.counts).collect();
        let series = vec![(Vec::new(), buckets, self.sum.as_secs_f64())];
        Spread { name: self.name.to_owned(), help: self.help.to_owned(), series }
    }
}

/// The way of changes from being read to being used by all workers.
#[derive(Debug)]
pub struct Latency {
    under_way: Vec<Origin>,
    from_event: Distribution,
    from_trigger: Distribution,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            under_way: Vec::new(),
            from_event: Distribution::new(
                "event_to_packet_seconds",
                "Time from the reading of a change to its use by all workers",
            ),
            from_trigger: Distribution::new(
                "trigger_to_packet_seconds",
                "Time from what an EndpointSlice shows to its use by all workers",
            ),
        }
    }
}

impl Latency {
    /// Notes that these changes are being put in force.
    pub fn begin(&mut self, origins: Vec<Origin>) {
        self.under_way.extend(origins);
    }

    /// Notes that all changes so far are used by all workers.
    pub fn end(&mut self, now: Instant) {
        if self.under_way.is_empty() {
            return;
        }
        let clock = SystemTime::now();
        for origin in self.under_way.drain(..) {
            self.from_event.record(now.saturating_duration_since(origin.read));
            let since = origin.triggered.and_then(|at| clock.duration_since(at).ok());
            if let Some(since) = since.filter(|since| *since < TRIGGER_MAX) {
                self.from_trigger.record(since);
            }
        }
    }

    /// Returns what was measured, the time from an EndpointSlice's trigger also by the name that kube-proxy has for it.
    #[must_use]
    pub fn spreads(&self) -> [Spread; 3] {
        let from_trigger = self.from_trigger.spread();
        let name = "kubeproxy_network_programming_duration_seconds".to_owned();
        [self.from_event.spread(), Spread { name, ..from_trigger.clone() }, from_trigger]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::metrics::render;

    #[test]
    fn changes_are_timed_from_their_reading_and_from_what_they_show() {
        let mut latency = Latency::default();
        let read = Instant::now();
        let origin =
            |age: u64| Origin { read, triggered: SystemTime::now().checked_sub(Duration::from_secs(age)) };
        let future = Origin { read, triggered: SystemTime::now().checked_add(Duration::from_secs(60)) };
        latency.begin(vec![origin(3), origin(86_400), future]);
        latency.end(read + Duration::from_millis(7));
        latency.end(read + Duration::from_secs(9));
        let text = render(Vec::new(), latency.spreads().into());
        for line in [
            "tidegate_event_to_packet_seconds_bucket{le=\"0.005\"} 0",
            "tidegate_event_to_packet_seconds_bucket{le=\"0.01\"} 3",
            "tidegate_event_to_packet_seconds_bucket{le=\"+Inf\"} 3",
            "tidegate_event_to_packet_seconds_count 3",
            "tidegate_trigger_to_packet_seconds_bucket{le=\"2.0\"} 0",
            "tidegate_trigger_to_packet_seconds_bucket{le=\"5.0\"} 1",
            "tidegate_trigger_to_packet_seconds_count 1",
            "kubeproxy_network_programming_duration_seconds_count 1",
        ] {
            assert!(text.lines().any(|own| own == line), "no {line} in {text}");
        }
    }
}
