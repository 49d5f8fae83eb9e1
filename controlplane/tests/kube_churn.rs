//! Ten minutes of a cluster's life, in virtual time: whatever happens to objects and to the API server, it ends in the
//! tables and names that a fresh start would make.

mod api_server;
mod maps;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api_server::objects::{namespace, service, slice};
use api_server::{ApiServer, Fault, NAMESPACES, SERVICES, SLICES};
use arc_swap::ArcSwap;
use maps::Maps;
use serde_json::json;
use tidegate::cluster::{Cluster, Dirty};
use tidegate::dns::{Name, Outcome, Type, Zone, ZoneSettings, resolve};
use tidegate::publish::{InUse, Publication};
use tidegate::source::Update;
use tidegate::tables::Compiler;
use tidegate::watch::{Kubernetes, Limits, Settings};
use tidegate_dataplane::services::{Frontend, Services, VirtualAddress};
use tidegate_dataplane::snapshot::{Publisher, Snapshot, Subscriber};
use tokio::time::{Instant, timeout};

const NAMES: u64 = 12;
const LIFE: Duration = Duration::from_secs(600);

/// Numbers that look random, the same for each seed. Source: Steele and others, SplitMix (OOPSLA 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Everything between the source and the workers, of which there is one, asleep.
struct Gateway {
    source: Kubernetes,
    cluster: Cluster,
    publication: Publication<Maps>,
    names: Arc<ArcSwap<Zone>>,
    _asleep: Vec<Subscriber>,
}

impl Gateway {
    fn start(server: &ApiServer) -> Self {
        let settings = Settings {
            kubeconfig: None,
            node_name: None,
            pods: false,
            pod_names: false,
            service_cidrs: Vec::new(),
            cluster_file: None,
            limits: Limits::of_watch(Duration::from_secs(40)),
            complain: false,
        };
        let names = Arc::new(ArcSwap::from_pointee(Zone::new(ZoneSettings::default()).unwrap()));
        let (publisher, mut asleep) = Publisher::new(Snapshot::empty(Services::new([])), 1);
        asleep.iter_mut().for_each(Subscriber::park);
        let publication = Publication::new(
            Maps::default(),
            publisher,
            Compiler::default(),
            Arc::clone(&names),
            Duration::ZERO,
        );
        let source = Kubernetes::follow(server.client(), "test", settings);
        Self { source, cluster: Cluster::default(), publication, names, _asleep: asleep }
    }

    fn apply(&mut self, update: Update) {
        let mut dirty = Dirty::default();
        for event in update.events {
            self.cluster.apply(event, &mut dirty);
        }
        let now = std::time::Instant::now();
        self.publication.apply(&self.cluster, &dirty, now);
        self.publication.advance(&self.cluster, now);
        self.publication.sweep_endpoints(InUse::default, now);
        assert!(self.publication.is_settled());
    }

    /// Goes on for so long.
    async fn live(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Ok(update) = tokio::time::timeout_at(end, self.source.next()).await {
            self.apply(update);
        }
    }

    /// Lets removed addresses end that refuse for a while; publication goes by the machine's clock, not by the paused one.
    fn rest(&mut self) {
        let later = std::time::Instant::now() + Duration::from_secs(120);
        while self.publication.next_deadline(later).is_some_and(|at| at <= later) {
            self.publication.advance(&self.cluster, later);
        }
        self.publication.sweep_endpoints(InUse::default, later);
    }

    /// What packets and names are made of, in a form that compares.
    fn sums_up(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let snapshot = self.publication.publisher.current();
        let maps = &self.publication.steering;
        let tables: Vec<(IpAddr, VirtualAddress)> = maps
            .frontends
            .iter()
            .map(Frontend::address)
            .map(|address| (address, snapshot.services.virtual_address(address).unwrap().clone()))
            .collect();
        let zone = self.names.load();
        let answers = (0..NAMES).map(|number| {
            let name = Name::parse(&format!("s{number}.dev.svc.cluster.local")).unwrap();
            match resolve(&zone, name.as_name_ref(), Type::A).outcome {
                Outcome::Answer { records, .. } => format!("{records:?}"),
                _ => "none".to_owned(),
            }
        });
        let answers: Vec<String> = answers.collect();
        (self.cluster.clone(), tables, snapshot.services.len(), maps.endpoints.clone(), answers)
    }
}

