//! What each kind of object is read as, and what is refused with which words.

use std::net::IpAddr;

use serde_json::Value;
use tidegate_dataplane::net::Protocol;

use super::*;
use crate::cluster::Family;

fn readings(yaml: &str) -> Vec<Reading> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    documents.iter().flat_map(read).collect()
}

fn object(yaml: &str) -> Object {
    match readings(yaml).pop() {
        Some(Reading::Object(_, object)) => object,
        other => panic!("not an object: {other:?}"),
    }
}

fn service(spec: &str) -> Service {
    match object(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: ent, namespace: dev}}\nspec: {spec}"
    )) {
        Object::Service(service) => (*service).clone(),
        other => panic!("not a Service: {other:?}"),
    }
}

/// Returns `field: what` of the fault for which a document is refused.
fn refusal(yaml: &str) -> String {
    match readings(yaml).pop() {
        Some(Reading::Refused(refusal)) => format!("{}: {}", refusal.fault.field, refusal.fault.what),
        other => panic!("not refused: {other:?}"),
    }
}

fn service_refusal(spec: &str) -> String {
    refusal(&format!("apiVersion: v1\nkind: Service\nmetadata: {{name: ent, namespace: dev}}\nspec: {spec}"))
}

#[test]
fn a_service_is_read_with_the_defaults_of_the_api_server() {
    let service = service("{selector: {app: enterprise}, ports: [{port: 8080}]}");
    assert_eq!(service.name, ObjectName::new("dev", "ent"));
    assert_eq!(service.reach, Reach::ClusterIp(Vec::new()));
    assert_eq!(service.family_policy, FamilyPolicy::SingleStack);
    assert!(!service.publish_not_ready && !service.foreign_proxy);
    let port = ServicePort {
        name: "".into(),
        protocol: Protocol::Tcp,
        port: 8080,
        target: TargetPort::Number(8080),
        node_port: None,
    };
    assert_eq!(service.ports, [port]);
}

#[test]
fn an_absent_namespace_is_default() {
    let readings = readings("apiVersion: v1\nkind: Pod\nmetadata: {name: a}");
    let Some(Reading::Object(key, _)) = readings.first() else { panic!("{readings:?}") };
    assert_eq!(key.to_string(), "Pod default/a");
}

#[test]
fn a_target_port_is_a_number_a_name_or_the_service_port() {
    let ports = "[{name: a, port: 1, targetPort: 9}, {name: b, port: 2, targetPort: http}, \
                 {name: c, port: 3, targetPort: 0}, {name: d, port: 4, targetPort: \"\"}]";
    let targets: Vec<TargetPort> =
        service(&format!("{{ports: {ports}}}")).ports.into_iter().map(|port| port.target).collect();
    let wanted = [
        TargetPort::Number(9),
        TargetPort::Name("http".into()),
        TargetPort::Number(3),
        TargetPort::Number(4),
    ];
    assert_eq!(targets, wanted);
}

#[test]
fn cluster_ips_none_and_external_name_are_told_apart() {
    let address: IpAddr = "10.96.0.5".parse().unwrap();
    let six: IpAddr = "fd00::5".parse().unwrap();
    assert_eq!(service("{clusterIP: 10.96.0.5, ports: [{port: 1}]}").reach, Reach::ClusterIp(vec![address]));
    let dual = service("{clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5, \"fd00::5\"], ports: [{port: 1}]}");
    assert_eq!(dual.reach, Reach::ClusterIp(vec![address, six]));
    assert_eq!(dual.family_policy, FamilyPolicy::RequireDualStack);
    assert_eq!(service("{clusterIP: None}").reach, Reach::Headless);
    assert_eq!(service("{clusterIPs: [None]}").reach, Reach::Headless);
    let external = service("{type: ExternalName, externalName: db.example.com., clusterIP: 10.96.0.5}");
    assert_eq!(external.reach, Reach::ExternalName("db.example.com".into()), "K3");
    let families = service("{ipFamilies: [IPv6, IPv4], ports: [{port: 1}]}").families;
    assert_eq!(families, [Family::V6, Family::V4]);
}

