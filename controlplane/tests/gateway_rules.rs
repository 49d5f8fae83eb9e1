//! The rules of a Service with real programs, through the real binary in the namespace rig.

mod rig;

use std::collections::BTreeSet;
use std::time::Duration;

use rig::conversation::Watch;
use rig::gateway::Gateway;
use rig::traffic::Stream;
use rig::{CLIENT, Rig, Shape, eventually};
use tidegate_dataplane::clock::Now;

const PATIENCE: Duration = Duration::from_secs(10);
const ADDRESS: &str = "10.96.1.77";
const EXTERNAL: &str = "203.0.113.80";
const NODE: &str = "10.1.0.1";

/// A Service with HTTP and UDP on 8080 and lines on 9000, whose slices the test writes.
fn service(spec: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: solo, namespace: dev}}
spec:
  clusterIP: {ADDRESS}
  type: NodePort
  externalIPs: [{EXTERNAL}]
{spec}  ports:
    - {{name: http, protocol: TCP, port: 8080, nodePort: 30080}}
    - {{name: echo, protocol: UDP, port: 8080, nodePort: 30080}}
    - {{name: line, protocol: TCP, port: 9000, nodePort: 30090}}
"
    )
}

/// Its slice, with these endpoints and their nodes.
fn slice(endpoints: &[(&str, &str)]) -> String {
    let endpoints: String = endpoints
        .iter()
        .map(|(address, node)| format!("  - {{addresses: [{address}], nodeName: {node}}}\n"))
        .collect();
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: solo-1, namespace: dev, labels: {{kubernetes.io/service-name: solo}}}}
addressType: IPv4
ports:
  - {{name: http, protocol: TCP, port: 8080}}
  - {{name: echo, protocol: UDP, port: 8080}}
  - {{name: line, protocol: TCP, port: 9000}}
endpoints:
{endpoints}"
    )
}

const BOTH: [(&str, &str); 2] = [("10.244.0.11", "here"), ("10.244.0.12", "there")];

/// The pod that answers a request, and the address that it saw.
#[track_caller]
fn answer(rig: &Rig, address: &str, port: u16) -> (String, String) {
    let seen = rig.curl(&format!("http://{address}:{port}/"));
    assert_eq!(seen.status, 0, "{address}:{port}: {}", seen.errors);
    let (pod, source) = seen.output.split_once(' ').unwrap();
    (pod.to_owned(), source.to_owned())
}

fn pods(rig: &Rig, address: &str, port: u16) -> BTreeSet<String> {
    (0..10).map(|_| answer(rig, address, port).0).collect()
}

#[test]
fn k16_k17_node_ports_and_external_addresses_lead_to_pods_that_see_the_client() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.manifests.write("solo.yaml", &service(""));
    rig.manifests.write("solo-slice.yaml", &slice(&BOTH));
    let gateway = Gateway::start(&rig);
    for (address, port) in [(ADDRESS, 8080), (EXTERNAL, 8080), (NODE, 30_080), ("10.244.0.1", 30_080)] {
        let (pod, source) = answer(&rig, address, port);
        assert!(pod.starts_with("dev-"), "{pod} answers at {address}");
        assert_eq!(source, CLIENT, "at {address}");
        assert!(
            rig.peer("jump", &["udp", address, &port.to_string(), "hello"]).contains("hello"),
            "{address}"
        );
    }
    assert_eq!(rig.curl(&format!("http://{NODE}:30081/")).status, 7, "the kernel refuses what nobody serves");
    assert_eq!(gateway.assert_accounts_balance().drops(), [].into());
    let (_, metrics) = gateway.page("/metrics");
    let connections = "tidegate_service_connections_total{namespace=\"dev\",service=\"solo\",port=\"http\",protocol=\"TCP\"} 4";
    assert!(metrics.lines().any(|line| line == connections), "{metrics}");
}

#[test]
fn k14_a_client_stays_with_its_pod_by_affinity() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.manifests.write("solo.yaml", &service("  sessionAffinity: ClientIP\n"));
    rig.manifests.write("solo-slice.yaml", &slice(&BOTH));
    let gateway = Gateway::start_with(&rig, &["--metrics-endpoints"]);
    let all: BTreeSet<String> = [(ADDRESS, 8080), (EXTERNAL, 8080), (NODE, 30_080)]
        .into_iter()
        .flat_map(|(at, port)| pods(&rig, at, port))
        .collect();
    assert_eq!(all.len(), 1, "{all:?}");
    let (_, metrics) = gateway.page("/metrics");
    let counted: Vec<_> = metrics
        .lines()
        .filter(|line| {
            line.starts_with("tidegate_service_connections_total") && line.contains("port=\"http\"")
        })
        .filter(|line| line.contains("endpoint=\"10.244.0.1") && line.ends_with(" 30"))
        .collect();
    assert_eq!(counted.len(), 1, "all 30 are the one endpoint's: {metrics}");
    gateway.assert_accounts_balance();
}

