//! From the cluster to tables: everything anew, and one change; and from an event to the packet that follows it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use tidegate::cluster::{
    Cluster, Dirty, Endpoint, EndpointSlice, Event, ObjectName, Service, ServiceKind, ServicePort, SlicePort,
};
use tidegate::dns::{Zone, ZoneSettings};
use tidegate::publish::{Publication, Steering};
use tidegate::tables::{Compiler, EndpointKey};
use tidegate::traffic::Traffic;
use tidegate_dataplane::flows::Key;
use tidegate_dataplane::net::{Port, Protocol};
use tidegate_dataplane::services::{Called, Frontend, Services};
use tidegate_dataplane::snapshot::{Publisher, Snapshot, Subscriber};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;

fn name(number: u32) -> ObjectName {
    ObjectName::new("dev", &format!("s{number}"))
}

fn slice(number: u32, endpoints: u32) -> Event {
    let endpoint = |place| Endpoint::ready_at(Ipv4Addr::from_bits(0x0af4_0000 + number * 16 + place).into());
    Event::SliceApplied(Arc::new(EndpointSlice {
        name: ObjectName::new("dev", &format!("s{number}-1")),
        service: name(number),
        endpoints: (0..endpoints).map(endpoint).collect(),
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
    }))
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    for number in 0..SERVICES {
        let address = IpAddr::from(Ipv4Addr::from_bits(0x0a60_0001 + number));
        let service = Service {
            name: name(number),
            kind: ServiceKind::ClusterIp(vec![address]),
            ports: vec![ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: None,
            }],
            foreign_proxy: false,
            traffic: Traffic::default(),
        };
        cluster.apply(Event::ServiceApplied(service.into()), &mut Dirty::default());
        cluster.apply(slice(number, ENDPOINTS), &mut Dirty::default());
    }
    cluster
}

fn compile(
    compiler: &mut Compiler,
    cluster: &Cluster,
    before: &Services,
    services: impl Iterator<Item = u32>,
) -> Services {
    let compiled = services.flat_map(|number| compiler.compile(cluster, &name(number), &BTreeSet::new()));
    let tables: Vec<_> = compiled.map(|one| (one.frontend, Some(one.table))).collect();
    before.with(tables)
}

fn rules(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rules");
    let mut cluster = cluster();
    let empty = Services::new([]);
    group.sample_size(10);
    group.bench_function("compile_10000_services_of_10", |bencher| {
        bencher.iter_batched_ref(
            Compiler::default,
            |compiler| compile(compiler, &cluster, &empty, 0..SERVICES),
            BatchSize::PerIteration,
        );
    });
    let mut compiler = Compiler::default();
    let mut services = compile(&mut compiler, &cluster, &empty, 0..SERVICES);
    let mut endpoints = ENDPOINTS;
    group.sample_size(100);
    group.bench_function("change_one_endpoint_of_10000_services", |bencher| {
        bencher.iter(|| {
            endpoints = if endpoints == ENDPOINTS { ENDPOINTS - 1 } else { ENDPOINTS };
            cluster.apply(slice(77, endpoints), &mut Dirty::default());
            services = compile(&mut compiler, &cluster, &services, std::iter::once(77));
        });
    });
    group.finish();
}

/// XDP maps that take everything; in a gateway each call is a system call.
struct Maps;

impl Steering for Maps {
    fn insert_endpoint(&mut self, _: &EndpointKey) -> anyhow::Result<()> {
        Ok(())
    }

    fn remove_endpoint(&mut self, _: &EndpointKey) -> anyhow::Result<()> {
        Ok(())
    }

    fn insert_frontend(&mut self, _: Frontend) -> anyhow::Result<()> {
        Ok(())
    }

    fn remove_frontend(&mut self, _: Frontend) -> anyhow::Result<()> {
        Ok(())
    }
}

/// All that an event goes through until a worker has its table, in one thread.
struct Followed {
    cluster: Cluster,
    publication: Publication<Maps>,
    worker: Subscriber,
}

impl Followed {
    fn new() -> Self {
        let (publisher, mut workers) = Publisher::new(Snapshot::empty(Services::new([])), 1);
        let zone = Zone::new(ZoneSettings::default()).expect("the default settings are good");
        let names = Arc::new(ArcSwap::from_pointee(zone));
        let linger = Duration::from_secs(1);
        let mut followed = Self {
            cluster: cluster(),
            publication: Publication::new(Maps, publisher, Compiler::default(), names, linger),
            worker: workers.pop().expect("one worker"),
        };
        let services = (0..SERVICES).map(name).collect();
        let all = Dirty { services, ..Dirty::default() };
        followed.publication.apply(&followed.cluster, &all, Instant::now());
        followed.settle();
        followed
    }

    /// Tells of one Service's endpoints and returns how long it took until a call's first packet goes by them.
    fn change(&mut self, number: u32, endpoints: u32) -> Duration {
        let event = slice(number, endpoints);
        let start = Instant::now();
        let mut dirty = Dirty::default();
        self.cluster.apply(event, &mut dirty);
        self.publication.apply(&self.cluster, &dirty, start);
        let address = Ipv4Addr::from_bits(0x0a60_0001 + number);
        let Called::Port(port) = self.worker.refresh().called(address.into(), Protocol::Tcp, Port::new(80))
        else {
            panic!("the Service has no port 80");
        };
        let request = Key::new(
            (Ipv4Addr::new(10, 1, 0, 2), Port::new(40_000)),
            (address, Port::new(80)),
            Protocol::Tcp,
        );
        assert!(port.backends.choose(&request).is_some());
        let taken = start.elapsed();
        assert_eq!(port.backends.members().len(), endpoints as usize, "the worker has the table");
        self.settle();
        taken
    }

    fn settle(&mut self) {
        while !self.publication.is_settled() {
            self.worker.refresh();
            self.publication.advance(&self.cluster, Instant::now());
        }
    }
}

/// One endpoint comes or goes, each time at another Service.
fn event_to_packet(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rules");
    group.sample_size(100);
    let (mut followed, mut next, mut all) = (None, 0, Vec::new());
    group.bench_function("event_to_first_packet_among_10000_services", |bencher| {
        let followed = followed.get_or_insert_with(Followed::new);
        bencher.iter_custom(|changes| {
            (0..changes)
                .map(|_| {
                    next += 1;
                    let endpoints = ENDPOINTS - next / SERVICES % 2 - 1;
                    let taken = followed.change(next * 77 % SERVICES, endpoints);
                    all.push(taken);
                    taken
                })
                .sum()
        });
    });
    group.finish();
    all.sort_unstable();
    if let (Some(median), Some(high), Some(most)) =
        (all.get(all.len() / 2), all.get(all.len() * 99 / 100), all.last())
    {
        println!("{} changes: p50 {median:?}, p99 {high:?}, longest {most:?}", all.len());
    }
}

criterion_group!(benches, rules, event_to_packet);
criterion_main!(benches);
