//! How long changes take until they are in force, as kube-proxy's dashboards expect it (K34).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::http::metrics::{Family, Spread};

/// Upper bounds of the buckets, in seconds: doubling from 1 ms.
///
/// Source: Kubernetes `pkg/proxy/metrics/metrics.go`, `SyncProxyRulesLatency`.
const BOUNDS: [f64; 15] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];

/// The times of all changes so far.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Programming {
    /// Changes of each bucket, and behind the last those beyond it.
    counts: [u64; BOUNDS.len() + 1],
    sum_seconds: f64,
    last_seconds: u64,
}

impl Programming {
    /// Notes a change that took so long.
    pub fn note(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        let place = BOUNDS.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
        self.sum_seconds += seconds;
        self.last_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    }

    /// Returns the metrics by kube-proxy's names.
    #[must_use]
    pub fn metrics(&self) -> (Family, Spread) {
        let bounds = BOUNDS.into_iter().chain([f64::MAX]);
        let buckets = bounds.zip(self.counts).collect();
        let spread = Spread {
            name: "kubeproxy_sync_proxy_rules_duration_seconds".into(),
            help: "Time from a change to its being in force with all workers".into(),
            series: vec![(Vec::new(), buckets, self.sum_seconds)],
        };
        let name = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
        (Family::single(name, "When the last change came into force", true, self.last_seconds), spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::metrics::render;

    #[test]
    fn k34_the_time_of_changes_is_shown_by_kube_proxys_name() {
        let mut programming = Programming::default();
        for ms in [1, 3, 3, 20_000] {
            programming.note(Duration::from_millis(ms));
        }
        let (last, spread) = programming.metrics();
        let text = render(vec![last], vec![spread]);
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.001\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\"} 3",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"16.384\"} 3",
            "kubeproxy_sync_proxy_rules_duration_seconds_count 4",
        ] {
            assert!(text.lines().any(|own| own == line), "no {line} in {text}");
        }
    }
}
