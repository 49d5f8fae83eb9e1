//! Path MTU discovery over both families, traceroute and refusals of pods: ICMP errors through the real binary in the
//! namespace rig.

mod rig;

use rig::gateway::Gateway;
use rig::manifests::{dual_stack_service, pod, service};
use rig::{BOTH, CLIENT, CLIENT_IPV6, ENT_DEV, Rig, Shape};

/// ClusterIPs of the Service `ent` in `far`, whose one pod is two routers away.
const ENT_FAR: &str = "10.96.3.10";
const ENT_FAR_IPV6: &str = "fd00:96::310";
const FAR_POD: &str = "10.250.2.2";
const FAR_POD_IPV6: &str = "fd00:250:2::2";
const NEAR_ROUTER: &str = "10.244.0.31";
/// ClusterIP of a Service whose pods listen at none of its ports.
const DEAF: &str = "10.96.1.55";
/// The gateway's own address on the client's link.
const GATEWAY: &str = "10.1.0.1";
/// Octets of a transfer that has many packets of every length that is ever tried.
const TRANSFER: &str = "10000000";

/// Adds a Service whose pod is behind two routers, with a link of that MTU between them.
///
/// gw ── LAN ── near-router ──(mtu)── far-router ── far-1
fn add_far_pod(rig: &Rig, mtu: u32) {
    rig.add_host("near-router", NEAR_ROUTER);
    for (name, spare) in [("far-router", "10.244.0.32"), ("far-1", "10.244.0.33")] {
        rig.add_host(name, spare);
        rig.output(name, &["ip", "link", "del", "eth0"]);
    }
    rig.join([("near-router", "far0", "10.250.1.1/24", mtu), ("far-router", "near0", "10.250.1.2/24", mtu)]);
    let far_pod = format!("{FAR_POD}/24");
    rig.join([("far-router", "pod0", "10.250.2.1/24", 1500), ("far-1", "eth0", &far_pod, 1500)]);
    for (namespace, network, router) in [
        ("gw", "10.250.0.0/16", NEAR_ROUTER),
        ("near-router", "10.250.2.0/24", "10.250.1.2"),
        ("far-router", "default", "10.250.1.1"),
        ("far-1", "default", "10.250.2.1"),
    ] {
        rig.output(namespace, &["ip", "route", "add", network, "via", router]);
    }
    for router in ["near-router", "far-router"] {
        rig.output(router, &["sysctl", "-w", "net.ipv4.ip_forward=1"]);
    }
    rig.start_peer("far-1", &["serve", "far-1"]);
    rig.manifests.write("ent-far.yaml", &service("far", "ent", ENT_FAR, "enterprise"));
    rig.manifests.write_pod("far-1", FAR_POD);
}

/// As [`add_far_pod`], with addresses of both families and the least MTU that IPv6 allows.
fn add_far_pod_of_both_families(rig: &Rig) {
    add_far_pod(rig, 1280);
    for (namespace, device, address) in [
        ("near-router", "far0", "fd00:250:1::1/64"),
        ("far-router", "near0", "fd00:250:1::2/64"),
        ("far-router", "pod0", "fd00:250:2::1/64"),
        ("far-1", "eth0", "fd00:250:2::2/64"),
    ] {
        rig.output(namespace, &["ip", "addr", "add", address, "dev", device, "nodad"]);
    }
    for (namespace, network, router) in [
        ("gw", "fd00:250:2::/64", "fd00:244::31"),
        ("near-router", "fd00:250:2::/64", "fd00:250:1::2"),
        ("far-router", "default", "fd00:250:1::1"),
        ("far-1", "default", "fd00:250:2::1"),
    ] {
        rig.output(namespace, &["ip", "-6", "route", "add", network, "via", router]);
    }
    for router in ["near-router", "far-router"] {
        rig.output(router, &["sysctl", "-w", "net.ipv6.conf.all.forwarding=1"]);
    }
    let addresses = [ENT_FAR, ENT_FAR_IPV6];
    rig.manifests.write("ent-far.yaml", &dual_stack_service("far", "ent", addresses, "enterprise"));
    let first = format!("{{ip: {FAR_POD}}}");
    let far_pod = pod("far-1", FAR_POD).replace(&first, &format!("{first}, {{ip: \"{FAR_POD_IPV6}\"}}"));
    rig.manifests.write("pod-far-1.yaml", &far_pod);
}

