//! A gateway without devices: the whole way from manifests to packets, on a clock of the test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tempfile::TempDir;
use tidegate::cluster::{Cluster, Dirty, Event};
use tidegate::compile::Locality;
use tidegate::dns::{Zone, ZoneSettings};
use tidegate::manifests::{Manifests, Settings};
use tidegate::publish::{InUse, Publication};
use tidegate::tables::Compiler;
use tidegate_dataplane::flows::Cursor;
use tidegate_dataplane::services::Services;
use tidegate_dataplane::snapshot::{Publisher, Snapshot, Subscriber};
use tokio::runtime::Runtime;

use crate::maps::Maps;
use crate::path_rig::{self, CLIENT_SIDE, GATEWAY, Out, POD_SIDE_GATEWAY, Rig, prefix};

pub(crate) struct World {
    directory: TempDir,
    runtime: Runtime,
    source: Manifests,
    cluster: Cluster,
    worker: Subscriber,
    pub(crate) publication: Publication<Maps>,
    pub(crate) rig: Rig,
    now: Instant,
}

impl World {
    /// A gateway that is no node, in front of these manifests.
    pub(crate) fn new(manifests: &str) -> Self {
        Self::at(Locality::default(), manifests)
    }

    /// A gateway that is the node `here` in the zone `east`.
    pub(crate) fn on_node(manifests: &str) -> Self {
        Self::at(Locality { node: Some("here".into()), zone: Some("east".into()) }, manifests)
    }

    pub(crate) fn at(locality: Locality, manifests: &str) -> Self {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("all.yaml"), manifests).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let settings = Settings {
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:a:60::/112".parse().unwrap()],
            state_file: None,
            pods: false,
        };
        let source = {
            let _runtime = runtime.enter();
            Manifests::open(directory.path().to_owned(), settings).unwrap()
        };
        let first = Snapshot {
            services: Services::new([prefix([10, 96, 0, 0], 16)]),
            node_addresses: [GATEWAY, POD_SIDE_GATEWAY].map(path_rig::ip).into(),
            pod_networks: Arc::new([prefix([10, 244, 0, 0], 16)]),
            ..path_rig::snapshot()
        };
        let (publisher, mut workers) = Publisher::new(first, 1);
        let zone = Zone::new(ZoneSettings { serial: 1, ..ZoneSettings::default() }).unwrap();
        let names = Arc::new(ArcSwap::from_pointee(zone));
        let linger = Duration::from_secs(1);
        let mut world = Self {
            publication: Publication::new(Maps::default(), publisher, Compiler::new(locality), names, linger),
            directory,
            runtime,
            source,
            cluster: Cluster::default(),
            worker: workers.pop().unwrap(),
            rig: Rig::new(),
            now: Instant::now(),
        };
        world.follow();
        world
    }

    /// Replaces all manifests.
    pub(crate) fn say(&mut self, manifests: &str) {
        let aside = self.directory.path().with_extension("aside");
        std::fs::write(&aside, manifests).unwrap();
        std::fs::rename(aside, self.directory.path().join("all.yaml")).unwrap();
        self.follow();
    }

    fn follow(&mut self) {
        let events = self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(10), self.source.next()).await.expect("a change")
        });
        self.tell(events);
    }

    /// Applies events without manifests.
    pub(crate) fn tell(&mut self, events: impl IntoIterator<Item = Event>) {
        let mut dirty = Dirty::default();
        for event in events {
            self.cluster.apply(event, &mut dirty);
        }
        self.publication.apply(&self.cluster, &dirty, self.now);
        self.refresh();
    }

    /// Lets the worker take the tables in force, and the control thread go on.
    pub(crate) fn refresh(&mut self) {
        for _ in 0..3 {
            self.rig.snapshot = self.worker.refresh().clone();
            self.publication.advance(&self.cluster, self.now);
        }
    }

    /// Lets time pass for everybody.
    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.publication.next_deadline(self.now).filter(|at| *at <= end) {
            self.now = self.now.max(deadline);
            self.refresh();
        }
        self.now = end;
        self.rig.now = tidegate_dataplane::clock::Now::from_ns(self.rig.now.ns() + time.as_nanos() as u64);
        self.refresh();
    }

    /// What the housekeeping does about endpoints that have left.
    pub(crate) fn keep_house(&mut self) {
        let mut in_use = InUse::default();
        self.rig.flows.endpoints_in_use(|service, endpoint| {
            in_use.pairs.insert((service, endpoint));
        });
        self.rig.flows.endpoints_with_tombstones(|endpoint| {
            in_use.late.insert(endpoint);
        });
        self.publication.sweep_endpoints(|| in_use, self.now);
        self.refresh();
    }

    /// Returns what is refused, as people read it.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.source.report().problems.iter().map(ToString::to_string).collect()
    }

    /// Sends a packet of the client that is to leave as one.
    pub(crate) fn call(&mut self, packet: &[u8]) -> (Out, Vec<u8>) {
        self.rig.one(CLIENT_SIDE, packet)
    }

    /// Sends packets of the client that are to be dropped.
    pub(crate) fn call_in_vain(&mut self, packet: &[u8]) {
        let left = self.rig.carry(CLIENT_SIDE, &[packet.to_vec()]);
        assert_eq!(left, [], "{:?}", self.rig.path.counters);
    }

    /// Returns the value of a counter.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let found = self.rig.path.counters.named().find(|(own, _, _)| *own == name);
        found.unwrap_or_else(|| panic!("no counter {name}")).2
    }
}

