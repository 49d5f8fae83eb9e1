//! The packet path and its tables, at 1 k, 100 k and 1 M flows. What is measured and how: `bench/README.md`.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate_bench::bursts::{by_median, time};
use tidegate_bench::cluster;
use tidegate_bench::gateway::Gateway;
use tidegate_bench::order::Order;
use tidegate_bench::packet;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::flows::{Cursor, EndpointId, FlowTable, Key, NewFlow, ServicePortId, State};
use tidegate_dataplane::maglev::Maglev;
use tidegate_dataplane::net::{Protocol, tcp};
use tidegate_dataplane::worker::BURST;

const SIZES: [(&str, u32); 3] = [("1k", 1_000), ("100k", 100_000), ("1M", 1_000_000)];

/// Packets of known flows, half of them requests and half replies, never two of one flow in a burst.
fn established(criterion: &mut Criterion, name: &str, protocol: Protocol) {
    let mut group = criterion.benchmark_group(format!("process/{name}"));
    group.throughput(Throughput::Elements(BURST as u64));
    for (size, flows) in SIZES {
        let (mut gateway, mut order) = (None, Order::new(flows));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            let gateway = gateway.get_or_insert_with(|| Gateway::with_flows(flows, protocol));
            bencher.iter_custom(|bursts| {
                by_median(bursts, || gateway.carry(burst(gateway, &mut order, protocol)))
            });
        });
    }
}

fn burst(gateway: &Gateway, order: &mut Order, protocol: Protocol) -> Vec<[u8; packet::PACKET_BYTES]> {
    let packet = |(place, number): (usize, u32)| {
        let request = cluster::request(number, protocol);
        let key = if place % 2 == 0 { request } else { gateway.reply(&request) };
        gateway.packet(key, tcp::Flags::ACK)
    };
    order.take(BURST).enumerate().map(packet).collect()
}

fn established_udp(criterion: &mut Criterion) {
    established(criterion, "established_udp", Protocol::Udp);
}

fn established_tcp(criterion: &mut Criterion) {
    established(criterion, "established_tcp", Protocol::Tcp);
}

/// SYNs that open a flow each, in a table that holds so many others. They are removed again outside the time.
fn new_flow(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("process/new_flow");
    group.throughput(Throughput::Elements(BURST as u64));
    for (size, flows) in SIZES {
        let (mut gateway, mut order) = (None, Order::new(flows));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            let gateway = gateway.get_or_insert_with(|| Gateway::with_flows(flows, Protocol::Tcp));
            bencher.iter_custom(|bursts| by_median(bursts, || open(gateway, &mut order, flows)));
        });
    }
}

fn open(gateway: &mut Gateway, order: &mut Order, flows: u32) -> Duration {
    let requests: Vec<Key> =
        order.take(BURST).map(|number| cluster::request(flows + number, Protocol::Tcp)).collect();
    let taken = gateway.carry(requests.iter().map(|key| packet::tcp(key, tcp::Flags::SYN)));
    assert_eq!(gateway.flows.len(), flows as usize + BURST, "every SYN opened a flow");
    for key in &requests {
        let found = gateway.flows.ipv4.lookup(gateway.flows.ipv4.hash(key), key);
        assert!(found.is_some_and(|found| gateway.flows.ipv4.remove(found.flow)));
    }
    taken
}

fn echo(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("process");
    group.throughput(Throughput::Elements(BURST as u64));
    let mut gateway = Gateway::new(1);
    let echoes: Vec<_> =
        (0..BURST as u32).map(|number| packet::echo(&cluster::request(number, Protocol::Udp))).collect();
    group.bench_function("echo", |bencher| {
        bencher.iter_custom(|bursts| by_median(bursts, || gateway.carry(echoes.iter().copied())));
    });
}

fn maglev(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("maglev/build");
    for members in [10, 100, 1000_u64] {
        let identities: Vec<u64> = (0..members).collect();
        group.bench_function(BenchmarkId::from_parameter(members), |bencher| {
            bencher.iter_custom(|builds| by_median(builds, || time(|| Maglev::new(&identities))));
        });
    }
}

/// Look-ups as a burst makes them: hash and prefetch all, then the records of all, then look each up.
fn lookups(criterion: &mut Criterion, name: &str, is_hit: bool) {
    let mut group = criterion.benchmark_group(format!("flows/{name}"));
    group.throughput(Throughput::Elements(BURST as u64));
    for (size, flows) in SIZES {
        let (mut table, mut order) = (None, Order::new(flows));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            let table = table.get_or_insert_with(|| table_of(flows));
            let first = if is_hit { 0 } else { flows };
            bencher.iter_custom(|bursts| {
                by_median(bursts, || {
                    let numbers = (&mut order).take(BURST);
                    let keys: Vec<Key> =
                        numbers.map(|number| cluster::request(first + number, Protocol::Udp)).collect();
                    look_up(table, &keys, is_hit)
                })
            });
        });
    }
}

fn look_up(table: &FlowTable, keys: &[Key], is_hit: bool) -> Duration {
    let mut hashes = Vec::with_capacity(keys.len());
    let start = Instant::now();
    for key in keys {
        let hash = table.hash(key);
        table.prefetch(hash);
        hashes.push(hash);
    }
    hashes.iter().for_each(|hash| {
        table.prefetch_record(*hash);
    });
    let found = hashes.iter().zip(keys).filter(|(hash, key)| table.lookup(**hash, key).is_some()).count();
    let taken = start.elapsed();
    assert_eq!(found, if is_hit { keys.len() } else { 0 });
    taken
}

fn lookup_hit(criterion: &mut Criterion) {
    lookups(criterion, "lookup_hit", true);
}

fn lookup_miss(criterion: &mut Criterion) {
    lookups(criterion, "lookup_miss", false);
}

/// Flows that come in and go again by their time-out, in a table of twice their number.
fn insert_expire(criterion: &mut Criterion) {
    const FLOWS: u32 = 1024;
    let table = FlowTable::in_memory(2 * FLOWS).expect("memory for flows");
    let flows: Vec<NewFlow> = (0..FLOWS).map(flow).collect();
    let mut cursor = Cursor::part(0, 1);
    let mut group = criterion.benchmark_group("flows");
    group.throughput(Throughput::Elements(u64::from(FLOWS)));
    group.bench_function("insert_expire", |bencher| {
        let mut round = || {
            for flow in &flows {
                table.insert(flow, Now::from_seconds(0)).expect("room for every flow");
            }
            let expired = table.expire(&mut cursor, Now::from_seconds(1_000), 2 * FLOWS as usize);
            assert_eq!(expired, FLOWS as usize);
        };
        bencher.iter_custom(|rounds| by_median(rounds, || time(&mut round)));
    });
}

fn flow(number: u32) -> NewFlow {
    let request = cluster::request(number, Protocol::Udp);
    let reply = Key { source: cluster::virtual_address(number % 7 + 1_000), ..request.reversed() };
    NewFlow {
        request,
        reply,
        service: ServicePortId(1),
        endpoint: EndpointId(1),
        ip_difference: 1,
        transport_difference: 2,
        state: State::UdpStream,
        account: 0,
    }
}

fn table_of(flows: u32) -> FlowTable {
    let table = FlowTable::in_memory(flows + flows / 3).expect("memory for flows");
    for number in 0..flows {
        table.insert(&flow(number), Now::read()).expect("room for every flow");
    }
    table
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = established_udp, established_tcp, new_flow, echo, maglev, lookup_hit, lookup_miss, insert_expire
}
criterion_main!(benches);
