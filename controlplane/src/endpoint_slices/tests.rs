//! The controllers' rules, one by one.

use serde_json::Value;

use super::*;
use crate::objects::{self, Object, Reading};

fn object(yaml: &str) -> Object {
    let document: Value = serde_saphyr::from_str(yaml).unwrap();
    match objects::read(&document).pop() {
        Some(Reading::Object(_, object)) => object,
        other => panic!("{other:?}"),
    }
}

fn service(spec: &str) -> Arc<Service> {
    let yaml =
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: ent, namespace: dev}}\nspec: {spec}");
    if let Object::Service(service) = object(&yaml) { service } else { panic!("no Service") }
}

const SERVICE: &str = "{clusterIP: 10.96.0.5, selector: {app: x}, ports: [{port: 80, targetPort: 8080}]}";

/// Makes a ready Pod; `spec` and `status` come on top.
fn pod(name: &str, address: &str, spec: &str, status: &str) -> Arc<Pod> {
    pod_with("", name, address, spec, status)
}

fn pod_with(metadata: &str, name: &str, address: &str, spec: &str, status: &str) -> Arc<Pod> {
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: dev, labels: {{app: x}}{metadata}}}\n\
         spec: {{containers: []{spec}}}\n\
         status: {{podIP: \"{address}\", conditions: [{{type: Ready, status: \"True\"}}]{status}}}"
    );
    if let Object::Pod(pod) = object(&yaml) { pod } else { panic!("no Pod") }
}

fn slices_of(service: &Service, families: &[Family], pods: &[Arc<Pod>]) -> Vec<EndpointSlice> {
    let zone_of = |node: &str| (node == "n1").then(|| Arc::from("zone-a"));
    from_pods(service, families, pods.iter().map(|pod| &**pod), &zone_of)
}

