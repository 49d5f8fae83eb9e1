//! Services over IPv6, through the real binary in the namespace rig.

mod rig;

use std::time::Duration;

use rig::conversation::Conversation;
use rig::gateway::Gateway;
use rig::manifests::{dual_stack_service, service};
use rig::{BOTH, CLIENT, CLIENT_IPV6, Rig, Shape, eventually};

const PATIENCE: Duration = Duration::from_secs(10);
const DEV_1: &str = "fd00:244::11";
const ROUTER: &str = "fd00:1::1";
/// ClusterIPs of a Service without endpoints.
const DESERTED: [&str; 2] = ["10.96.1.41", "fd00:96::141"];

fn page(address: &str, path: &str) -> String {
    format!("http://[{address}]:8080{path}")
}

#[test]
fn a_client_reaches_the_pods_of_a_dual_stack_service_by_either_address_under_its_own() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let [first, second] = BOTH;
    for (url, client) in [(format!("http://{first}:8080/"), CLIENT), (page(second, "/"), CLIENT_IPV6)] {
        let mut pods: Vec<String> = (0..16)
            .map(|_| {
                let seen = rig.curl(&url);
                assert_eq!(seen.status, 0, "{url}: {}", seen.errors);
                seen.output
            })
            .collect();
        pods.sort();
        pods.dedup();
        assert_eq!(pods, [format!("dev-1 {client}"), format!("dev-2 {client}")], "{url}");
    }
    let answer = rig.peer("jump", &["udp", second, "8080", "hello"]);
    assert!(answer.starts_with("dev-") && answer.ends_with(&format!("{CLIENT_IPV6} hello")), "{answer}");
    let body = format!("curl -sS --max-time 15 '{}' | wc -c", page(second, "/bytes/2000000"));
    assert_eq!(rig.output("jump", &["bash", "-c", &body]), "2000000");
    let counters = gateway.assert_accounts_balance();
    assert!(counters.drops().is_empty(), "{counters:#?}");
    gateway.stop();
}

#[test]
fn a_name_has_the_address_of_each_family_and_leads_to_the_pods() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    for (kind, address) in [("A", BOTH[0]), ("AAAA", BOTH[1])] {
        let said = rig.output("jump", &["dig", "+short", kind, "both.dev.svc.cluster.local"]);
        assert_eq!(said, address);
    }
    let seen = rig.run("jump", &["curl", "-6", "-sS", "--max-time", "5", "http://both:8080/"]);
    assert!(seen.output.ends_with(CLIENT_IPV6), "{}{}", seen.output, seen.errors);
    gateway.assert_accounts_balance();
}

#[test]
fn a_cluster_ip_of_ipv6_answers_ping_and_is_traced() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let said = rig.output("jump", &["ping", "-6", "-c", "3", "-i", "0.2", "-W", "2", BOTH[1]]);
    assert!(said.contains("3 received"), "{said}");
    // By datagrams to a port of the Service, which the pod answers: first us, then the pod.
    let trace = ["traceroute", "-6", "-n", "-q", "1", "-w", "2", "-m", "4", "-U", "-p", "8080", BOTH[1]];
    let said = rig.output("jump", &trace);
    let hops: Vec<&str> = said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(hops, [ROUTER, BOTH[1]], "{said}");
    gateway.assert_accounts_balance();
}

#[test]
fn a_port_or_a_service_without_anybody_behind_it_refuses_and_an_unallocated_address_is_silent() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.manifests.write("deserted.yaml", &dual_stack_service("dev", "deserted", DESERTED, "nobody"));
    let gateway = Gateway::start(&rig);
    for address in [DESERTED[1], BOTH[1]] {
        let port = if address == BOTH[1] { "8081" } else { "8080" };
        assert_eq!(rig.curl(&format!("http://[{address}]:{port}/")).status, 7, "TCP to {address}");
        assert_eq!(rig.peer("jump", &["udp", address, port, "hello"]), "refused", "UDP to {address}");
    }
    let silent = ["curl", "-sS", "--max-time", "1", "http://[fd00:96::999]:8080/"];
    assert_eq!(rig.run("jump", &silent).status, 28);
    let counters = gateway.assert_accounts_balance();
    assert!(counters.value("drop_unallocated_address") > 0, "{counters:#?}");
}