/// Writes a Service `dev/ent` with that ClusterIP and these further lines of its spec.
pub(crate) fn service(cluster_ip: &str, spec: &str) -> String {
    annotated_service(cluster_ip, "", spec)
}

/// Writes one with annotations, each `name: value` of `tidegate.io/`.
pub(crate) fn annotated_service(cluster_ip: &str, annotations: &str, spec: &str) -> String {
    let annotations: String = annotations
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .map(|(name, value)| format!("    tidegate.io/{name}: '{value}'\n"))
        .collect();
    let annotations =
        if annotations.is_empty() { String::new() } else { format!("  annotations:\n{annotations}") };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: ent\n  namespace: dev\n{annotations}spec:\n  clusterIP: {cluster_ip}\n{}---\n",
        indented(spec, "  ")
    )
}

/// The ports of most Services here: 80 of TCP and UDP.
pub(crate) const PORTS: &str =
    "ports:\n- {name: web, port: 80, protocol: TCP}\n- {name: voice, port: 80, protocol: UDP}\n";

fn indented(text: &str, by: &str) -> String {
    text.lines().map(|line| format!("{by}{line}\n")).collect()
}

/// Writes the slice of `dev/ent` with endpoints on port 8080, each as `address` or `address: conditions and more`.
pub(crate) fn slice(endpoints: &[(&str, &str)]) -> String {
    let family = if endpoints.iter().any(|(address, _)| address.contains(':')) { "IPv6" } else { "IPv4" };
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: ent-1\n  namespace: dev\n  labels: {{kubernetes.io/service-name: ent}}\naddressType: {family}\nports:\n- {{name: web, port: 8080, protocol: TCP}}\n- {{name: voice, port: 8080, protocol: UDP}}\nendpoints:\n"
    );
    for (address, more) in endpoints {
        text += &format!("- addresses: ['{address}']\n{}", indented(more, "  "));
    }
    text + "---\n"
}

/// The condition lines of endpoints.
pub(crate) const READY: &str = "";
pub(crate) const NOT_READY: &str = "conditions: {ready: false, serving: false}";
pub(crate) const TERMINATING: &str = "conditions: {ready: false, serving: true, terminating: true}";
pub(crate) const HERE: &str = "nodeName: here";
pub(crate) const THERE: &str = "nodeName: there";

impl World {
    /// Opens a connection of the client from a port, and returns the endpoint's last octet; held packets count, too.
    pub(crate) fn open(&mut self, client: [u8; 4], port: u16, to: [u8; 4], to_port: u16) -> u8 {
        let packet = path_rig::tcp(path_rig::FROM_CLIENT, ((client, port), (to, to_port)), 64, "S", b"");
        self.rig.carry(CLIENT_SIDE, &[packet]);
        self.endpoint_of(client, port).unwrap_or_else(|| panic!("no flow: {:?}", self.rig.path.counters))
    }

    /// Returns the last octet of the endpoint that a client's flow goes to.
    pub(crate) fn endpoint_of(&self, client: [u8; 4], port: u16) -> Option<u8> {
        let mut found = None;
        let flows = &self.rig.flows.ipv4;
        flows.scan(
            &mut Cursor::part(0, 1),
            flows.capacity(),
            |_, _| true,
            |flow| {
                if (flow.request.source().octets(), flow.request.source_port().number()) == (client, port) {
                    found = Some(flow.reply.source().octets()[3]);
                }
            },
        );
        found
    }
}
