//! Events from objects: what is sent, in which order, and that a history ends where a fresh start begins.

use proptest::prelude::*;

use super::super::file;
use super::*;
use crate::cluster::Dirty;

struct Source {
    inventory: Inventory,
    projection: Projection,
    cluster: Cluster,
}

impl Source {
    fn new() -> Self {
        let cidrs = vec!["10.96.0.0/16".parse().unwrap()];
        Self {
            inventory: Inventory::default(),
            projection: Projection::new(ClusterIps::new(cidrs, Addresses::new()), false),
            cluster: Cluster::default(),
        }
    }

    /// Takes in a file, none for one that is gone, and returns the events in words.
    fn apply(&mut self, name: &str, yaml: Option<&str>) -> Vec<String> {
        let name: Arc<str> = name.into();
        let changes = match yaml {
            Some(yaml) => self.inventory.apply(&name, file::read("x.yaml", yaml.as_bytes()).unwrap()),
            None => self.inventory.remove(&name),
        };
        let events = self.projection.apply(&self.inventory, &changes);
        let shown = events.iter().map(shown).collect();
        for event in events {
            let mut dirty = Dirty::default();
            self.cluster.apply(event, &mut dirty);
        }
        assert_eq!(self.cluster, self.projection.sent, "the events are all there is");
        shown
    }

    fn address(&self, service: &str) -> Option<String> {
        match &self.cluster.service(&ObjectName::new("dev", service))?.kind {
            ServiceKind::ClusterIp(addresses) => Some(addresses.first()?.to_string()),
            other => panic!("{other:?}"),
        }
    }
}

fn shown(event: &Event) -> String {
    match event {
        Event::ServiceApplied(service) => format!("+service {}", service.name),
        Event::ServiceDeleted(name) => format!("-service {name}"),
        Event::SliceApplied(slice) => {
            let addresses: Vec<String> = slice.endpoints.iter().map(|e| e.address.to_string()).collect();
            format!("+slice {} of {}: {}", slice.name, slice.service, addresses.join(" "))
        }
        Event::SliceDeleted { name, service } => format!("-slice {name} of {service}"),
        Event::PodApplied(pod) => format!("+pod {} {:?}", pod.name, pod.addresses),
        Event::PodDeleted(name) => format!("-pod {name}"),
        Event::NamespaceApplied(name) => format!("+namespace {name}"),
        Event::NamespaceDeleted(name) => format!("-namespace {name}"),
        Event::NodeApplied(node) => format!("+node {}", node.name),
        Event::NodeDeleted(name) => format!("-node {name}"),
    }
}

fn service(name: &str, spec: &str) -> String {
    let metadata = format!("{{name: {name}, namespace: dev}}");
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {metadata}\nspec: {{ports: [{{port: 80}}]{spec}}}\n---\n"
    )
}

