use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::wire::{Line, read_line, read_page};
use super::*;
use crate::cluster::{Cluster, Dirty};

fn service(name: &str, port: u64) -> Value {
    let metadata = json!({ "name": name, "namespace": "dev", "uid": format!("uid-{name}") });
    json!({ "metadata": metadata, "spec": { "clusterIP": "10.96.0.1", "ports": [{ "port": port }] } })
}

fn slice(name: &str, of: &str, address: &str) -> Value {
    let labels = json!({ "kubernetes.io/service-name": of });
    json!({
        "metadata": { "name": name, "namespace": "dev", "labels": labels },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [address], "nodeName": "node-1", "zone": "zone-a" }],
        "ports": [{ "port": 8080 }],
    })
}

fn namespace(name: &str) -> Value {
    json!({ "metadata": { "name": name } })
}

/// A mirror, and what follows its events.
struct Rig {
    mirror: Mirror,
    cluster: Cluster,
}

impl Rig {
    fn new() -> Self {
        let kinds = [Kind::Namespace, Kind::Service, Kind::EndpointSlice];
        Self { mirror: Mirror::new(kinds), cluster: Cluster::default() }
    }

    /// One whose lists were all empty.
    fn synced() -> Self {
        let mut rig = Self::new();
        for kind in [Kind::Namespace, Kind::Service, Kind::EndpointSlice] {
            rig.list(kind, &[]);
        }
        assert!(rig.mirror.is_synced());
        rig
    }

    fn list(&mut self, kind: Kind, objects: &[Value]) {
        self.mirror.apply(Told::ListBegan(kind));
        let page = json!({ "items": objects }).to_string();
        self.mirror.apply(Told::Listed(kind, read_page(kind, page.as_bytes()).unwrap().items));
        self.mirror.apply(Told::ListEnded(kind));
    }

    fn line(&mut self, kind: Kind, type_: &str, object: &Value) -> bool {
        let line = json!({ "type": type_, "object": object }).to_string();
        let told = match read_line(kind, line.as_bytes()).unwrap() {
            Line::Applied(item) => Told::Applied(kind, item),
            Line::Deleted(item) => Told::Deleted(kind, item),
            other => panic!("{other:?}"),
        };
        self.mirror.apply(told)
    }

    /// Takes the events, and says in words what they were.
    fn events(&mut self) -> Vec<String> {
        let events = self.mirror.take_events();
        let words = events.iter().map(|event| match event {
            Event::ServiceApplied(service) => format!("+service {}:{}", service.name, service.ports[0].port),
            Event::ServiceDeleted(name) => format!("-service {name}"),
            Event::SliceApplied(slice) => {
                format!("+slice {} of {} {}", slice.name, slice.service, slice.endpoints[0].address)
            }
            Event::SliceDeleted { name, service } => format!("-slice {name} of {service}"),
            Event::NamespaceApplied(name) => format!("+namespace {name}"),
            Event::NamespaceDeleted(name) => format!("-namespace {name}"),
            other => format!("{other:?}"),
        });
        let words = words.collect();
        for event in events {
            self.cluster.apply(event, &mut Dirty::default());
        }
        words
    }

    fn problems(&self) -> Vec<String> {
        self.mirror.problems().iter().map(ToString::to_string).collect()
    }
}

#[test]
fn k2_nothing_is_said_before_all_kinds_are_listed() {
    let mut rig = Rig::new();
    rig.list(Kind::Service, &[service("a", 80)]);
    rig.list(Kind::Namespace, &[namespace("dev")]);
    rig.line(Kind::Service, "ADDED", &service("b", 80));
    rig.line(Kind::Service, "DELETED", &service("a", 80));
    assert!(!rig.mirror.is_synced() && rig.events().is_empty());
    rig.list(Kind::EndpointSlice, &[slice("b-1", "b", "10.1.0.1")]);
    assert!(rig.mirror.is_synced());
    assert_eq!(rig.events(), ["+namespace dev", "+service dev/b:80", "+slice dev/b-1 of dev/b 10.1.0.1"]);
}

#[test]
fn names_of_pods_are_kept_where_they_are_asked_for_and_nowhere_else() {
    let mut object = slice("a-1", "a", "10.1.0.1");
    object["endpoints"][0]["targetRef"] = json!({ "kind": "Pod", "namespace": "dev", "name": "a-x7k" });
    for is_asked in [true, false] {
        let mut rig = Rig::synced();
        if !is_asked {
            rig.mirror = rig.mirror.without_pod_names();
        }
        rig.line(Kind::EndpointSlice, "ADDED", &object);
        rig.events();
        let slices: Vec<_> = rig.cluster.slices_of(&ObjectName::new("dev", "a")).collect();
        assert_eq!(slices[0].endpoints[0].pod.as_deref(), is_asked.then_some("a-x7k"));
    }
}