/// An address as it stands in a URL.
fn host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Sends to a Service and compares the digests of both sides.
#[track_caller]
fn assert_upload_arrives(rig: &Rig, address: &str) {
    let address = host(address);
    let script = format!(
        "set -o pipefail; head -c {TRANSFER} /dev/urandom >/dev/shm/tidegate-upload.$$;
         sha256sum </dev/shm/tidegate-upload.$$ | cut -d' ' -f1;
         curl -sS --max-time 15 -H Expect: -T /dev/shm/tidegate-upload.$$ http://{address}:8080/;
         status=$?; rm /dev/shm/tidegate-upload.$$; exit $status"
    );
    let digests = rig.output("jump", &["bash", "-c", &script]);
    let (sent, arrived) = digests.split_once('\n').unwrap_or_else(|| panic!("one digest only: {digests}"));
    assert_eq!(sent, arrived);
}

/// Fetches from a Service and compares with what the pod itself gives.
#[track_caller]
fn assert_download_arrives(rig: &Rig, client: &str, address: &str, pod: &str) {
    let digest = |namespace: &str, host: &str| {
        let fetch = format!("curl -sS --max-time 15 http://{host}:8080/bytes/{TRANSFER} | sha256sum");
        rig.output(namespace, &["bash", "-o", "pipefail", "-c", &fetch])
    };
    assert_eq!(digest(client, &host(address)), digest(pod, "127.0.0.1"));
}

/// Asserts what a host has learned of the path to a destination.
#[track_caller]
fn assert_path_mtu(rig: &Rig, namespace: &str, destination: &str, mtu: u32) {
    let learned = rig.output(namespace, &["ip", "route", "get", destination]);
    assert!(learned.contains(&format!("mtu {mtu}")), "{namespace} to {destination}: {learned}");
}

#[test]
fn a_transfer_finishes_when_a_link_behind_is_shorter() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    add_far_pod(&rig, 1200);
    let gateway = Gateway::start(&rig);
    assert_upload_arrives(&rig, ENT_FAR);
    assert_path_mtu(&rig, "jump", ENT_FAR, 1200);
    assert_download_arrives(&rig, "jump", ENT_FAR, "far-1");
    let counters = gateway.assert_accounts_balance();
    assert!(counters.drops().is_empty(), "{counters:#?}");
    assert_eq!((counters.value("answered"), counters.value("punted")), (0, 0), "{counters:#?}");
}

#[test]
fn a_transfer_finishes_when_a_link_before_the_client_is_shorter() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.add_host("remote", "10.244.0.34");
    rig.output("remote", &["ip", "link", "del", "eth0"]);
    // The remote client does not know that its link is short, so it asks for whole segments.
    rig.join([("jump", "remote0", "10.3.0.1/24", 1200), ("remote", "eth0", "10.3.0.2/24", 1500)]);
    rig.output("jump", &["sysctl", "-w", "net.ipv4.ip_forward=1"]);
    rig.output("remote", &["ip", "route", "add", "default", "via", "10.3.0.1"]);
    rig.output("gw", &["ip", "route", "add", "10.3.0.0/24", "via", CLIENT]);
    rig.manifests.remove_pod("dev-2");
    let gateway = Gateway::start(&rig);
    assert_download_arrives(&rig, "remote", ENT_DEV, "dev-1");
    assert_path_mtu(&rig, "dev-1", "10.3.0.2", 1200);
    let counters = gateway.assert_accounts_balance();
    assert!(counters.drops().is_empty(), "{counters:#?}");
    assert_eq!((counters.value("answered"), counters.value("punted")), (0, 0), "{counters:#?}");
}

#[test]
fn a_transfer_finishes_when_the_gateways_own_link_is_shorter() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.output("gw", &["ip", "link", "set", "pods0", "mtu", "1200"]);
    let gateway = Gateway::start(&rig);
    assert_upload_arrives(&rig, ENT_DEV);
    assert_path_mtu(&rig, "jump", ENT_DEV, 1200);
    let counters = gateway.assert_accounts_balance();
    assert!(counters.drops().is_empty(), "{counters:#?}");
    let told = counters.value("answered_fragmentation_needed");
    assert!(told > 0 && told == counters.value("answered"), "{counters:#?}");
}

#[test]
fn over_ipv6_a_transfer_finishes_when_a_link_behind_is_shorter() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    add_far_pod_of_both_families(&rig);
    let gateway = Gateway::start(&rig);
    assert_upload_arrives(&rig, ENT_FAR_IPV6);
    assert_path_mtu(&rig, "jump", ENT_FAR_IPV6, 1280);
    assert_download_arrives(&rig, "jump", ENT_FAR_IPV6, "far-1");
    let counters = gateway.assert_accounts_balance();
    assert!(counters.drops().is_empty(), "{counters:#?}");
    assert_eq!((counters.value("answered"), counters.value("punted")), (0, 0), "{counters:#?}");
}

