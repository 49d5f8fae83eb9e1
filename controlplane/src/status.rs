//! What the gateway says of itself: the metrics of all its parts at one moment.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tidegate_dataplane::accounts::Row;
use tidegate_dataplane::counters::{Counters, GAUGES};
use tidegate_dataplane::flows::State;
use tidegate_dataplane::xdp::AttachMode;
use tidegate_dataplane::xsk::Mode;

use crate::account_book::Owner;
use crate::devices::Standing;
use crate::dns;
use crate::http::metrics::{Family, Spread};
use crate::manifests::Report;
use crate::programming::Programming;
use crate::tables::EndpointKey;
use crate::workers::SocketReport;

/// Everything a scrape shows.
pub struct Status<'a> {
    /// Counters of each worker.
    pub workers: Vec<Counters>,
    /// How each socket came out.
    pub sockets: &'a [SocketReport],
    /// How each device stands.
    pub devices: Vec<(&'a str, Standing)>,
    /// Devices that went, and that came back, since the start.
    pub device_changes: (u64, u64),
    /// What the XDP program counted, by reason.
    pub steering: Vec<(&'static str, u64)>,
    /// What the source says.
    pub source: Report,
    /// What only this source says.
    pub source_families: Vec<Family>,
    /// What the DNS server counted.
    pub dns: Vec<dns::Sample>,
    /// Flows in the table, and its capacity.
    pub flows: (usize, usize),
    /// Flows of each family by state, in the order of [`State::ALL`].
    pub flow_states: [(&'static str, [u64; State::ALL.len()]); 2],
    /// What each Service port, or each of its endpoints, has carried.
    pub services: Vec<(Owner, Row)>,
    /// How long changes took.
    pub programming: Programming,
    /// Services with internal and with external traffic policy Local whose endpoints are all elsewhere.
    pub without_local_endpoints: [u64; 2],
    /// Virtual addresses and endpoints in force.
    pub published: (usize, usize),
    /// Generation of the snapshot in force.
    pub generation: u64,
    /// Changes that were put in force.
    pub publications: u64,
    /// Changes that could not be put in force.
    pub publication_errors: u64,
    /// Services that are not in force now, or not with all their endpoints.
    pub services_short: usize,
}

impl Status<'_> {
    /// Lists all metrics.
    #[must_use]
    pub fn families(self) -> (Vec<Family>, Vec<Spread>) {
        let mut families = worker_families(&self.workers);
        families.push(socket_family(self.sockets));
        families.push(device_family(&self.devices));
        families.push(Family {
            name: "xdp_packets".into(),
            help: "What the XDP program did with packets, by reason".into(),
            gauge: false,
            series: self.steering.iter().map(|(name, n)| (vec![label("reason", name)], *n)).collect(),
        });
        families.push(flow_family(&self.flow_states));
        families.extend(service_families(&self.services));
        let (last_change, changes) = self.programming.metrics();
        families.push(last_change);
        families.push(locality_family(self.without_local_endpoints));
        let (flows, capacity) = self.flows;
        let (addresses, endpoints) = self.published;
        let gauges = [
            ("flows", "Flows in the table", flows as u64),
            ("flows_capacity", "Flows that the table has room for", capacity as u64),
            ("virtual_addresses", "Virtual addresses in force", addresses as u64),
            ("endpoints", "Endpoints in force", endpoints as u64),
            ("services_short", "Services that are not in force now, or not with all their endpoints", {
                self.services_short as u64
            }),
            ("snapshot_generation", "Generation of the tables in force", self.generation),
            ("problems", "Objects and files that are refused now", self.source.problems.len() as u64),
        ];
        families.extend(gauges.map(|(name, help, value)| Family::single(name, help, true, value)));
        let (losses, returns) = self.device_changes;
        let totals = [
            ("device_losses", "Served devices that were deleted", losses),
            ("device_returns", "Served devices that came back and are served again", returns),
            ("object_errors", "Objects refused since the start", self.source.object_errors_total),
            ("publications", "Changes of the cluster that were put in force", self.publications),
            ("publication_errors", "Changes that could not be put in force", self.publication_errors),
        ];
        families.extend(totals.map(|(name, help, value)| Family::single(name, help, false, value)));
        families.push(Family {
            name: "objects".into(),
            help: "Objects in force, by kind".into(),
            gauge: true,
            series: self
                .source
                .objects
                .iter()
                .map(|(kind, n)| (vec![label("kind", kind.as_str())], *n as u64))
                .collect(),
        });
        families.extend(self.source_families);
        let (of_dns, mut spreads) = dns_families(self.dns);
        families.extend(of_dns);
        spreads.push(changes);
        (families, spreads)
    }
}

/// Values by direction.
type Directed = Vec<(Option<&'static str>, u64)>;

/// Shows what Services have carried: packets and octets by direction, flows and drops.
fn service_families(rows: &[(Owner, Row)]) -> Vec<Family> {
    fn both(request: u64, reply: u64) -> Directed {
        vec![(Some("request"), request), (Some("reply"), reply)]
    }
    let labels = |owner: &Owner, direction: Option<&str>| {
        let mut labels = vec![
            label("namespace", &owner.service.namespace),
            label("service", &owner.service.name),
            label("port", &owner.port),
            label("protocol", &owner.protocol.to_string()),
        ];
        if let Some(EndpointKey { address, port, .. }) = owner.endpoint {
            labels.push(label("endpoint", &SocketAddr::new(address, port.number()).to_string()));
        }
        labels.extend(direction.map(|direction| label("direction", direction)));
        labels
    };
    let family = |name: &str, help: &str, values: fn(&Row) -> Directed| Family {
        name: name.into(),
        help: help.into(),
        gauge: false,
        series: rows
            .iter()
            .flat_map(|(owner, row)| {
                values(row).into_iter().map(|(direction, value)| (labels(owner, direction), value))
            })
            .collect(),
    };
    vec![
        family("service_packets", "Packets of a Service port", |row| {
            both(row.request_packets, row.reply_packets)
        }),
        family("service_bytes", "Octets of the IP packets of a Service port", |row| {
            both(row.request_bytes, row.reply_bytes)
        }),
        family("service_connections", "Flows opened to a Service port", |row| vec![(None, row.connections)]),
        family("service_drops", "Packets to a Service port that were refused or dropped", |row| {
            vec![(None, row.drops)]
        }),
    ]
}

fn label(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn locality_family(counts: [u64; 2]) -> Family {
    Family {
        name: "kubeproxy_sync_proxy_rules_no_local_endpoints_total".into(),
        help: "Services with traffic policy Local that have endpoints, but none on this node".into(),
        gauge: true,
        series: ["internal", "external"]
            .into_iter()
            .zip(counts)
            .map(|(policy, count)| (vec![label("traffic_policy", policy)], count))
            .collect(),
    }
}

fn worker_families(workers: &[Counters]) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for (number, counters) in workers.iter().enumerate() {
        for (name, help, value) in counters.named() {
            let worker = label("worker", &number.to_string());
            let (name, help, labels) = match FRAME_PLACES.iter().find(|(counter, _)| *counter == name) {
                Some((_, place)) => {
                    ("frames", "Frames by where they are", vec![worker, label("place", place)])
                }
                // `_total` is what Prometheus puts behind counters.
                None if name == "frames_total" => ("frames_owned", help, vec![worker]),
                None => (name, help, vec![worker]),
            };
            let known = families.iter().position(|family| family.name == name);
            let place = known.unwrap_or_else(|| {
                let gauge = name.starts_with("frames") || GAUGES.contains(&name);
                families.push(Family { name: name.into(), help: help.into(), gauge, series: Vec::new() });
                families.len() - 1
            });
            if let Some(family) = families.get_mut(place) {
                family.series.push((labels, value));
            }
        }
    }
    families
}

/// The counters that become one metric with a label; their sum is the counter `frames_total`.
const FRAME_PLACES: [(&str, &str); 4] =
    [("frames_free", "free"), ("frames_fill", "fill"), ("frames_tx", "tx"), ("frames_held", "held")];

/// Returns the words for a socket's modes.
#[must_use]
pub fn mode_names(socket: &SocketReport) -> (&'static str, &'static str) {
    let attach = match socket.attach_mode {
        AttachMode::Native => "native",
        AttachMode::Generic => "generic",
    };
    let mode = match socket.mode {
        Mode::ZeroCopy => "zero-copy",
        Mode::Copy => "copy",
    };
    (attach, mode)
}

fn socket_family(sockets: &[SocketReport]) -> Family {
    let series = sockets.iter().map(|socket| {
        let (attach, mode) = mode_names(socket);
        let labels = vec![
            label("device", &socket.device),
            label("queue", &socket.queue.to_string()),
            label("worker", &socket.worker.to_string()),
            label("xdp", attach),
            label("mode", mode),
        ];
        (labels, 1)
    });
    Family {
        name: "xsk_socket".into(),
        help: "1 for each AF_XDP socket, with its modes as the kernel reports them".into(),
        gauge: true,
        series: series.collect(),
    }
}

fn flow_family(families: &[(&'static str, [u64; State::ALL.len()])]) -> Family {
    let of_states = |(family, counts): &(&'static str, [u64; State::ALL.len()])| {
        let family = *family;
        let series = State::ALL.into_iter().zip(*counts);
        series.map(move |(state, count)| (vec![label("family", family), label("state", state.name())], count))
    };
    Family {
        name: "flows_by_state".into(),
        help: "Flows in the table, by family and state".into(),
        gauge: true,
        series: families.iter().flat_map(|counts| of_states(counts).collect::<Vec<_>>()).collect(),
    }
}

fn device_family(devices: &[(&str, Standing)]) -> Family {
    let series = devices.iter().map(|(device, standing)| {
        let value = u64::from(*standing == Standing::Serving);
        (vec![label("device", device)], value)
    });
    Family {
        name: "device_serving".into(),
        help: "1 for each device of --interface that is there, up and served".into(),
        gauge: true,
        series: series.collect(),
    }
}

fn dns_families(samples: Vec<dns::Sample>) -> (Vec<Family>, Vec<Spread>) {
    let mut families: BTreeMap<&'static str, Family> = BTreeMap::new();
    let mut spreads: BTreeMap<&'static str, Spread> = BTreeMap::new();
    for sample in samples {
        let labels = sample.labels.iter().map(|(name, value)| label(name, value)).collect();
        let (name, help) = (sample.name.to_owned(), sample.help.to_owned());
        let (value, gauge) = match sample.value {
            dns::Value::Count(value) => (value, false),
            dns::Value::Level(value) => (value, true),
            dns::Value::Spread(buckets, sum) => {
                let spread = Spread { name, help, series: Vec::new() };
                spreads.entry(sample.name).or_insert(spread).series.push((labels, buckets, sum));
                continue;
            }
        };
        let family = Family { name, help, gauge, series: Vec::new() };
        families.entry(sample.name).or_insert(family).series.push((labels, value));
    }
    (families.into_values().collect(), spreads.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::metrics::render;

    #[test]
    fn each_metric_is_shown_once_with_a_series_for_each_worker() {
        let mut second = Counters::default();
        second.rx_packets = 5;
        second.frames_total = 9;
        second.frames_tx = 4;
        let status = Status {
            workers: vec![Counters::default(), second],
            sockets: &[],
            devices: vec![("client0", Standing::Serving), ("pods0", Standing::Missing)],
            device_changes: (2, 1),
            steering: vec![("taken", 7)],
            source: Report::default(),
            source_families: Report::default().families(),
            dns: Vec::new(),
            services: Vec::new(),
            programming: Programming::default(),
            without_local_endpoints: [0; 2],
            flows: (3, 1024),
            flow_states: [("ipv4", [1; _]), ("ipv6", [0; _])],
            published: (2, 1),
            generation: 8,
            publications: 9,
            publication_errors: 6,
            services_short: 1,
        };
        let (families, spreads) = status.families();
        let mut names: Vec<&str> = families.iter().map(|family| family.name.as_str()).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
        let text = render(families, spreads);
        for line in [
            "tidegate_rx_packets_total{worker=\"0\"} 0",
            "tidegate_rx_packets_total{worker=\"1\"} 5",
            "tidegate_frames{worker=\"1\",place=\"tx\"} 4",
            "tidegate_frames_owned{worker=\"1\"} 9",
            "tidegate_xdp_packets_total{reason=\"taken\"} 7",
            "tidegate_device_serving{device=\"client0\"} 1",
            "tidegate_device_serving{device=\"pods0\"} 0",
            "tidegate_device_losses_total 2",
            "tidegate_device_returns_total 1",
            "tidegate_flows_capacity 1024",
            "tidegate_flows_by_state{family=\"ipv4\",state=\"udp_stream\"} 1",
            "tidegate_flows_by_state{family=\"ipv6\",state=\"tcp_established\"} 0",
            "tidegate_services_short 1",
            "tidegate_publication_errors_total 6",
            "tidegate_publications_total 9",
        ] {
            assert!(text.lines().any(|own| own == line), "no {line} in {text}");
        }
    }
}