#[test]
fn k1_a_service_with_the_proxy_name_label_is_another_proxys() {
    let yaml = "apiVersion: v1\nkind: Service\nmetadata: {name: ent, \
                labels: {service.kubernetes.io/service-proxy-name: other}}\nspec: {ports: [{port: 1}]}";
    let Object::Service(service) = object(yaml) else { panic!() };
    assert!(service.foreign_proxy);
}

#[test]
fn a_bad_service_is_refused_and_the_field_named() {
    let table = [
        ("{ports: [{port: 0}]}", "spec.ports[0].port: 0 is outside 1..=65535"),
        (
            "{ports: [{name: a, port: 80}, {name: b, port: 65536}]}",
            "spec.ports[1].port: 65536 is outside 1..=65535",
        ),
        ("{ports: [{port: -1}]}", "spec.ports[0].port: -1 is outside 1..=65535"),
        ("{ports: [{port: 80.5}]}", "spec.ports[0].port: 80.5 is no whole number"),
        ("{ports: [{port: \"80\"}]}", "spec.ports[0].port: must be a number, not the text \"80\""),
        ("{ports: [{protocol: UDP}]}", "spec.ports[0].port: is missing"),
        ("{ports: {port: 80}}", "spec.ports: must be a list, not a map"),
        ("{ports: []}", "spec.ports: is missing; only a headless Service can do without ports"),
        (
            "{ports: [{port: 80, protocol: ICMP}]}",
            "spec.ports[0].protocol: \"ICMP\" is not one of TCP, UDP, SCTP",
        ),
        ("{ports: [{port: 80, targetPort: 70000}]}", "spec.ports[0].targetPort: 70000 is outside 1..=65535"),
        ("{ports: [{port: 80, targetPort: \"8080\"}]}", "spec.ports[0].targetPort: \"8080\" is no port name"),
        ("{ports: [{name: a, port: 80}, {port: 81}]}", "spec.ports[1].name: is missing"),
        ("{ports: [{name: a, port: 80}, {name: a, port: 81}]}", "spec.ports[1].name: \"a\" is there twice"),
        ("{ports: [{name: a, port: 80}, {name: b, port: 80}]}", "spec.ports[1].port: 80/TCP is there twice"),
        ("{ports: [{name: Web, port: 80}]}", "spec.ports[0].name: \"Web\" is no DNS label"),
        ("{clusterIP: 10.96.0.256, ports: [{port: 1}]}", "spec.clusterIP: \"10.96.0.256\" is no IP address"),
        ("{clusterIP: 010.96.0.2, ports: [{port: 1}]}", "spec.clusterIP: \"010.96.0.2\" is no IP address"),
        (
            "{clusterIP: \"::ffff:1.2.3.4\", ports: [{port: 1}]}",
            "spec.clusterIP: \"::ffff:1.2.3.4\" is an IPv4-mapped",
        ),
        ("{clusterIP: 127.0.0.1, ports: [{port: 1}]}", "spec.clusterIP: \"127.0.0.1\" is a loopback"),
        (
            "{clusterIPs: [10.0.0.1, 10.0.0.2], ports: [{port: 1}]}",
            "spec.clusterIPs[1]: 10.0.0.2 is a second",
        ),
        ("{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2]}", "spec.clusterIPs[0]: must be the same"),
        ("{clusterIPs: [None, 10.0.0.2]}", "spec.clusterIPs[1]: must not follow None"),
        (
            "{clusterIP: 10.0.0.1, ipFamilies: [IPv6], ports: [{port: 1}]}",
            "spec.clusterIP: 10.0.0.1 is not of the",
        ),
        ("{ipFamilies: [IPv5], ports: [{port: 1}]}", "spec.ipFamilies[0]: \"IPv5\" is not one of IPv4, IPv6"),
        ("{ipFamilyPolicy: Both, ports: [{port: 1}]}", "spec.ipFamilyPolicy: \"Both\" is not one of"),
        ("{type: Clusterip, ports: [{port: 1}]}", "spec.type: \"Clusterip\" is not one of"),
        ("{type: ExternalName}", "spec.externalName: is missing"),
        ("{type: ExternalName, externalName: \"a b\"}", "spec.externalName: \"a b\" is no DNS name"),
        ("{selector: {app: yes}, ports: [{port: 1}]}", "spec.selector.app: must be text"),
        (
            "{publishNotReadyAddresses: \"true\", ports: [{port: 1}]}",
            "spec.publishNotReadyAddresses: must be true or",
        ),
        ("7", "spec: must be a map, not the number 7"),
    ];
    for (spec, wanted) in table {
        let found = service_refusal(spec);
        assert!(found.starts_with(wanted), "{spec}\n wanted {wanted}\n found  {found}");
    }
}