#[test]
fn a_list_replaces_all_that_was_known_at_its_end_and_at_once() {
    let mut rig = Rig::synced();
    rig.list(Kind::Service, &[service("a", 80), service("b", 80)]);
    rig.events();
    rig.mirror.apply(Told::ListBegan(Kind::Service));
    let page = json!({ "items": [service("b", 81), service("c", 80)] }).to_string();
    let items = read_page(Kind::Service, page.as_bytes()).unwrap().items;
    rig.mirror.apply(Told::Listed(Kind::Service, items));
    assert!(rig.events().is_empty());
    rig.mirror.apply(Told::ListEnded(Kind::Service));
    assert_eq!(rig.events(), ["+service dev/b:81", "+service dev/c:80", "-service dev/a"]);
}

#[test]
fn a_list_that_breaks_off_changes_nothing() {
    let mut rig = Rig::synced();
    rig.list(Kind::Service, &[service("a", 80)]);
    rig.events();
    rig.mirror.apply(Told::ListBegan(Kind::Service));
    rig.list(Kind::Service, &[service("a", 80)]);
    assert!(rig.events().is_empty());
}

#[test]
fn a_list_that_changes_nothing_says_nothing_and_keeps_the_very_values() {
    let mut rig = Rig::synced();
    rig.list(Kind::EndpointSlice, &[slice("a-1", "a", "10.1.0.1")]);
    rig.events();
    let before = rig.mirror.contents().slices;
    rig.list(Kind::EndpointSlice, &[slice("a-1", "a", "10.1.0.1")]);
    assert!(!rig.mirror.has_touched());
    assert!(Arc::ptr_eq(&before[0], &rig.mirror.contents().slices[0]));
}

#[test]
fn changes_that_cancel_each_other_say_nothing() {
    let mut rig = Rig::synced();
    rig.list(Kind::Service, &[service("a", 80)]);
    rig.events();
    assert!(rig.line(Kind::Service, "MODIFIED", &service("a", 81)));
    assert!(rig.line(Kind::Service, "MODIFIED", &service("a", 80)));
    assert!(rig.line(Kind::Service, "ADDED", &service("b", 80)));
    assert!(rig.line(Kind::Service, "DELETED", &service("b", 80)));
    assert!(!rig.line(Kind::Service, "MODIFIED", &service("a", 80)), "nothing new");
    assert!(rig.events().is_empty());
}

#[test]
fn a_slice_that_goes_to_another_service_leaves_the_first() {
    let mut rig = Rig::synced();
    rig.line(Kind::EndpointSlice, "ADDED", &slice("s", "a", "10.1.0.1"));
    rig.events();
    rig.line(Kind::EndpointSlice, "MODIFIED", &slice("s", "b", "10.1.0.1"));
    assert_eq!(rig.events(), ["-slice dev/s of dev/a", "+slice dev/s of dev/b 10.1.0.1"]);
    let none = json!({ "metadata": { "name": "s", "namespace": "dev" }, "addressType": "IPv4" });
    rig.line(Kind::EndpointSlice, "MODIFIED", &none);
    assert_eq!(rig.events(), ["-slice dev/s of dev/b"]);
}

#[test]
fn a_bad_object_is_named_and_its_last_good_version_stays() {
    let mut rig = Rig::synced();
    rig.line(Kind::Service, "ADDED", &service("a", 80));
    rig.events();
    assert!(!rig.line(Kind::Service, "MODIFIED", &service("a", 0)));
    assert!(!rig.line(Kind::Service, "ADDED", &service("b", 70_000)));
    assert!(rig.events().is_empty());
    let said = [
        "Service dev/a: spec.ports[0].port: 0 is outside 1..=65535",
        "Service dev/b: spec.ports[0].port: 70000 is outside 1..=65535",
    ];
    assert_eq!(rig.problems(), said);
    let complaints = rig.mirror.take_complaints();
    assert_eq!(complaints.len(), 2);
    assert_eq!(complaints[0].uid.as_deref(), Some("uid-a"));

    rig.list(Kind::Service, &[service("a", 0), service("b", 70_000)]);
    assert_eq!((rig.events(), rig.problems()), (Vec::new(), said.map(str::to_owned).to_vec()));
    assert!(rig.mirror.take_complaints().is_empty(), "said once");
    rig.line(Kind::Service, "MODIFIED", &service("a", 81));
    rig.line(Kind::Service, "DELETED", &json!({ "metadata": { "name": "b", "namespace": "dev" } }));
    assert_eq!((rig.events(), rig.problems()), (vec!["+service dev/a:81".to_owned()], Vec::new()));
}

