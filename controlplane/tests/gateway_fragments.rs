//! Datagrams longer than a link allows, through the real binary in the namespace rig.

mod rig;

use rig::gateway::Gateway;
use rig::manifests::dual_stack_service;
use rig::{BOTH, CLIENT, CLIENT_IPV6, ENT_DEV, ENT_PROD, Rig, Shape};

/// ClusterIPs of a DNS server of the cluster's own.
const NAMES: [&str; 2] = ["10.96.1.53", "fd00:96::153"];

/// Fragments of a UDP datagram of that many octets of data over a link of 1,500, by the family of its address.
fn fragments(address: &str, octets: u64) -> u64 {
    // All but the last carry a multiple of eight octets; those of IPv6 have a header more.
    (octets + 8).div_ceil(if address.contains(':') { 1448 } else { 1480 })
}

#[test]
fn long_datagrams_pass_both_ways_and_none_is_lost() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.manifests.remove_pod("dev-2");
    let gateway = Gateway::start(&rig);
    for (address, client) in BOTH.into_iter().zip([CLIENT, CLIENT_IPV6]) {
        assert!(rig.peer("jump", &["udp", address, "8080", "neighbours are known now"]).starts_with("dev-1"));
        for octets in [2000, 20_000] {
            let before = gateway.assert_accounts_balance();
            assert_eq!(rig.peer("jump", &["echoes", address, "8080", &octets.to_string(), "200"]), "200");
            let after = gateway.assert_accounts_balance();
            let name_and_client = format!("dev-1 {client} ").len() as u64;
            let both_ways = fragments(address, octets) + fragments(address, octets + name_and_client);
            assert_eq!(after.grown(&before, "forwarded"), 200 * both_ways, "{address}: {after:#?}");
            assert_eq!(after.value("held"), 0, "{after:#?}");
            assert_eq!(after.drops(), before.drops());
        }
    }
    gateway.stop();
}

#[test]
fn a_long_answer_of_a_dns_server_behind_a_service_arrives() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    for pod in ["dev-1", "dev-2"] {
        rig.start_peer(pod, &["serve-dns", "192.0.2.1", "200"]);
    }
    let names = dual_stack_service("dev", "names", NAMES, "enterprise").replace(
        "{name: echo, protocol: UDP, port: 8080, targetPort: 8080}",
        "{name: dns, protocol: UDP, port: 53}",
    );
    rig.manifests.write("names.yaml", &names);
    let gateway = Gateway::start(&rig);
    for address in NAMES {
        let server = format!("@{address}");
        let said =
            rig.output("jump", &["dig", &server, "+short", "+ignore", "+bufsize=4096", "long.example"]);
        assert_eq!(said.lines().filter(|line| *line == "192.0.2.1").count(), 200, "{address}: {said}");
    }
    let counters = gateway.assert_accounts_balance();
    // Of more than 3,200 octets; the questions fit a packet.
    assert_eq!(counters.value("forwarded"), 2 * (1 + 3), "{counters:#?}");
    assert!(counters.drops().is_empty(), "{counters:#?}");
}

#[test]
fn a_long_ping_of_a_cluster_ip_is_answered() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let said = rig.output("jump", &["ping", "-c", "5", "-i", "0.2", "-W", "2", "-s", "4000", ENT_DEV]);
    assert!(said.contains("5 received"), "{said}");
    let counters = gateway.assert_accounts_balance();
    assert_eq!(counters.value("answered"), 15, "{counters:#?}");
    assert!(counters.drops().is_empty(), "{counters:#?}");
}

#[test]
fn long_datagrams_with_a_pod_itself_are_routed_by_the_kernel() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.let_the_kernel_forward();
    let gateway = Gateway::start(&rig);
    assert_eq!(rig.peer("jump", &["echoes", "10.244.0.21", "8080", "5000", "50"]), "50");
    let counters = gateway.assert_accounts_balance();
    assert_eq!(counters.value("forwarded"), 0, "{counters:#?}");
    assert_eq!(counters.value("punted"), 50 * fragments("10.244.0.21", 5000 + 16), "{counters:#?}");
    assert!(counters.drops().is_empty(), "{counters:#?}");
}

#[test]
fn datagrams_too_long_for_the_link_of_the_pods_leave_in_pieces() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    for namespace in ["prod-1", "prod-2"] {
        rig.output(namespace, &["ip", "link", "set", "eth0", "mtu", "1280"]);
    }
    rig.output("gw", &["ip", "link", "set", "pods0", "mtu", "1280"]);
    // Else the client forbids to cut what fits its own link.
    rig.output("jump", &["sysctl", "-w", "net.ipv4.ip_no_pmtu_disc=1"]);
    let gateway = Gateway::start(&rig);
    for octets in ["1400", "9000"] {
        assert_eq!(rig.peer("jump", &["echoes", ENT_PROD, "8080", octets, "50"]), "50");
    }
    let counters = gateway.assert_accounts_balance();
    // 1,408 octets make one piece more, and so does each of the six full fragments of 9,008.
    assert_eq!(counters.value("originated"), 50 + 50 * 6, "{counters:#?}");
    assert!(counters.drops().is_empty(), "{counters:#?}");
}

#[test]
fn long_datagrams_pass_masqueraded() {
    let Some(rig) = Rig::up(Shape::OneInterface) else { return };
    let gateway = Gateway::start(&rig);
    assert_eq!(rig.peer("jump", &["echoes", ENT_PROD, "8080", "20000", "50"]), "50");
    let counters = gateway.assert_accounts_balance();
    assert!(counters.value("flows_masqueraded") > 0, "{counters:#?}");
    assert!(counters.drops().is_empty(), "{counters:#?}");
}

#[test]
fn two_workers_pass_the_long_datagrams_of_many_clients() {
    let Some(rig) = Rig::up(Shape::TwoQueues) else { return };
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("skipped: needs two cores");
        return;
    }
    let gateway = Gateway::start_with(&rig, &["--cores", "0,1"]);
    assert!(rig.peer("jump", &["udp", ENT_PROD, "8080", "neighbours are known now"]).starts_with("prod-"));
    for _ in 0..4 {
        assert_eq!(rig.peer("jump", &["echoes", ENT_PROD, "8080", "20000", "50"]), "50");
    }
    let counters = gateway.assert_accounts_balance();
    assert_eq!(counters.value("handed_over"), counters.value("taken_over"), "{counters:#?}");
    assert!(counters.value("handed_over") > 0, "{counters:#?}");
    assert!(counters.drops().is_empty(), "{counters:#?}");
}
