//! How the gateway does with a great cluster: figures, and the bounds that they must keep. Ignored by default, since
//! they mean something only of an optimised build on a quiet machine; the crate's README has the command.

mod api_server;
mod rig;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use api_server::listener::Listener;
use api_server::objects::{service, slice};
use api_server::{ApiServer, NAMESPACES, SERVICES, SLICES};
use rig::gateway::Gateway;
use rig::traffic::Traffic;
use rig::{ENT_DEV, Rig, Shape};
use serde_json::{Value, json};

const ENDPOINTS: u32 = 10;
/// Changes of endpoints a second, and for how long.
const CHANGES: u32 = 1000;
const SECONDS: u32 = 10;

fn services() -> u32 {
    std::env::var("TIDEGATE_SCALE_SERVICES").map_or(10_000, |text| text.parse().unwrap())
}

/// Endpoints are shared by so many Services, so that more of them fit into the XDP program's maps.
fn shared_by() -> u32 {
    std::env::var("TIDEGATE_SCALE_SHARED_BY").map_or(1, |text| text.parse().unwrap())
}

fn address(base: [u8; 4], number: u32) -> String {
    std::net::Ipv4Addr::from(u32::from_be_bytes(base) + number).to_string()
}

/// A Service as others of great clusters are: one port, labels, and what tools note in it.
fn great_service(number: u32) -> Value {
    let mut object = service("great", &format!("s{number}"), &address([10, 97, 0, 0], number));
    object["spec"]["ports"] = json!([{ "name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080 }]);
    object["metadata"]["labels"] = json!({ "app.kubernetes.io/name": format!("app-{number}") });
    object["metadata"]["managedFields"] = json!([{ "manager": "kubectl", "fieldsV1": { "f:spec": {
        "f:ports": { ".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:name": {}, "f:port": {} } },
        "f:selector": {}, "f:sessionAffinity": {}, "f:type": {} } } }]);
    object
}

/// Its slice; `step` changes one of its endpoints.
fn great_slice(number: u32, step: u32) -> Value {
    let first = number / shared_by() * ENDPOINTS;
    let addresses: Vec<String> = (0..ENDPOINTS).map(|n| address([10, 128, 0, 0], first + n)).collect();
    let mut object =
        slice("great", &format!("s{number}"), &addresses.iter().map(String::as_str).collect::<Vec<_>>());
    object["ports"] = json!([{ "name": "http", "protocol": "TCP", "port": 8080 }]);
    for (n, endpoint) in object["endpoints"].as_array_mut().unwrap().iter_mut().enumerate() {
        endpoint["nodeName"] = format!("node-{}", (first + n as u32) % 500).into();
        endpoint["targetRef"] =
            json!({ "kind": "Pod", "namespace": "great", "name": format!("s{number}-7d4b9c6f5-{n:05}") });
    }
    if step % 2 == 1 {
        object["endpoints"][0]["conditions"]["ready"] = false.into();
    }
    object
}

/// Seconds of CPU that the control thread, and all threads but the workers, have used.
fn cpu_seconds(process: u32) -> (f64, f64) {
    let seconds = |stat: &str| {
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    };
    // Threads that have ended count in what the process has used.
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (mut control, mut all) = (0.0, seconds(&stat));
    for task in fs::read_dir(format!("/proc/{process}/task")).unwrap().map(Result::unwrap) {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap();
        if stat.contains("(worker-") {
            all -= seconds(&stat);
        } else if task.file_name().to_str() == Some(&process.to_string()) {
            control = seconds(&stat);
        }
    }
    (control, all)
}

/// MB of memory of a process by the words of its status.
fn memory(process: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let lines = status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("Rss"));
    let words = lines.map(|line| {
        let (name, rest) = line.split_once(':').unwrap();
        let kilobytes: u64 = rest.split_whitespace().next().unwrap().parse().unwrap();
        format!("{name} {} MB", kilobytes / 1000)
    });
    words.collect::<Vec<_>>().join(", ")
}

/// A metric that is one number.
fn figure(gateway: &Gateway<'_>, name: &str) -> u64 {
    let (_, body) = gateway.page("/metrics");
    let wanted = format!("tidegate_{name} ");
    body.lines().find_map(|line| line.strip_prefix(&wanted)).unwrap().parse().unwrap()
}

/// Bounds and counts of the buckets of a distribution.
fn buckets(gateway: &Gateway<'_>, name: &str) -> BTreeMap<u64, u64> {
    let (_, body) = gateway.page("/metrics");
    let wanted = format!("tidegate_{name}_bucket{{le=\"");
    let lines = body.lines().filter_map(|line| line.strip_prefix(&wanted)?.split_once("\"} "));
    let microseconds = |bound: &str| bound.parse::<f64>().map_or(u64::MAX, |seconds| (seconds * 1e6) as u64);
    lines.map(|(bound, count)| (microseconds(bound), count.parse().unwrap())).collect()
}

/// The bound below which that part of what was counted since lies.
fn quantile(before: &BTreeMap<u64, u64>, after: &BTreeMap<u64, u64>, part: f64) -> Duration {
    let grown: Vec<(u64, u64)> = after.iter().map(|(bound, count)| (*bound, count - before[bound])).collect();
    let wanted = (grown.last().unwrap().1 as f64 * part).ceil() as u64;
    let (bound, _) = grown.iter().find(|(_, count)| *count >= wanted).unwrap();
    Duration::from_micros(*bound)
}

struct Scene {
    rig: Rig,
    server: ApiServer,
    listener: Listener,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn set() -> Option<Self> {
        let rig = Rig::up(Shape::TwoInterfaces)?;
        let server = ApiServer::new();
        server.put_service("dev", "ent", ENT_DEV, &["10.244.0.11", "10.244.0.12"]);
        server.put(NAMESPACES, api_server::objects::namespace("great"));
        for number in 0..services() {
            server.put(SERVICES, great_service(number));
            server.put(SLICES, great_slice(number, 0));
        }
        server.forget_history();
        let directory = tempfile::tempdir().unwrap();
        let listener = Listener::start(&server, Some("tgtest-gw"), directory.path());
        Some(Self { rig, server, listener, _directory: directory })
    }

    /// Starts the gateway; returns the time from exec to the first answered packet, and to `ready:`.
    fn start(&self) -> (Gateway<'_>, Duration, Duration) {
        let traffic = Traffic::start(&self.rig, ENT_DEV, "8080");
        let kubeconfig = self.listener.kubeconfig().display().to_string();
        let endpoints = (services() * ENDPOINTS).max(262_144).next_power_of_two().to_string();
        let arguments = [
            ["--source", "kubernetes"],
            ["--kubeconfig", &kubeconfig],
            ["--frames", "4096"],
            ["--endpoints", &endpoints],
        ];
        let arguments = arguments.concat();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let answered = scope.spawn(move || {
                traffic.await_answer();
                begun.elapsed()
            });
            let gateway = Gateway::start_with(&self.rig, &arguments);
            let ready = begun.elapsed();
            (gateway, answered.join().unwrap(), ready)
        })
    }

    /// Changes endpoints at a steady rate.
    fn churn(&self, rate: u32, seconds: u32) -> Duration {
        let begun = Instant::now();
        let mut steps = BTreeMap::new();
        for change in 0..rate * seconds {
            let due = Duration::from_secs(1) * change / rate;
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
            // Each change is one: an endpoint that was ready is not, or is again.
            let number = change.wrapping_mul(2_654_435_761) % services();
            let step: &mut u32 = steps.entry(number).or_default();
            *step += 1;
            self.server.put(SLICES, great_slice(number, *step));
        }
        // As they were before.
        for (number, _) in steps.into_iter().filter(|(_, step)| step % 2 == 1) {
            self.server.put(SLICES, great_slice(number, 0));
        }
        begun.elapsed()
    }
}