fn pod(name: &str, app: &str, last: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: dev, labels: {{app: {app}}}}}\n\
         spec: {{nodeName: n1}}\n\
         status: {{podIP: 10.1.0.{last}, conditions: [{{type: Ready, status: \"True\"}}]}}\n---\n"
    )
}

fn slice(name: &str, service: &str, last: u8) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: dev, labels: \
         {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nendpoints: [{{addresses: [10.2.0.{last}]}}]\n---\n"
    )
}

const NODE: &str =
    "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}\n---\n";
const ENT: &str = ", clusterIP: 10.96.0.5, selector: {app: x}";
const PODS: &str = "ent:pods:IPv4:/TCP=80";

#[test]
fn a_service_and_its_pods_become_a_namespace_a_service_and_a_slice() {
    let mut source = Source::new();
    let events = source.apply("a", Some(&(service("ent", ENT) + &pod("a", "x", 1) + &pod("b", "z", 2))));
    assert_eq!(
        events,
        [
            "+namespace dev".into(),
            "+service dev/ent".into(),
            format!("+slice dev/{PODS} of dev/ent: 10.1.0.1")
        ]
    );
    let events = source.apply("b", Some(&pod("c", "x", 3)));
    assert_eq!(events, [format!("+slice dev/{PODS} of dev/ent: 10.1.0.1 10.1.0.3")]);
    let events = source.apply("a", Some(&service("ent", ENT)));
    assert_eq!(events, [format!("+slice dev/{PODS} of dev/ent: 10.1.0.3")]);
    let events = source.apply("b", None);
    assert_eq!(events, [format!("-slice dev/{PODS} of dev/ent")]);
    let events = source.apply("a", None);
    assert_eq!(events, ["-service dev/ent", "-namespace dev"]);
    assert_eq!(source.cluster, Cluster::default());
}

#[test]
fn a_rewrite_that_changes_nothing_sends_nothing() {
    let mut source = Source::new();
    let text = service("ent", ENT) + &pod("a", "x", 1) + NODE + &slice("s", "ent", 9);
    assert!(!source.apply("a", Some(&text)).is_empty());
    assert_eq!(source.apply("a", Some(&format!("# a comment\n{text}"))), Vec::<String>::new());
}

#[test]
fn new_endpoints_come_before_old_ones_go() {
    let mut source = Source::new();
    source.apply("a", Some(&(service("ent", ENT) + &pod("a", "x", 1))));
    let events = source
        .apply("a", Some(&(service("ent", ENT).replace("80}", "80, targetPort: 81}") + &pod("a", "x", 1))));
    assert_eq!(
        events,
        [
            "+slice dev/ent:pods:IPv4:/TCP=81 of dev/ent: 10.1.0.1".to_owned(),
            format!("-slice dev/{PODS} of dev/ent")
        ]
    );
}

#[test]
fn a_slice_that_moves_to_another_service_is_deleted_there_first() {
    let mut source = Source::new();
    source.apply("a", Some(&slice("s", "one", 1)));
    let events = source.apply("a", Some(&slice("s", "two", 1)));
    assert_eq!(events, ["-slice dev/s of dev/one", "+slice dev/s of dev/two: 10.2.0.1"]);
    assert_eq!(source.apply("a", None), ["-slice dev/s of dev/two", "-namespace dev"]);
}

#[test]
fn a_zone_that_changes_reaches_the_endpoints_on_the_node() {
    let mut source = Source::new();
    source.apply("a", Some(&(service("ent", ENT) + &pod("a", "x", 1))));
    let zone = |source: &Source| {
        let slice = source.cluster.slices_of(&ObjectName::new("dev", "ent")).next().unwrap();
        slice.endpoints[0].zone.clone()
    };
    assert_eq!(zone(&source), None);
    assert_eq!(source.apply("n", Some(NODE)).len(), 2);
    assert_eq!(zone(&source).as_deref(), Some("a"));
    assert_eq!(source.apply("n", None).last().map(String::as_str), Some("-node n1"));
    assert_eq!(zone(&source), None);
}

#[test]
fn endpoints_are_mirrored_when_the_selector_goes() {
    let mut source = Source::new();
    let endpoints = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: ent, namespace: dev}\n\
                     subsets: [{addresses: [{ip: 10.3.0.1}], ports: [{port: 80}]}]\n---\n";
    let events = source.apply("a", Some(&(service("ent", ENT) + endpoints)));
    assert_eq!(events, ["+namespace dev", "+service dev/ent"]);
    let events = source.apply("a", Some(&(service("ent", ", clusterIP: 10.96.0.5") + endpoints)));
    assert_eq!(events, ["+slice dev/ent:endpoints:IPv4:/TCP=80 of dev/ent: 10.3.0.1"]);
}

#[test]
fn a_service_refused_for_its_cluster_ip_keeps_its_earlier_version_whole() {
    let mut source = Source::new();
    source.apply("a", Some(&service("one", ", clusterIP: 10.96.0.5")));
    source.apply("b", Some(&service("two", ", clusterIP: 10.96.0.6")));
    assert_eq!(
        source.apply("b", Some(&service("two", ", clusterIP: 10.96.0.5, selector: {app: x}"))),
        Vec::<String>::new()
    );
    let fault = &source.projection.refused()[&ObjectName::new("dev", "two")];
    assert_eq!(
        (&*fault.field, &*fault.what),
        ("spec.clusterIP", "10.96.0.5 is in force for Service dev/one")
    );
    assert_eq!(
        source.apply("p", Some(&pod("a", "x", 1))),
        Vec::<String>::new(),
        "not by the refused selector"
    );
    let events = source.apply("a", None);
    assert_eq!(
        events,
        [
            "+service dev/two".to_owned(),
            "+slice dev/two:pods:IPv4:/TCP=80 of dev/two: 10.1.0.1".into(),
            "-service dev/one".into()
        ]
    );
    assert!(source.projection.refused().is_empty(), "free again, so it takes effect");
}

#[test]
fn an_assigned_cluster_ip_does_not_move_while_files_come_and_go() {
    let mut source = Source::new();
    source.apply("b", Some(&service("ent", "")));
    let address = source.address("ent").unwrap();
    source.apply("a", Some(&service("other", &format!(", clusterIP: {address}"))));
    source.apply("b", Some(&service("ent", ", selector: {app: x}")));
    assert_eq!(source.address("ent"), Some(address));
    assert_eq!(source.address("other"), None);
}

#[test]
fn what_services_were_given_is_remembered_until_a_sound_set_of_files_has_them_no_more() {
    let mut source = Source::new();
    source.apply("a", Some(&service("ent", "")));
    source.apply("b", Some(&service("stated", ", clusterIP: 10.96.0.5")));
    let remembered = |source: &Source| source.projection.cluster_ips().remembered().len();
    assert_eq!(remembered(&source), 1, "only what was assigned");
    source.apply("c", Some("apiVersion: v1\nkind: Service\nmetadata: {name: A}\n"));
    source.apply("a", None);
    assert_eq!(remembered(&source), 1, "a file is bad: it might be there");
    source.apply("c", None);
    source.apply("b", None);
    assert_eq!(remembered(&source), 0);
}

/// One of a few documents, so that random files often hold versions of the same object.
fn document() -> impl Strategy<Value = String> {
    let name = prop_oneof![Just("one"), Just("two"), Just("three")];
    let app = prop_oneof![Just("x"), Just("z")];
    prop_oneof![
        (name.clone(), app.clone(), 1..4_u8).prop_map(|(name, app, last)| pod(name, app, last)),
        (
            name.clone(),
            prop_oneof![
                Just(", clusterIP: None, selector: {app: x}"),
                Just(", clusterIP: None"),
                Just(", clusterIP: None, selector: {app: z}")
            ]
        )
            .prop_map(|(name, spec)| service(name, spec)),
        (name.clone(), prop_oneof![Just("one"), Just("two")], 1..4_u8)
            .prop_map(|(name, service, last)| slice(name, service, last)),
        name.prop_map(|name| format!(
            "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: {name}, namespace: dev}}\n\
             subsets: [{{addresses: [{{ip: 10.3.0.1}}]}}]\n---\n"
        )),
        Just(NODE.to_owned()),
        Just("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n---\n".to_owned()),
        Just("apiVersion: v1\nkind: Namespace\nmetadata: {name: dev}\n---\n".to_owned()),
    ]
}

proptest! {
    #[test]
    fn a_history_of_changes_ends_where_a_fresh_start_with_the_last_files_begins(
        steps in prop::collection::vec((0..3_u8, prop::option::of(prop::collection::vec(document(), 1..6))), 1..12),
    ) {
        let mut source = Source::new();
        let mut files = BTreeMap::new();
        for (file, documents) in steps {
            let name = format!("{file}.yaml");
            let text = documents.map(|documents| documents.concat());
            source.apply(&name, text.as_deref());
            match text {
                Some(text) => files.insert(name, text),
                None => files.remove(&name),
            };
        }
        let mut fresh = Source::new();
        for (name, text) in &files {
            fresh.apply(name, Some(text));
        }
        prop_assert_eq!(source.cluster, fresh.cluster);
    }
}

#[test]
fn pods_are_sent_if_asked_for_and_only_while_they_may_be_named() {
    let mut source = Source::new();
    source.projection.follows_pods = true;
    let one = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: dev}\nstatus: {podIPs: [{ip: 10.1.0.1}, \
               {ip: 'fd00::1'}]PHASE}\n";
    let running = one.replace("PHASE", "");
    assert_eq!(source.apply("a.yaml", Some(&running)), ["+namespace dev", "+pod dev/a [10.1.0.1, fd00::1]"]);
    let ended = one.replace("PHASE", ", phase: Succeeded");
    assert_eq!(source.apply("a.yaml", Some(&ended)), ["-pod dev/a"]);
    assert_eq!(source.apply("a.yaml", Some(&running)), ["+pod dev/a [10.1.0.1, fd00::1]"]);
    assert_eq!(source.apply("a.yaml", None), ["-pod dev/a", "-namespace dev"]);
}