#[test]
fn a_document_that_is_no_object_of_ours_is_refused_or_ignored() {
    assert!(refusal("7").starts_with("kind: must be") || refusal("7").contains("must be a map"));
    assert_eq!(refusal("kind: Service\nmetadata: {name: a}"), "apiVersion: is missing");
    assert_eq!(refusal("apiVersion: v1\nmetadata: {name: a}"), "kind: is missing");
    assert_eq!(
        refusal("apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}"),
        "metadata.name: is missing"
    );
    let wrong = refusal("apiVersion: v1\nkind: Service\nmetadata: {name: Ent_1}");
    assert!(wrong.starts_with("metadata.name: \"Ent_1\" is no DNS label"), "{wrong}");
    let old = refusal("apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: a}");
    assert_eq!(
        old,
        "apiVersion: discovery.k8s.io/v1beta1 EndpointSlice is not read; write discovery.k8s.io/v1"
    );
    let other =
        readings("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: enterprise, namespace: dev}");
    assert_eq!(other, [Reading::Ignored("apps/v1 Deployment dev/enterprise".into())]);
    let knative = readings("apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}");
    assert!(matches!(knative.as_slice(), [Reading::Ignored(_)]), "another group's Service: {knative:?}");
}

#[test]
fn lists_give_an_object_per_item_each_judged_for_itself() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: dev}}\n\
                - {apiVersion: v1, kind: Service, metadata: {name: ent}, spec: {ports: [{port: 0}]}}\n\
                - {apiVersion: v1, kind: Node, metadata: {name: n1}}";
    let found = readings(list);
    assert!(matches!(&found[0], Reading::Object(key, _) if key.kind == Kind::Namespace), "{found:?}");
    assert!(matches!(&found[1], Reading::Refused(refusal) if refusal.fault.field == "spec.ports[0].port"));
    assert!(matches!(&found[2], Reading::Object(key, _) if key.to_string() == "Node n1"));
    let typed =
        readings("apiVersion: v1\nkind: PodList\nitems: [{metadata: {name: a}}, {metadata: {name: b}}]");
    let names: Vec<String> = typed
        .iter()
        .map(
            |reading| {
                if let Reading::Object(key, _) = reading { key.to_string() } else { panic!("{reading:?}") }
            },
        )
        .collect();
    assert_eq!(names, ["Pod default/a", "Pod default/b"]);
}

fn slice(body: &str) -> EndpointSlice {
    let yaml = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: ent-1, namespace: dev, \
         labels: {{kubernetes.io/service-name: ent}}}}\n{body}"
    );
    match object(&yaml) {
        Object::EndpointSlice(slice) => (*slice).clone(),
        other => panic!("not a slice: {other:?}"),
    }
}

#[test]
fn k7_absent_conditions_are_ready_serving_and_not_terminating() {
    let slice = slice(
        "addressType: IPv4\nendpoints: [{addresses: [10.1.0.1]}, \
                       {addresses: [10.1.0.2], conditions: {ready: false}}, \
                       {addresses: [10.1.0.3], conditions: {ready: false, serving: true, terminating: true}}]",
    );
    let found: Vec<_> = slice.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
    assert_eq!(found, [(true, true, false), (false, true, false), (false, true, true)]);
    assert_eq!(slice.service, ObjectName::new("dev", "ent"), "K6: bound by the label");
}

