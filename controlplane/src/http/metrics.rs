//! /metrics, /healthz, /livez and /readyz. The control loop answers each scrape, so that one moment is shown whole.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// How long the control loop may take to answer before it counts as dead.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a client of the HTTP server wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// All metrics.
    Metrics,
    /// Do all workers run?
    Health,
    /// Do all workers run, whatever becomes of the node?
    Live,
    /// Are packets and names served?
    Ready,
}

/// The control loop's answer.
#[derive(Debug)]
pub struct Reply {
    /// 200 or 503.
    pub good: bool,
    /// The body.
    pub text: String,
}

/// A question with the way back for its reply.
pub type Asked = (Question, oneshot::Sender<Reply>);

/// A metric with one value for each set of labels.
#[derive(Debug)]
pub struct Family {
    /// Name without `tidegate_` and `_total`.
    pub name: String,
    /// What it counts.
    pub help: String,
    /// Whether its values can fall.
    pub gauge: bool,
    /// Labels and value of each series.
    pub series: Vec<(Vec<(String, String)>, u64)>,
}

impl Family {
    /// Makes a family without labels.
    #[must_use]
    pub fn single(name: &str, help: &str, gauge: bool, value: u64) -> Self {
        Self { name: name.into(), help: help.into(), gauge, series: vec![(Vec::new(), value)] }
    }
}

/// A metric that shows how often which values were seen.
#[derive(Clone, Debug)]
pub struct Spread {
    /// Name without `tidegate_`.
    pub name: String,
    /// What it measures.
    pub help: String,
    /// Labels of each series, the count of values up to each upper bound and above the one before, and their sum.
    pub series: Vec<SpreadSeries>,
}

/// One series of a [`Spread`].
pub type SpreadSeries = (Vec<(String, String)>, Vec<(f64, u64)>, f64);

#[derive(Debug)]
struct Families(Vec<Family>, Vec<Spread>);

/// Puts our name in front, but for metrics that go by CoreDNS' or kube-proxy's name.
fn full_name(name: &str) -> String {
    if name.starts_with("coredns_") || name.starts_with("kubeproxy_") {
        name.to_owned()
    } else {
        format!("tidegate_{name}")
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            let name = full_name(&family.name);
            let help = family.help.trim().trim_end_matches('.');
            let kind = if family.gauge { MetricType::Gauge } else { MetricType::Counter };
            let mut metric = encoder.encode_descriptor(&name, help, None, kind)?;
            for (labels, value) in &family.series {
                match (kind, labels.is_empty()) {
                    (MetricType::Gauge, true) => metric.encode_gauge(&(*value as i64))?,
                    (MetricType::Gauge, false) => {
                        metric.encode_family(labels)?.encode_gauge(&(*value as i64))?;
                    }
                    (_, true) => metric.encode_counter::<NoLabelSet, _, u64>(value, None)?,
                    (_, false) => {
                        metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)?;
                    }
                }
            }
        }
        for spread in &self.1 {
            let (name, help) = (full_name(&spread.name), spread.help.trim().trim_end_matches('.'));
            let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Histogram)?;
            for (labels, buckets, sum) in &spread.series {
                let count = buckets.iter().map(|(_, count)| count).sum();
                if labels.is_empty() {
                    metric.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)?;
                } else {
                    metric
                        .encode_family(labels)?
                        .encode_histogram::<NoLabelSet>(*sum, count, buckets, None)?;
                }
            }
        }
        Ok(())
    }
}

/// Writes families as Prometheus text (OpenMetrics 1.0: counters end in `_total`).
#[must_use]
pub fn render(families: Vec<Family>, spreads: Vec<Spread>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families, spreads)));
    let mut output = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut output, &registry);
    output
}

/// Starts the HTTP server; it ends with the runtime.
///
/// # Errors
/// Names the address that cannot be listened on.
pub async fn serve(address: SocketAddr) -> anyhow::Result<mpsc::Receiver<Asked>> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("--metrics {address}: cannot listen"))?;
    let (ask, asked) = mpsc::channel::<Asked>(16);
    let router = Router::new()
        .route("/metrics", get(|state: State<_>| answer(state, Question::Metrics)))
        .route("/healthz", get(|state: State<_>| answer(state, Question::Health)))
        .route("/livez", get(|state: State<_>| answer(state, Question::Live)))
        .route("/readyz", get(|state: State<_>| answer(state, Question::Ready)))
        .with_state(ask);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("metrics server ended: {error}");
        }
    });
    Ok(asked)
}

async fn answer(State(ask): State<mpsc::Sender<Asked>>, question: Question) -> impl IntoResponse {
    let (back, reply) = oneshot::channel();
    let asked = async {
        ask.send((question, back)).await.ok()?;
        reply.await.ok()
    };
    let content_type = match question {
        Question::Metrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        Question::Health | Question::Live | Question::Ready => "text/plain; charset=utf-8",
    };
    let (status, text) = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Some(Reply { good: true, text })) => (StatusCode::OK, text),
        Ok(Some(Reply { good: false, text })) => (StatusCode::SERVICE_UNAVAILABLE, text),
        Ok(None) | Err(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the control loop does not answer\n".to_owned())
        }
    };
    (status, [(header::CONTENT_TYPE, content_type)], text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_become_prometheus_text() {
        let counter = Family {
            name: "rx_packets".into(),
            help: " Packets taken.".into(),
            gauge: false,
            series: vec![(vec![("worker".into(), "0".into())], 7)],
        };
        let spread = Spread {
            name: "coredns_size".into(),
            help: "Sizes".into(),
            series: vec![(vec![("proto".into(), "udp".into())], vec![(1., 2), (f64::INFINITY, 3)], 9.5)],
        };
        let text = render(vec![counter, Family::single("flows", "Flows now.", true, 3)], vec![spread]);
        assert!(text.contains("tidegate_rx_packets_total{worker=\"0\"} 7\n"), "{text}");
        assert!(text.contains("# TYPE tidegate_flows gauge\n"), "{text}");
        assert!(text.contains("tidegate_flows 3\n"), "{text}");
        assert!(text.contains("coredns_size_bucket{le=\"+Inf\",proto=\"udp\"} 5\n"), "{text}");
        assert!(text.contains("coredns_size_sum{proto=\"udp\"} 9.5\n"), "{text}");
    }
}
