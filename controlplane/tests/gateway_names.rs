//! Cluster DNS as clients and pods ask it, through the real binary in the namespace rig.

mod rig;

use rig::gateway::Gateway;
use rig::{DNS, ENT_DEV, ENT_PROD, Rig, Shape};

/// What `dig` prints at the client, with the resolv.conf of a pod in `dev`.
#[track_caller]
fn dig(rig: &Rig, question: &[&str]) -> String {
    rig.output("jump", &[&["dig", "+tries=1", "+time=3"], question].concat())
}

#[test]
fn service_records_are_answered_over_udp_and_tcp() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let _gateway = Gateway::start(&rig);
    for transport in ["+notcp", "+tcp"] {
        let short = |question: &[&str]| dig(&rig, &[&["+short", transport], question].concat());
        assert_eq!(short(&["ent.dev.svc.cluster.local"]), ENT_DEV);
        assert_eq!(short(&["ENT.prod.svc.Cluster.Local"]), ENT_PROD);
        let srv = short(&["SRV", "_line._tcp.ent.dev.svc.cluster.local"]);
        assert!(srv.ends_with(" 9000 ent.dev.svc.cluster.local."), "{srv}");
        assert_eq!(short(&["-x", ENT_PROD]), "ent.prod.svc.cluster.local.");
        let mut crew: Vec<_> = short(&["crew.dev.svc.cluster.local"]).lines().map(str::to_owned).collect();
        crew.sort();
        assert_eq!(crew, ["10.244.0.11", "10.244.0.12"]);
    }
}

#[test]
fn names_that_do_not_exist_and_types_that_are_empty_come_with_the_soa() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let _gateway = Gateway::start(&rig);
    for (question, status) in [
        (["A", "nosuch.dev.svc.cluster.local"], "NXDOMAIN"),
        (["AAAA", "ent.dev.svc.cluster.local"], "NOERROR"),
    ] {
        let said = dig(&rig, &question);
        assert!(said.contains(&format!("status: {status}")), "{said}");
        assert!(said.contains("ANSWER: 0, AUTHORITY: 1"), "{said}");
        assert!(said.contains("SOA"), "{said}");
    }
}

#[test]
fn the_search_list_of_a_pod_leads_to_its_services() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let _gateway = Gateway::start(&rig);
    for (name, address) in [("ent", ENT_DEV), ("ent.prod", ENT_PROD), ("kubernetes.default", "10.96.0.1")] {
        let said = rig.output("jump", &["getent", "ahostsv4", name]);
        assert!(said.starts_with(&format!("{address} ")), "{name}: {said}");
    }
    let seen = rig.curl("http://ent:8080/");
    assert!(seen.output.starts_with("dev-"), "{}{}", seen.output, seen.errors);
    let seen = rig.curl("http://ent.prod.svc.cluster.local:8080/");
    assert!(seen.output.starts_with("prod-"), "{}{}", seen.output, seen.errors);
}

#[test]
fn other_names_go_to_the_upstream_for_allowed_clients_and_for_pods() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.start_peer("prod-1", &["serve-dns", "192.0.2.7"]);
    let _gateway =
        Gateway::start_with(&rig, &["--dns-upstream", "10.244.0.21", "--dns-allow", "10.1.0.0/24"]);
    assert_eq!(dig(&rig, &["+short", "www.example.org"]), "192.0.2.7");
    let server = format!("@{DNS}");
    let said = rig.output("dev-1", &["dig", "+tries=1", "+time=3", "+short", &server, "www.example.org"]);
    assert_eq!(said, "192.0.2.7");
}

#[test]
fn other_names_are_refused_to_clients_that_are_not_allowed() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.start_peer("prod-1", &["serve-dns", "192.0.2.7"]);
    let _gateway = Gateway::start_with(&rig, &["--dns-upstream", "10.244.0.21"]);
    let said = dig(&rig, &["www.example.org"]);
    assert!(said.contains("status: REFUSED"), "{said}");
    assert_eq!(dig(&rig, &["+short", "ent.dev.svc.cluster.local"]), ENT_DEV);
}
