//! Which endpoints are usable, rule by rule.

use std::sync::Arc;

use tidegate_dataplane::net::Protocol;

use super::*;
use crate::cluster::{Dirty, EndpointSlice, Event, ObjectName, SlicePort};

fn endpoint(address: &str, ready: bool, serving: bool, terminating: bool) -> Endpoint {
    Endpoint { ready, serving, terminating, ..Endpoint::ready_at(address.parse().unwrap()) }
}

fn ready(address: &str) -> Endpoint {
    endpoint(address, true, true, false)
}

fn slice(name: &str, ports: &[(&str, Protocol, u16)], endpoints: &[Endpoint]) -> EndpointSlice {
    EndpointSlice {
        name: ObjectName::new("dev", name),
        service: ObjectName::new("dev", "ent"),
        endpoints: endpoints.to_vec(),
        ports: ports
            .iter()
            .map(|(name, protocol, port)| SlicePort {
                name: (*name).into(),
                protocol: *protocol,
                port: *port,
            })
            .collect(),
    }
}

fn service(kind: ServiceKind) -> Service {
    Service {
        name: ObjectName::new("dev", "ent"),
        kind,
        ports: vec![port("http")],
        foreign_proxy: false,
        traffic: crate::traffic::Traffic::default(),
    }
}

fn cluster_ip() -> Service {
    service(ServiceKind::ClusterIp(vec!["10.96.0.5".parse().unwrap()]))
}

fn port(name: &str) -> ServicePort {
    ServicePort { name: name.into(), protocol: Protocol::Tcp, port: 80, node_port: None }
}

fn usable(service: &Service, family: Family, slices: &[EndpointSlice]) -> Vec<String> {
    let mut cluster = Cluster::default();
    for slice in slices {
        cluster.apply(Event::SliceApplied(Arc::new(slice.clone())), &mut Dirty::default());
    }
    let sets = endpoint_sets(&cluster, service, &service.ports[0], family, &Locality::default());
    assert_eq!(sets.cluster, sets.local, "without a node");
    sets.cluster.into_iter().map(|(address, port)| format!("{address}@{port}")).collect()
}

const HTTP: &[(&str, Protocol, u16)] = &[("http", Protocol::Tcp, 8080)];

#[test]
fn k5_the_port_is_the_slices_own_and_may_differ_between_slices() {
    let other = slice("b", &[("http", Protocol::Tcp, 9090)], &[ready("10.1.0.1")]);
    let found = usable(&cluster_ip(), Family::V4, &[slice("a", HTTP, &[ready("10.1.0.2")]), other]);
    assert_eq!(found, ["10.1.0.1@9090", "10.1.0.2@8080"], "sorted, never the Service's port");
}

#[test]
fn k4_ports_join_by_name_and_protocol() {
    let ports = [("http", Protocol::Udp, 1), ("", Protocol::Tcp, 2), ("https", Protocol::Tcp, 3)];
    assert!(usable(&cluster_ip(), Family::V4, &[slice("a", &ports, &[ready("10.1.0.1")])]).is_empty());
}

#[test]
fn k7_the_slices_of_a_service_are_a_union_each_endpoint_once() {
    let slices = [
        slice("a", HTTP, &[ready("10.1.0.2"), ready("10.1.0.1")]),
        slice("b", HTTP, &[ready("10.1.0.2"), ready("10.1.0.3")]),
    ];
    assert_eq!(
        usable(&cluster_ip(), Family::V4, &slices),
        ["10.1.0.1@8080", "10.1.0.2@8080", "10.1.0.3@8080"]
    );
}

#[test]
fn k8_a_terminating_entry_never_replaces_another_whatever_the_order_of_slices() {
    let dying = endpoint("10.1.0.1", false, false, true);
    for (first, second) in [("a", "b"), ("b", "a")] {
        let slices =
            [slice(first, HTTP, std::slice::from_ref(&dying)), slice(second, HTTP, &[ready("10.1.0.1")])];
        assert_eq!(usable(&cluster_ip(), Family::V4, &slices), ["10.1.0.1@8080"], "{first} before {second}");
    }
}

#[test]
fn k8_an_entry_that_is_not_terminating_replaces_an_earlier_one() {
    let not_ready = endpoint("10.1.0.1", false, true, false);
    let slices =
        [slice("a", HTTP, &[endpoint("10.1.0.1", false, true, true)]), slice("b", HTTP, &[not_ready])];
    assert!(
        usable(&cluster_ip(), Family::V4, &slices).is_empty(),
        "serving, but no longer the terminating one"
    );
}