#[test]
fn k7_only_the_first_address_counts_and_ports_without_a_number_do_not() {
    let slice = slice(
        "addressType: IPv4\nendpoints: [{addresses: [10.1.0.1, 10.1.0.2]}]\n\
                       ports: [{name: a}, {name: b, port: 0}, {port: 53, protocol: UDP}]",
    );
    let addresses: Vec<String> = slice.endpoints.iter().map(|e| e.address.to_string()).collect();
    assert_eq!(addresses, ["10.1.0.1"]);
    let port = crate::cluster::SlicePort { name: "".into(), protocol: Protocol::Udp, port: 53 };
    assert_eq!(slice.ports, [port], "the API server makes an absent name the empty one");
}

#[test]
fn k6_k7_a_slice_without_a_service_or_with_names_for_addresses_is_ignored() {
    let head = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a";
    for tail in ["}\naddressType: IPv4", ", labels: {kubernetes.io/service-name: ent}}\naddressType: FQDN"] {
        let found = readings(&format!("{head}{tail}"));
        assert!(
            matches!(found.as_slice(), [Reading::Ignored(what)] if what.contains("default/a")),
            "{found:?}"
        );
    }
}

#[test]
fn a_bad_endpoint_slice_is_refused_and_the_field_named() {
    let table = [
        ("addressType: IPv5", "addressType: \"IPv5\" is not one of"),
        ("endpoints: []", "addressType: is missing"),
        ("addressType: IPv4\nendpoints: [{addresses: []}]", "endpoints[0].addresses: must hold an address"),
        (
            "addressType: IPv4\nendpoints: [{addresses: [x]}]",
            "endpoints[0].addresses[0]: \"x\" is no IP address",
        ),
        (
            "addressType: IPv4\nendpoints: [{addresses: [\"fd00::1\"]}]",
            "endpoints[0].addresses[0]: fd00::1 is not of",
        ),
        (
            "addressType: IPv6\nendpoints: [{addresses: [\"::ffff:10.1.0.1\"]}]",
            "endpoints[0].addresses[0]: \"::ffff",
        ),
        (
            "addressType: IPv4\nendpoints: [{addresses: [169.254.1.1]}]",
            "endpoints[0].addresses[0]: \"169.254.1.1\" is a link",
        ),
        (
            "addressType: IPv4\nendpoints: [{addresses: [10.1.0.1], conditions: {ready: \"True\"}}]",
            "endpoints[0].conditions.ready: must be true or false",
        ),
        (
            "addressType: IPv4\nendpoints: [{addresses: [10.1.0.1], hostname: A.B}]",
            "endpoints[0].hostname: \"A.B\"",
        ),
        ("addressType: IPv4\nports: [{port: 65536}]", "ports[0].port: 65536 is outside"),
        ("addressType: IPv4\nports: [{port: 1}, {port: 2}]", "ports[1].name: \"\" is there twice"),
    ];
    for (body, wanted) in table {
        let found = refusal(&format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: ent-1, \
             labels: {{kubernetes.io/service-name: ent}}}}\n{body}"
        ));
        assert!(found.starts_with(wanted), "{body}\n wanted {wanted}\n found  {found}");
    }
}

fn pod(body: &str) -> Pod {
    match object(&format!("apiVersion: v1\nkind: Pod\n{body}")) {
        Object::Pod(pod) => (*pod).clone(),
        other => panic!("not a Pod: {other:?}"),
    }
}

#[test]
fn a_pod_is_read_with_its_addresses_readiness_and_named_ports() {
    let pod = pod("metadata: {name: a, labels: {app: x}, deletionTimestamp: 2026-01-01T00:00:00Z}\n\
         spec: {nodeName: n1, hostname: h, subdomain: ent, containers: [{ports: [{containerPort: 8080, name: http}, \
         {containerPort: 9}]}], initContainers: [{ports: [{name: once, containerPort: 1}]}, \
         {restartPolicy: Always, ports: [{name: side, containerPort: 2, protocol: UDP}]}]}\n\
         status: {phase: Running, podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}, {ip: \"fd00::1\"}], \
         conditions: [{type: Initialized, status: \"False\"}, {type: Ready, status: \"True\"}]}");
    assert!(pod.ready && pod.terminating && !pod.finished);
    assert_eq!(pod.addresses.len(), 2);
    assert_eq!(
        (pod.node.as_deref(), pod.hostname.as_deref(), pod.subdomain.as_deref()),
        (Some("n1"), Some("h"), Some("ent"))
    );
    let ports: Vec<_> = pod.ports.iter().map(|p| (&*p.name, p.protocol, p.port)).collect();
    assert_eq!(ports, [("http", Protocol::Tcp, 8080), ("side", Protocol::Udp, 2)]);
}