#[test]
fn an_object_that_may_be_a_nameless_one_is_not_taken_for_gone() {
    let mut rig = Rig::synced();
    rig.list(Kind::Service, &[service("a", 80), service("b", 80)]);
    rig.events();
    rig.list(Kind::Service, &[service("b", 81), json!({ "metadata": 7 })]);
    assert_eq!(rig.events(), ["+service dev/b:81"]);
    assert_eq!(rig.problems(), ["Service without a usable name: metadata: must be a map, not the number 7"]);
    rig.list(Kind::Service, &[service("b", 81)]);
    assert_eq!((rig.events(), rig.problems()), (vec!["-service dev/a".to_owned()], Vec::new()));
}

#[test]
fn what_an_earlier_run_knew_stays_whole_until_all_is_listed_and_then_only_differences_are_said() {
    let mut earlier = Rig::synced();
    earlier.list(Kind::Service, &[service("a", 80), service("b", 80), service("c", 80)]);
    earlier.list(Kind::EndpointSlice, &[slice("a-1", "a", "10.1.0.1")]);
    let mut rig = Rig::new();
    rig.mirror.seed(earlier.mirror.contents());
    assert_eq!(rig.events().len(), 4);
    rig.list(Kind::Service, &[service("a", 80), service("b", 81), service("c", 0)]);
    rig.list(Kind::Namespace, &[]);
    assert!(rig.events().is_empty(), "slices are still the old ones");
    rig.list(Kind::EndpointSlice, &[slice("a-1", "a", "10.1.0.1"), slice("a-2", "a", "10.1.0.2")]);
    assert_eq!(rig.events(), ["+service dev/b:81", "+slice dev/a-2 of dev/a 10.1.0.2"]);
}

#[test]
fn names_that_many_endpoints_have_in_common_are_kept_once() {
    let mut rig = Rig::synced();
    rig.list(Kind::EndpointSlice, &[slice("a", "a", "10.1.0.1"), slice("b", "b", "10.1.0.2")]);
    let slices = rig.mirror.contents().slices;
    let [one, two] = [&slices[0].endpoints[0], &slices[1].endpoints[0]];
    assert!(Arc::ptr_eq(one.node.as_ref().unwrap(), two.node.as_ref().unwrap()));
    assert!(Arc::ptr_eq(one.zone.as_ref().unwrap(), two.zone.as_ref().unwrap()));
}

/// A step of a random history of one server.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Bad(u8),
    Relist,
    BreakOff,
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5_u8, 1..4_u8).prop_map(|(name, port)| Step::Put(name, port)),
        3 => (0..5_u8).prop_map(Step::Delete),
        1 => (0..5_u8).prop_map(Step::Bad),
        1 => Just(Step::Relist),
        1 => Just(Step::BreakOff),
        3 => Just(Step::Take),
    ]
}

proptest! {
    /// Whatever the history, the events lead to what the server has; of a bad object, to its last good version.
    #[test]
    fn events_always_lead_to_what_the_server_has(steps in proptest::collection::vec(step(), 0..60)) {
        let mut rig = Rig::synced();
        let mut server: BTreeMap<String, Value> = BTreeMap::new();
        let mut good: BTreeMap<String, u64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(name, port) => {
                    let name = format!("s{name}");
                    let object = service(&name, port.into());
                    rig.line(Kind::Service, "MODIFIED", &object);
                    server.insert(name.clone(), object);
                    good.insert(name, port.into());
                }
                Step::Bad(name) => {
                    let name = format!("s{name}");
                    rig.line(Kind::Service, "MODIFIED", &service(&name, 0));
                    server.insert(name.clone(), service(&name, 0));
                }
                Step::Delete(name) => {
                    let name = format!("s{name}");
                    if let Some(object) = server.remove(&name) {
                        rig.line(Kind::Service, "DELETED", &object);
                    }
                    good.remove(&name);
                }
                Step::Relist => rig.list(Kind::Service, &server.values().cloned().collect::<Vec<_>>()),
                Step::BreakOff => {
                    rig.mirror.apply(Told::ListBegan(Kind::Service));
                    rig.list(Kind::Service, &server.values().cloned().collect::<Vec<_>>());
                }
                Step::Take => {
                    rig.events();
                }
            }
        }
        rig.events();
        let has: BTreeMap<String, u64> = rig
            .cluster
            .services()
            .map(|service| (service.name.name.to_string(), service.ports[0].port.into()))
            .collect();
        prop_assert_eq!(has, good);
    }
}