#[test]
fn k20_k32_a_node_serves_its_own_pods_where_the_policy_is_local_and_says_so_to_balancers() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let policy = "  externalTrafficPolicy: Local\n  healthCheckNodePort: 32000\n";
    let balanced = service(policy).replace("NodePort\n", "LoadBalancer\n");
    rig.manifests.write("solo.yaml", &balanced);
    rig.manifests.write("solo-slice.yaml", &slice(&BOTH));
    let gateway = Gateway::start_with(&rig, &["--node-name", "here"]);
    assert_eq!(pods(&rig, EXTERNAL, 8080), ["dev-1".to_owned()].into());
    assert_eq!(pods(&rig, NODE, 30_080), ["dev-1".to_owned()].into());
    assert_eq!(pods(&rig, ADDRESS, 8080).len(), 2, "the ClusterIP has another policy");
    let health = rig.curl(&format!("http://{NODE}:32000/"));
    assert!(health.output.contains("\"localEndpoints\":1"), "{} {}", health.output, health.errors);
    rig.manifests.write("solo-slice.yaml", &slice(&BOTH[1..]));
    eventually("silence at the external address", PATIENCE, || {
        let seen = rig.run("jump", &["curl", "-sS", "--max-time", "1", &format!("http://{EXTERNAL}:8080/")]);
        (seen.status == 28).then_some(())
    });
    let code = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://10.1.0.1:32000/"];
    assert_eq!(rig.output("jump", &code), "503");
    assert!(gateway.assert_accounts_balance().value("drop_no_local_endpoint") > 0);
}

#[test]
fn k27_a_udp_sender_with_one_port_goes_on_when_its_pod_is_replaced() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.manifests.write("solo.yaml", &service(""));
    rig.manifests.write("solo-slice.yaml", &slice(&BOTH[..1]));
    let gateway = Gateway::start(&rig);
    let stream = Stream::start(&rig, ADDRESS, "8080");
    rig.manifests.write("solo-slice.yaml", &slice(&BOTH[1..]));
    eventually("the sender goes elsewhere", PATIENCE, || {
        (gateway.counters().value("flows_repicked") > 0).then_some(())
    });
    rig.remove_pod("dev-1");
    std::thread::sleep(Duration::from_millis(300));
    let silence = stream.longest_silence();
    println!("longest silence of a UDP sender whose pod was replaced: {silence:?}");
    assert!(silence < Duration::from_secs(1), "{silence:?}");
    gateway.assert_accounts_balance();
}

#[test]
fn k26_a_thousand_silent_connections_to_a_pod_that_died_are_told_soon_after_the_grace_time() {
    const CONNECTIONS: u32 = 1000;
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.manifests.write("solo.yaml", &service(""));
    rig.manifests.write("solo-slice.yaml", &slice(&BOTH[..1]));
    let gateway = Gateway::start(&rig);
    let watch = Watch::open(&rig, ADDRESS, "9000", CONNECTIONS);
    // It dies without a word: no FIN, no RST.
    let fall_silent = "for link in $(ls /sys/class/net | grep -v '^lo$'); do ip link set $link down; done";
    rig.output("dev-1", &["bash", "-c", fall_silent]);
    let removed = Now::read().ns();
    rig.manifests.write("solo-slice.yaml", &slice(&BOTH[1..]));
    let mut resets = watch.resets();
    assert_eq!(resets.len(), CONNECTIONS as usize);
    resets.sort_unstable();
    let grace_end = removed + 1_000_000_000;
    let after = |place: usize| Duration::from_nanos(resets[place].saturating_sub(grace_end));
    println!(
        "{CONNECTIONS} connections told after the file was written and a grace time of 1 s: p50 {:?}, p99 {:?}, max {:?}; the first after {:?}",
        after(499),
        after(989),
        after(999),
        after(0)
    );
    assert!(resets[0] >= grace_end, "none within the grace time");
    assert!(after(999) < Duration::from_secs(3));
    assert_eq!(gateway.counters().value("flows_reset"), u64::from(CONNECTIONS));
    gateway.assert_accounts_balance();
}