#[test]
fn k10_ready_endpoints_are_taken_else_those_that_serve_while_they_terminate() {
    let dying = endpoint("10.1.0.1", false, true, true);
    let dead = endpoint("10.1.0.2", false, false, true);
    let starting = endpoint("10.1.0.3", false, true, false);
    let none_ready = [slice("a", HTTP, &[dying.clone(), dead.clone(), starting])];
    assert_eq!(usable(&cluster_ip(), Family::V4, &none_ready), ["10.1.0.1@8080"]);
    let one_ready = [slice("a", HTTP, &[dying, dead, ready("10.1.0.4")])];
    assert_eq!(usable(&cluster_ip(), Family::V4, &one_ready), ["10.1.0.4@8080"]);
}

#[test]
fn k9_a_terminating_endpoint_that_is_published_as_ready_is_used() {
    let slices = [slice("a", HTTP, &[endpoint("10.1.0.1", true, false, true)])];
    assert_eq!(usable(&cluster_ip(), Family::V4, &slices), ["10.1.0.1@8080"]);
}

#[test]
fn k35_each_family_falls_back_for_itself() {
    let dual =
        service(ServiceKind::ClusterIp(vec!["10.96.0.5".parse().unwrap(), "fd00::5".parse().unwrap()]));
    let slices =
        [slice("a", HTTP, &[ready("10.1.0.1")]), slice("b", HTTP, &[endpoint("fd01::1", false, true, true)])];
    assert_eq!(usable(&dual, Family::V4, &slices), ["10.1.0.1@8080"]);
    assert_eq!(usable(&dual, Family::V6, &slices), ["fd01::1@8080"]);
}

#[test]
fn k1_k3_services_that_get_no_packets_have_no_usable_endpoints() {
    let slices = [slice("a", HTTP, &[ready("10.1.0.1")])];
    let foreign = Service { foreign_proxy: true, ..cluster_ip() };
    for service in
        [service(ServiceKind::Headless), service(ServiceKind::ExternalName("a.example".into())), foreign]
    {
        assert!(usable(&service, Family::V4, &slices).is_empty(), "{service:?}");
    }
    assert!(usable(&cluster_ip(), Family::V6, &slices).is_empty(), "no ClusterIP in this family");
}

/// An endpoint's conditions as `r`, `s`, `t`, then its node, node hints and zone hints.
type Line = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

/// Names the endpoints of both sets by their place in the list, on node `here` in zone `east`.
fn sets(lines: &[Line], locality: &Locality) -> (String, String) {
    let names = |list: &[&str]| list.iter().map(|name| Arc::from(*name)).collect();
    let endpoints: Vec<Endpoint> = lines
        .iter()
        .zip(1..)
        .map(|((conditions, node, nodes, zones), number)| {
            let has = |letter| conditions.contains(letter);
            let mut endpoint = endpoint(&format!("10.1.0.{number}"), has('r'), has('s'), has('t'));
            endpoint.node = (!node.is_empty()).then(|| Arc::from(*node));
            let hints = Hints { zones: names(zones), nodes: names(nodes) };
            endpoint.hints = (hints != Hints::default()).then(|| Arc::new(hints));
            endpoint
        })
        .collect();
    let entries: Entries<'_> = endpoints.iter().map(|endpoint| ((endpoint.address, 80), endpoint)).collect();
    let named = |set: Vec<(IpAddr, u16)>| {
        set.iter().map(|(address, _)| address.to_string().rsplit_once('.').unwrap().1.to_owned()).collect()
    };
    let EndpointSets { cluster, local } = categorize(&entries, locality);
    (named(cluster), named(local))
}

fn here() -> Locality {
    Locality { node: Some("here".into()), zone: Some("east".into()) }
}