fn slices(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSlice> {
    slices_of(service, &[Family::V4], pods)
}

fn conditions(slices: &[EndpointSlice]) -> Vec<(bool, bool, bool)> {
    slices.iter().flat_map(|slice| &slice.endpoints).map(|e| (e.ready, e.serving, e.terminating)).collect()
}

fn not_ready(name: &str) -> Arc<Pod> {
    Arc::new(Pod { ready: false, ..(*pod(name, "10.1.0.9", "", "")).clone() })
}

#[test]
fn pods_that_the_selector_matches_make_one_slice() {
    let other = Arc::new(Pod { labels: Labels::new(), ..(*pod("c", "10.1.0.3", "", "")).clone() });
    let slices =
        slices(&service(SERVICE), &[pod("a", "10.1.0.1", "", ""), pod("b", "10.1.0.2", "", ""), other]);
    assert_eq!(slices.len(), 1);
    let pods: Vec<_> = slices[0].endpoints.iter().filter_map(|e| e.pod.as_deref()).collect();
    assert_eq!(pods, ["a", "b"]);
    assert_eq!((slices[0].ports[0].port, &*slices[0].ports[0].name), (8080, ""));
    assert_eq!(slices[0].service, ObjectName::new("dev", "ent"));
}

#[test]
fn a_service_without_a_selector_or_with_a_name_for_target_gets_no_slices() {
    let pods = [pod("a", "10.1.0.1", "", "")];
    assert!(slices(&service("{selector: {}, ports: [{port: 80}]}"), &pods).is_empty());
    assert!(
        slices(&service("{type: ExternalName, externalName: a.b, selector: {app: x}}"), &pods).is_empty()
    );
}

#[test]
fn a_pod_that_has_ended_or_has_no_address_is_left_out() {
    let pods = [
        pod("a", "10.1.0.1", "", ", phase: Succeeded"),
        pod("b", "10.1.0.2", "", ", phase: Failed"),
        pod("c", "", "", ", phase: Pending"),
    ];
    assert!(slices(&service(SERVICE), &pods).is_empty());
}

#[test]
fn a_terminating_pod_is_never_ready_but_still_serving() {
    let deleted = ", deletionTimestamp: 2026-01-01T00:00:00Z";
    let dying = pod_with(deleted, "a", "10.1.0.1", "", "");
    assert_eq!(conditions(&slices(&service(SERVICE), &[dying])), [(false, true, true)]);
    assert_eq!(conditions(&slices(&service(SERVICE), &[not_ready("b")])), [(false, false, false)]);
}

#[test]
fn k9_publish_not_ready_addresses_makes_ready_and_leaves_serving() {
    let service =
        service("{clusterIP: None, publishNotReadyAddresses: true, selector: {app: x}, ports: [{port: 80}]}");
    let deleted = pod_with(", deletionTimestamp: 2026-01-01T00:00:00Z", "a", "10.1.0.1", "", "");
    let found = conditions(&slices(&service, &[deleted, not_ready("b")]));
    assert_eq!(found, [(true, true, true), (true, false, false)]);
}

#[test]
fn a_hostname_is_published_only_in_its_own_subdomain() {
    let names = [
        ", hostname: h, subdomain: ent",
        ", hostname: h, subdomain: other",
        ", hostname: h",
        ", subdomain: ent",
    ];
    for (spec, wanted) in names.into_iter().zip([Some("h"), None, None, None]) {
        let slices = slices(&service(SERVICE), &[pod("a", "10.1.0.1", spec, "")]);
        assert_eq!(slices[0].endpoints[0].hostname.as_deref(), wanted, "{spec}");
    }
}

#[test]
fn k5_a_named_target_port_is_resolved_per_pod_by_name_and_protocol() {
    let service = service(
        "{clusterIP: 10.96.0.5, selector: {app: x}, ports: [{name: web, port: 80, targetPort: http}]}",
    );
    let container = |ports: &str| format!(", initContainers: [{{restartPolicy: Always, ports: [{ports}]}}]");
    let pods = [
        pod(
            "a",
            "10.1.0.1",
            &container("{name: http, containerPort: 1, protocol: UDP}, {name: http, containerPort: 8080}"),
            "",
        ),
        pod("b", "10.1.0.2", &container("{name: http, containerPort: 9090}"), ""),
        pod("c", "10.1.0.3", &container("{name: http, containerPort: 8080}"), ""),
        pod("d", "10.1.0.4", "", ""),
    ];
    let slices = slices(&service, &pods);
    let found: Vec<(Vec<u16>, Vec<&str>)> = slices
        .iter()
        .map(|s| {
            (
                s.ports.iter().map(|p| p.port).collect(),
                s.endpoints.iter().filter_map(|e| e.pod.as_deref()).collect(),
            )
        })
        .collect();
    let wanted = [(vec![], vec!["d"]), (vec![8080], vec!["a", "c"]), (vec![9090], vec!["b"])];
    assert_eq!(found, wanted, "a Pod without the port is an endpoint without ports");
    assert!(
        slices.iter().flat_map(|s| &s.ports).all(|port| &*port.name == "web"),
        "joined by the Service's port name"
    );
}

#[test]
fn a_headless_service_without_ports_still_has_endpoints() {
    let slices = slices(&service("{clusterIP: None, selector: {app: x}}"), &[pod("a", "10.1.0.1", "", "")]);
    assert_eq!((slices[0].ports.len(), slices[0].endpoints.len()), (0, 1));
}

#[test]
fn each_family_of_the_service_has_slices_of_its_own() {
    let dual = ", podIPs: [{ip: 10.1.0.1}, {ip: \"fd00::1\"}]";
    let pods = [pod("a", "10.1.0.1", "", dual), pod("b", "fd00::2", "", "")];
    let families = |families: &[Family]| -> Vec<Vec<String>> {
        let slices = slices_of(&service(SERVICE), families, &pods);
        slices.iter().map(|s| s.endpoints.iter().map(|e| e.address.to_string()).collect()).collect()
    };
    assert_eq!(families(&[Family::V4]), [["10.1.0.1"]]);
    assert_eq!(families(&[Family::V4, Family::V6]), [vec!["10.1.0.1"], vec!["fd00::1", "fd00::2"]]);
}

#[test]
fn an_endpoint_has_the_node_of_its_pod_and_the_zone_of_the_node() {
    let found = slices(
        &service(SERVICE),
        &[pod("a", "10.1.0.1", ", nodeName: n1", ""), pod("b", "10.1.0.2", ", nodeName: n2", "")],
    );
    let places: Vec<_> = found[0].endpoints.iter().map(|e| (e.node.as_deref(), e.zone.as_deref())).collect();
    assert_eq!(
        places,
        [(Some("n1"), Some("zone-a")), (Some("n2"), None)],
        "an unknown Node is no reason to leave a Pod out"
    );
}

#[test]
fn endpoints_are_mirrored_only_for_a_service_without_a_selector() {
    let yaml = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: ent, namespace: dev}\nsubsets:\n\
        - {addresses: [{ip: 10.9.0.1}, {ip: \"fd00::9\"}], notReadyAddresses: [{ip: 10.9.0.2}], ports: [{name: a, port: 1}]}\n\
        - {addresses: [{ip: 10.9.0.1}], ports: [{name: a, port: 2}]}\n\
        - {notReadyAddresses: [{ip: 10.9.0.1}], ports: [{name: a, port: 1}]}";
    let Object::Endpoints(endpoints) = object(yaml) else { panic!() };
    let free = service("{clusterIP: 10.96.0.5, ports: [{port: 80}]}");
    let slices = mirror(&free, &endpoints);
    let found: Vec<(u16, Vec<(String, bool)>)> = slices
        .iter()
        .map(|s| (s.ports[0].port, s.endpoints.iter().map(|e| (e.address.to_string(), e.ready)).collect()))
        .collect();
    let wanted = [
        (1, vec![("10.9.0.1".to_owned(), false), ("10.9.0.2".to_owned(), false)]),
        (2, vec![("10.9.0.1".to_owned(), true)]),
        (1, vec![("fd00::9".to_owned(), true)]),
    ];
    assert_eq!(found, wanted, "equal ports are one slice, where the last word on an address counts");
    assert!(mirror(&service(SERVICE), &endpoints).is_empty());
    assert!(mirror(&free, &Endpoints { skip_mirror: true, ..(*endpoints).clone() }).is_empty());
}
