//! From the cluster to tables: everything anew, and one change.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use tidegate::cluster::{
    Cluster, Dirty, Endpoint, EndpointSlice, Event, ObjectName, Service, ServiceKind, ServicePort, SlicePort,
};
use tidegate::tables::Compiler;
use tidegate::traffic::Traffic;
use tidegate_dataplane::net::Protocol;
use tidegate_dataplane::services::Services;

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;

fn name(number: u32) -> ObjectName {
    ObjectName::new("dev", &format!("s{number}"))
}

fn slice(number: u32, endpoints: u32) -> Event {
    let endpoint = |place| Endpoint {
        address: Ipv4Addr::from_bits(0x0af4_0000 + number * 16 + place).into(),
        hostname: None,
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zone: None,
        pod: None,
        hints: None,
    };
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

criterion_group!(benches, rules);
criterion_main!(benches);