#[test]
fn over_ipv6_a_transfer_finishes_when_a_link_before_the_client_is_shorter() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.add_host("remote", "10.244.0.34");
    rig.output("remote", &["ip", "link", "del", "eth0"]);
    // The remote client does not know that its link is short, so it asks for whole segments.
    rig.join([("jump", "remote0", "10.3.0.1/24", 1280), ("remote", "eth0", "10.3.0.2/24", 1500)]);
    for (namespace, device, address) in
        [("jump", "remote0", "fd00:3::1/64"), ("remote", "eth0", "fd00:3::2/64")]
    {
        rig.output(namespace, &["ip", "addr", "add", address, "dev", device, "nodad"]);
    }
    rig.output("jump", &["sysctl", "-w", "net.ipv6.conf.all.forwarding=1"]);
    rig.output("remote", &["ip", "-6", "route", "add", "default", "via", "fd00:3::1"]);
    rig.output("gw", &["ip", "-6", "route", "add", "fd00:3::/64", "via", CLIENT_IPV6]);
    rig.manifests.remove_pod("dev-2");
    let gateway = Gateway::start(&rig);
    assert_download_arrives(&rig, "remote", BOTH[1], "dev-1");
    assert_path_mtu(&rig, "dev-1", "fd00:3::2", 1280);
    let counters = gateway.assert_accounts_balance();
    assert!(counters.drops().is_empty(), "{counters:#?}");
    assert_eq!((counters.value("answered"), counters.value("punted")), (0, 0), "{counters:#?}");
}

#[test]
fn over_ipv6_a_transfer_finishes_when_the_gateways_own_link_is_shorter() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.output("gw", &["ip", "link", "set", "pods0", "mtu", "1280"]);
    let gateway = Gateway::start(&rig);
    assert_upload_arrives(&rig, BOTH[1]);
    assert_path_mtu(&rig, "jump", BOTH[1], 1280);
    let counters = gateway.assert_accounts_balance();
    assert!(counters.drops().is_empty(), "{counters:#?}");
    let told = counters.value("answered_fragmentation_needed");
    assert!(told > 0 && told == counters.value("answered"), "{counters:#?}");
}

/// The addresses that traceroute shows, hop by hop.
#[track_caller]
fn hops(rig: &Rig, method: &[&str], address: &str) -> Vec<String> {
    let traceroute = ["traceroute", "-n", "-q", "1", "-w", "2", "-m", "8"];
    let said = rig.output("jump", &[&traceroute, method, &[address]].concat());
    let hop = |line: &str| line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    said.lines().skip(1).map(hop).collect()
}

#[test]
fn traceroute_to_a_cluster_ip_shows_the_gateway_and_then_the_service() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    for method in [&[][..], &["-I"], &["-T", "-p", "8080"], &["-U", "-p", "8080"]] {
        assert_eq!(hops(&rig, method, ENT_DEV), [GATEWAY, ENT_DEV], "{method:?}");
    }
    let counters = gateway.assert_accounts_balance();
    assert!(counters.value("answered_time_exceeded") >= 4, "{counters:#?}");
}

#[test]
fn traceroute_shows_the_routers_behind_by_their_own_addresses() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    add_far_pod(&rig, 1200);
    let gateway = Gateway::start(&rig);
    let seen = hops(&rig, &["-T", "-p", "8080"], ENT_FAR);
    assert_eq!(seen, [GATEWAY, NEAR_ROUTER, "10.250.1.2", ENT_FAR]);
    gateway.assert_accounts_balance();
}

#[test]
fn a_pod_port_where_nobody_listens_refuses_datagrams_of_the_client() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let deaf = service("dev", "deaf", DEAF, "enterprise").replace("targetPort: 8080", "targetPort: 7000");
    rig.manifests.write("deaf.yaml", &deaf);
    let gateway = Gateway::start(&rig);
    assert_eq!(rig.peer("jump", &["udp", DEAF, "8080", "hello"]), "refused");
    let counters = gateway.assert_accounts_balance();
    assert_eq!(counters.value("answered"), 0, "the pod refused, not the gateway: {counters:#?}");
    assert_eq!(counters.value("forwarded"), 2, "the datagram and the error: {counters:#?}");
}