#[test]
#[ignore = "figures of an optimised build on a quiet machine"]
fn ten_thousand_services() {
    let Some(scene) = Scene::set() else { return };
    let (gateway, first_packet, ready) = scene.start();
    println!("{} Services with {ENDPOINTS} endpoints each", services());
    let in_force = ["virtual_addresses", "endpoints", "services_short"].map(|name| figure(&gateway, name));
    println!("in force: virtual addresses, endpoints, and Services that lack something: {in_force:?}");
    assert_eq!((in_force[0], in_force[2]), (u64::from(services()) + 1, 0));
    println!("cold start: first packet after {first_packet:?}, ready after {ready:?}");
    println!("memory: {}", memory(gateway.id()));
    let idle = cpu_seconds(gateway.id());
    println!("CPU of the start: control thread {:.2} s, with helpers {:.2} s", idle.0, idle.1);

    for rate in [20, CHANGES] {
        let (before, cpu) = (buckets(&gateway, "event_to_packet_seconds"), cpu_seconds(gateway.id()));
        let published = figure(&gateway, "publications_total");
        let took = scene.churn(rate, SECONDS);
        std::thread::sleep(Duration::from_secs(1));
        let (after, spent) = (buckets(&gateway, "event_to_packet_seconds"), cpu_seconds(gateway.id()));
        let share = |before: f64, after: f64| (after - before) / took.as_secs_f64() * 100.0;
        let seen = after.values().max().unwrap() - before.values().max().unwrap();
        println!(
            "{rate} changes/s for {took:?}: {seen} timed, {} publications, event to packet p50 <= {:?}, p99 <= {:?}, \
             max <= {:?}, CPU of the control thread {:.0} %, with helpers {:.0} %",
            figure(&gateway, "publications_total") - published,
            quantile(&before, &after, 0.5),
            quantile(&before, &after, 0.99),
            quantile(&before, &after, 1.0),
            share(cpu.0, spent.0),
            share(cpu.1, spent.1),
        );
    }
    println!("memory: {}", memory(gateway.id()));
    gateway.stop();

    scene.listener.stop();
    let size = fs::metadata(scene.rig.state().join("cluster")).unwrap().len();
    let (gateway, first_packet, ready) = scene.start();
    println!(
        "start without the API server, from a file of {size} octets: first packet after {first_packet:?}, ready \
              after {ready:?}"
    );
    let (control, all) = cpu_seconds(gateway.id());
    println!("CPU of that start: control thread {control:.2} s, with helpers {all:.2} s");
    println!("memory: {}", memory(gateway.id()));
    assert!(gateway.page("/readyz").1.contains("stale"));
    if services() <= 10_000 && !cfg!(debug_assertions) {
        assert!(first_packet < Duration::from_secs(1), "{first_packet:?}");
    }
    gateway.stop();
}