/// One thing that happens.
fn happen(server: &ApiServer, chance: &mut Chance) {
    let number = chance.below(NAMES);
    let name = format!("s{number}");
    let address = |chance: &mut Chance| format!("10.96.{number}.{}", 1 + chance.below(3));
    match chance.below(100) {
        0..30 => {
            let endpoints: Vec<String> =
                (0..chance.below(5)).map(|_| format!("10.244.{number}.{}", 1 + chance.below(9))).collect();
            let endpoints: BTreeSet<&str> = endpoints.iter().map(String::as_str).collect();
            let mut object = slice("dev", &name, &endpoints.into_iter().collect::<Vec<_>>());
            for endpoint in object["endpoints"].as_array_mut().unwrap() {
                endpoint["conditions"]["ready"] = (chance.below(4) > 0).into();
            }
            object["metadata"]["name"] = format!("{name}-{}", chance.below(2)).into();
            server.put(SLICES, object);
        }
        30..45 => server.delete(SLICES, "dev", &format!("{name}-{}", chance.below(2))),
        45..65 => server.put(SERVICES, service("dev", &name, &address(chance))),
        65..75 => server.delete(SERVICES, "dev", &name),
        75..79 => {
            let mut object = service("dev", &name, "None");
            object["spec"]["clusterIPs"] = json!(["None"]);
            server.put(SERVICES, object);
        }
        79..83 => {
            let mut object = service("dev", &name, &address(chance));
            object["spec"]["ports"][0]["port"] = json!("bad");
            server.put(SERVICES, object);
        }
        83..86 => {
            // A slice goes over to another Service.
            let mut object = slice("dev", &format!("s{}", (number + 1) % NAMES), &["10.244.99.1"]);
            object["metadata"]["name"] = format!("{name}-0").into();
            server.put(SLICES, object);
        }
        86..88 => server.put(NAMESPACES, namespace(&format!("n{number}"))),
        88..90 => server.delete(NAMESPACES, "", &format!("n{number}")),
        90..93 => server.cut(),
        93..95 => server.forget_history(),
        95 => {
            server.set_fault(Some(Fault::Refuse([401, 410, 429, 500, 503][chance.below(5) as usize], None)));
        }
        96 => server.set_fault(Some(Fault::Hang)),
        97 => server.set_fault(Some(Fault::Garbage)),
        98 => server.set_fault(Some(Fault::Slow(Duration::from_millis(chance.below(12_000))))),
        _ => server.set_fault(Some(Fault::EndAtOnce)),
    }
}

async fn live_through(seed: u64) {
    let mut chance = Chance(seed);
    let server = ApiServer::new();
    server.put(NAMESPACES, namespace("dev"));
    let mut gateway = Gateway::start(&server);
    let begun = Instant::now();
    let mut changes = 0;
    while begun.elapsed() < LIFE {
        for _ in 0..=chance.below(4) {
            happen(&server, &mut chance);
            changes += 1;
        }
        // Failures pass by themselves, the longer ones seldom.
        if chance.below(12) == 0 {
            server.set_fault(None);
        }
        gateway.live(Duration::from_millis(chance.below(900))).await;
    }
    assert!(changes > 1000, "{changes} changes");
    server.set_fault(None);
    // Of a bad object its last good version stays in force, which a fresh start cannot know.
    for number in 0..NAMES {
        if server.objects(SERVICES).iter().any(|object| {
            object["metadata"]["name"] == format!("s{number}") && object["spec"]["ports"][0]["port"] == "bad"
        }) {
            server.put(SERVICES, service("dev", &format!("s{number}"), &format!("10.96.{number}.1")));
        }
    }
    gateway.live(Duration::from_secs(180)).await;
    assert!(gateway.source.standing().troubles().is_empty(), "{:?}", gateway.source.standing());
    assert!(gateway.source.report().problems.is_empty());

    let mut fresh = Gateway::start(&server);
    let update = timeout(Duration::from_secs(5), fresh.source.next()).await.unwrap();
    fresh.apply(update);
    gateway.rest();
    assert_eq!(gateway.sums_up(), fresh.sums_up(), "seed {seed}");
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_of_changes_and_failures_end_in_the_tables_of_a_fresh_start() {
    // As many lives as proptest has cases, which `tools/test --long` raises, at a thirtieth: a life is long.
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(256);
    for seed in 0..(cases / 32_u64).max(1) {
        live_through(seed).await;
    }
}