#[test]
fn k10_both_sets_fall_back_each_for_itself() {
    let cases: [(&[Line], &str, &str, &str); 8] = [
        (&[], "", "", "no endpoints"),
        (&[("rs", "here", &[], &[]), ("rs", "there", &[], &[])], "12", "1", "ready ones"),
        (&[("rs", "there", &[], &[]), ("st", "here", &[], &[])], "1", "2", "only the Local set falls back"),
        (&[("st", "there", &[], &[]), ("st", "here", &[], &[])], "12", "2", "both fall back"),
        (
            &[("t", "here", &[], &[]), ("s", "here", &[], &[])],
            "",
            "",
            "neither serving nor terminating alone",
        ),
        (&[("rs", "here", &[], &[]), ("st", "here", &[], &[])], "1", "1", "a ready one suffices"),
        (&[("rst", "here", &[], &[])], "1", "1", "ready although it terminates (K9)"),
        (&[("rs", "", &[], &[])], "1", "", "an endpoint without a node is never local"),
    ];
    for (lines, cluster, local, what) in cases {
        assert_eq!(sets(lines, &here()), (cluster.into(), local.into()), "{what}");
    }
}

#[test]
fn k11_a_topology_mode_needs_a_hint_on_every_ready_endpoint_and_one_for_this_place() {
    let (h, e): (&[&str], &[&str]) = (&["here"], &["east"]);
    let (t, w): (&[&str], &[&str]) = (&["there"], &["west"]);
    let cases: [(&[Line], &str, &str); 8] = [
        (&[("rs", "", h, &[]), ("rs", "", t, &[])], "1", "the same node"),
        (&[("rs", "", &[], e), ("rs", "", &[], w)], "1", "the same zone"),
        (&[("rs", "", h, w), ("rs", "", t, e)], "1", "the node goes before the zone"),
        (&[("rs", "", t, e), ("rs", "", t, w)], "1", "no hint for this node: the zone decides"),
        (&[("rs", "", &[], e), ("rs", "", &[], &[])], "12", "one hint is missing"),
        (&[("rs", "", &[], w), ("rs", "", &[], w)], "12", "none is for this zone"),
        (&[("rs", "", &[], e), ("rs", "", &[], w), ("st", "", &[], &[])], "1", "others' hints do not count"),
        (&[("st", "", &[], w), ("st", "", &[], e)], "12", "the fallback has no topology"),
    ];
    for (lines, cluster, what) in cases {
        assert_eq!(sets(lines, &here()).0, cluster, "{what}");
    }
    let nowhere = [("rs", "", &["here"][..], &["east"][..]), ("rs", "", &["there"], &["west"])];
    assert_eq!(sets(&nowhere, &Locality::default()).0, "12", "a gateway that stands nowhere");
}

#[test]
fn k12_the_local_set_has_no_topology_and_both_sets_are_always_made() {
    let lines: [Line; 2] = [("rs", "here", &["there"], &[]), ("rs", "there", &["here"], &[])];
    assert_eq!(sets(&lines, &here()), ("2".into(), "1".into()));
}

#[test]
fn without_a_node_name_local_means_all_of_the_cluster() {
    let lines: [Line; 2] = [("rs", "here", &[], &[]), ("rs", "there", &[], &[])];
    assert_eq!(sets(&lines, &Locality::default()), ("12".into(), "12".into()));
}

#[test]
fn k34_services_with_policy_local_and_endpoints_elsewhere_alone_are_counted_by_policy() {
    let at = |node: &str| Endpoint { node: Some(node.into()), ..ready("10.244.0.1") };
    let count = |internal, external, endpoints: &[Endpoint], locality: &Locality| {
        let mut cluster = Cluster::default();
        let mut service = cluster_ip();
        (service.traffic.internal, service.traffic.external) = (internal, external);
        cluster.apply(Event::ServiceApplied(Arc::new(service)), &mut Dirty::default());
        let slice = slice("ent-1", &[("http", Protocol::Tcp, 8080)], endpoints);
        cluster.apply(Event::SliceApplied(Arc::new(slice)), &mut Dirty::default());
        without_local_endpoints(&cluster, locality)
    };
    let (all, own) = (Policy::Cluster, Policy::Local);
    assert_eq!(count(own, all, &[at("there")], &here()), [1, 0]);
    assert_eq!(count(all, own, &[at("there")], &here()), [0, 1]);
    assert_eq!(count(own, own, &[at("there")], &here()), [1, 1]);
    assert_eq!(count(all, all, &[at("there")], &here()), [0, 0], "policy Cluster lacks nothing");
    assert_eq!(count(own, own, &[at("here")], &here()), [0, 0]);
    assert_eq!(count(own, own, &[], &here()), [0, 0], "there is none anywhere");
    assert_eq!(count(own, own, &[at("there")], &Locality::default()), [0, 0], "without a node name");
}