#[test]
fn a_pod_without_a_ready_condition_is_not_ready() {
    for status in ["{podIP: 10.1.0.1}", "{conditions: [{type: Ready, status: Unknown}]}", "{conditions: []}"]
    {
        assert!(!pod(&format!("metadata: {{name: a}}\nstatus: {status}")).ready, "{status}");
    }
    assert!(pod("metadata: {name: a}\nstatus: {phase: Succeeded}").finished);
    assert!(pod("metadata: {name: a}\nstatus: {phase: Failed}").finished);
}

#[test]
fn a_bad_pod_is_refused_and_the_field_named() {
    let table = [
        ("{podIP: 300.1.1.1}", "status.podIP: \"300.1.1.1\" is no IP address"),
        ("{podIPs: [{ip: 10.1.0.1}, {ip: 10.1.0.2}]}", "status.podIPs[1].ip: 10.1.0.2 is a second address"),
        (
            "{podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.2}]}",
            "status.podIPs[0].ip: must be the same as status.podIP",
        ),
        (
            "{conditions: [{type: Ready, status: true}]}",
            "status.conditions[0].status: must be text (in quotes",
        ),
    ];
    for (status, wanted) in table {
        let found = refusal(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nstatus: {status}"));
        assert!(found.starts_with(wanted), "{status}\n wanted {wanted}\n found  {found}");
    }
}

#[test]
fn endpoints_are_read_ready_and_not_ready_and_told_when_not_to_be_mirrored() {
    let endpoints = |metadata: &str| match object(&format!(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: ent{metadata}}}\nsubsets: [{{addresses: \
         [{{ip: 10.1.0.1, nodeName: n1, hostname: h, targetRef: {{kind: Pod, name: p}}}}], \
         notReadyAddresses: [{{ip: 10.1.0.2}}], ports: [{{port: 80}}]}}]"
    )) {
        Object::Endpoints(endpoints) => endpoints,
        other => panic!("{other:?}"),
    };
    let plain = endpoints("");
    let found: Vec<_> = plain.subsets[0].endpoints.iter().map(|e| (e.ready, e.pod.as_deref())).collect();
    assert_eq!(found, [(true, Some("p")), (false, None)]);
    assert!(!plain.skip_mirror);
    assert!(endpoints(", labels: {endpointslice.kubernetes.io/skip-mirror: \"true\"}").skip_mirror);
    assert!(!endpoints(", labels: {endpointslice.kubernetes.io/skip-mirror: \"false\"}").skip_mirror);
    assert!(endpoints(", annotations: {control-plane.alpha.kubernetes.io/leader: x}").skip_mirror);
}

#[test]
fn a_node_has_the_addresses_that_are_addresses_and_a_zone() {
    let Object::Node(node) = object(
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1.example, labels: {topology.kubernetes.io/zone: a}}\n\
         status: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 192.168.0.1}]}",
    ) else {
        panic!()
    };
    assert_eq!(node.addresses, ["192.168.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(node.zone.as_deref(), Some("a"));
}

#[test]
fn k33_a_node_that_is_deleted_or_tainted_for_it_is_leaving() {
    let is_leaving = |metadata: &str, spec: &str| {
        let yaml = format!("apiVersion: v1\nkind: Node\nmetadata: {{name: node-a{metadata}}}\nspec: {spec}");
        match object(&yaml) {
            Object::Node(node) => node.is_leaving,
            other => panic!("{other:?}"),
        }
    };
    let taint = "{taints: [{key: a}, {key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}";
    assert!(!is_leaving("", "{taints: [{key: a}]}"));
    assert!(is_leaving("", taint));
    assert!(is_leaving(", deletionTimestamp: \"2026-01-01T00:00:00Z\"", "{}"));
}