#[test]
fn client_and_pods_in_one_subnet_behind_one_interface_work_over_ipv6() {
    let Some(rig) = Rig::up(Shape::OneSubnet) else { return };
    let gateway = Gateway::start(&rig);
    for _ in 0..8 {
        let seen = rig.curl(&page(BOTH[1], "/"));
        // The pod would answer its neighbour past us, so it is not shown it.
        assert!(seen.output.ends_with(" fd00:244::1"), "{}{}", seen.output, seen.errors);
    }
    let counters = gateway.assert_accounts_balance();
    assert!(counters.value("flows_masqueraded") >= 8, "{counters:#?}");
}

#[test]
fn a_pod_that_is_itself_chosen_reaches_itself_over_ipv6() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let mut by: Vec<String> = (0..16)
        .map(|_| rig.output("dev-1", &["curl", "-sS", "--max-time", "5", &page(BOTH[1], "/")]))
        .collect();
    by.sort();
    by.dedup();
    let served_by = |pod: &str| by.iter().any(|answer| answer.starts_with(pod));
    assert!(served_by("dev-1") && served_by("dev-2"), "{by:?}");
    assert!(by.contains(&"dev-1 fd00:244::1".to_owned()), "{by:?}");
    gateway.assert_accounts_balance();
}

#[test]
fn what_is_not_ours_is_routed_by_the_kernel_over_ipv6() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.output("gw", &["sysctl", "-w", "net.ipv6.conf.all.forwarding=1"]);
    rig.start_peer("gw", &["serve", "gateway"]);
    let gateway = Gateway::start(&rig);
    let seen = rig.curl(&page(DEV_1, "/"));
    assert_eq!((seen.status, seen.output), (0, format!("dev-1 {CLIENT_IPV6}")), "{}", seen.errors);
    assert_eq!(rig.peer("jump", &["udp", DEV_1, "8080", "hello"]), format!("dev-1 {CLIENT_IPV6} hello"));
    assert_eq!(rig.curl(&page(ROUTER, "/")).output, format!("gateway {CLIENT_IPV6}"));
    let own = rig.output("gw", &["curl", "-sS", "--max-time", "5", &page(DEV_1, "/")]);
    assert_eq!(own, "dev-1 fd00:244::1");
    let counters = gateway.assert_accounts_balance();
    assert!(counters.value("punted") > 0, "{counters:#?}");
    assert_eq!(counters.value("forwarded"), 0, "{counters:#?}");
}

#[test]
fn a_service_that_gains_and_loses_its_second_family_follows() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let mut talk = Conversation::open(&rig, BOTH[1], "9000");
    let first = talk.say("line");
    rig.manifests.write("both-dev.yaml", &service("dev", "both", BOTH[0], "enterprise"));
    let aaaa = || rig.output("jump", &["dig", "+short", "AAAA", "both.dev.svc.cluster.local"]);
    eventually("the name has one family", PATIENCE, || aaaa().is_empty().then_some(()));
    eventually("new connections find nobody", PATIENCE, || {
        let seen = rig.run("jump", &["curl", "-sS", "--max-time", "1", &page(BOTH[1], "/")]);
        (seen.status != 0).then_some(())
    });
    assert_eq!(rig.curl(&format!("http://{}:8080/", BOTH[0])).status, 0, "the other family stays");
    eventually("the connection to endpoints that no slice lists any more is told (K26)", PATIENCE, || {
        let answer = talk.say("line");
        assert!(answer == first || answer == "ConnectionResetError", "{answer}");
        (answer != first).then_some(())
    });
    rig.manifests.write("both-dev.yaml", &dual_stack_service("dev", "both", BOTH, "enterprise"));
    eventually("the name has both", PATIENCE, || (aaaa() == BOTH[1]).then_some(()));
    assert_eq!(rig.curl(&page(BOTH[1], "/")).status, 0);
    gateway.assert_accounts_balance();
}

#[test]
fn an_ipv6_service_takes_its_address_from_the_service_cidr() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let unstated = service("dev", "six", "None", "enterprise")
        .replace("  clusterIP: None\n", "  ipFamilies: [IPv6]\n  ipFamilyPolicy: SingleStack\n");
    rig.manifests.write("six.yaml", &unstated);
    let gateway = Gateway::start(&rig);
    let address = rig.output("jump", &["dig", "+short", "AAAA", "six.dev.svc.cluster.local"]);
    assert!(address.starts_with("fd00:96::"), "{address}");
    assert_eq!(rig.curl(&page(&address, "/")).status, 0);
    assert_eq!(rig.output("jump", &["dig", "+short", "A", "six.dev.svc.cluster.local"]), "");
    gateway.assert_accounts_balance();
}
