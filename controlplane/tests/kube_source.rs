//! The source `kubernetes` against an API server without a network, in virtual time.

mod api_server;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use api_server::objects::{namespace, service, slice};
use api_server::{ApiServer, Fault, NAMESPACES, SERVICES, SLICES};
use serde_json::json;
use tidegate::cluster::{Cluster, Dirty, Event};
use tidegate::objects::Kind;
use tidegate::watch::{Kubernetes, Limits, Settings};
use tokio::time::{Instant, timeout};

const LIMITS: Duration = Duration::from_secs(40);

fn settings() -> Settings {
    Settings {
        kubeconfig: None,
        node_name: None,
        pods: false,
        pod_names: false,
        service_cidrs: Vec::new(),
        cluster_file: None,
        limits: Limits::of_watch(LIMITS),
        complain: false,
    }
}

fn follow(server: &ApiServer) -> Kubernetes {
    Kubernetes::follow(server.client(), "test", settings())
}

/// A server with one Service of two endpoints.
fn server() -> ApiServer {
    let server = ApiServer::new();
    server.put_service("dev", "ent", "10.96.1.10", &["10.244.0.11", "10.244.0.12"]);
    server
}

fn relists(source: &Kubernetes) -> u64 {
    source.standing().watches.iter().map(|watch| watch.relists).sum()
}

fn troubles(source: &Kubernetes) -> String {
    source.standing().troubles().join("\n")
}

/// Lets time go by; a source that says something fails the test.
async fn quiet(source: &mut Kubernetes, time: Duration) {
    if let Ok(update) = timeout(time, source.next()).await {
        panic!("it said {:?}", update.events);
    }
}

#[tokio::test(start_paused = true)]
async fn everything_comes_first_and_then_differences() {
    let server = server();
    let mut source = follow(&server);
    let first = source.next().await;
    assert_eq!(first.events.len(), 3, "{:?}", first.events);
    server.put(SLICES, slice("dev", "ent", &["10.244.0.11"]));
    let update = source.next().await;
    let [Event::SliceApplied(changed)] = &update.events[..] else { panic!("{update:?}") };
    assert_eq!((changed.endpoints.len(), update.origins.len()), (1, 1));
    server.delete(SERVICES, "dev", "ent");
    assert!(
        matches!(&source.next().await.events[..], [Event::ServiceDeleted(name)] if name.to_string() == "dev/ent")
    );
    let objects = source.report().objects;
    assert_eq!(
        (objects[&Kind::Service], objects[&Kind::EndpointSlice], objects[&Kind::Namespace]),
        (0, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_cluster_is_everything_too() {
    let update = follow(&ApiServer::new()).next().await;
    assert!(update.events.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_before_services_and_slices_are_both_there() {
    let server = server();
    server.set_fault(Some(Fault::Hang));
    let mut source = follow(&server);
    quiet(&mut source, Duration::from_secs(60)).await;
    assert!(troubles(&source).starts_with("waiting: the API server has not said all yet\nwatch of "));
    server.set_fault(None);
    assert_eq!(source.next().await.events.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_long_list_comes_in_parts() {
    let server = server();
    for number in 0..1203 {
        server.put(NAMESPACES, namespace(&format!("n{number}")));
    }
    let mut source = follow(&server);
    assert_eq!(source.next().await.events.len(), 1206);
    assert_eq!(server.requests("list namespaces"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_list_whose_rest_expired_is_begun_anew() {
    let server = server();
    for number in 0..700 {
        server.put(NAMESPACES, namespace(&format!("n{number}")));
    }
    server.set_fault(Some(Fault::ExpiredContinue));
    let mut source = follow(&server);
    quiet(&mut source, Duration::from_secs(5)).await;
    server.set_fault(None);
    assert_eq!(source.next().await.events.len(), 703);
    assert!(relists(&source) > 0);
}

#[tokio::test(start_paused = true)]
async fn a_burst_goes_out_together_and_a_change_that_comes_alone_at_once() {
    let server = server();
    let mut source = follow(&server);
    source.next().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    server.put(SERVICES, service("dev", "one", "10.96.2.0"));
    assert_eq!(source.next().await.events.len(), 1);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    for number in 1..=50 {
        server.put(SERVICES, service("dev", &format!("s{number}"), &format!("10.96.2.{number}")));
        // The runtime's clock goes by milliseconds.
        if number % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut updates = 0;
    let mut events = 0;
    while events < 50 {
        events += source.next().await.events.len();
        updates += 1;
    }
    assert!(updates <= 3, "{updates} updates");
    assert!(begun.elapsed() < Duration::from_millis(20), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_history_that_was_forgotten_is_read_anew_without_a_word_if_nothing_changed() {
    let server = server();
    let mut source = follow(&server);
    source.next().await;
    server.forget_history();
    server.cut();
    quiet(&mut source, Duration::from_secs(30)).await;
    assert_eq!(relists(&source), 3);
    assert_eq!(troubles(&source), "");
}

#[tokio::test(start_paused = true)]
async fn what_went_while_the_history_was_forgotten_is_said_as_differences() {
    let server = server();
    server.put_service("dev", "old", "10.96.1.11", &["10.244.0.13"]);
    let mut source = follow(&server);
    let mut cluster = Cluster::default();
    for event in source.next().await.events {
        cluster.apply(event, &mut Dirty::default());
    }
    server.set_fault(Some(Fault::Refuse(503, None)));
    server.cut();
    quiet(&mut source, Duration::from_secs(20)).await;
    server.delete(SERVICES, "dev", "old");
    server.delete(SLICES, "dev", "old-x");
    server.put(SLICES, slice("dev", "ent", &["10.244.0.12"]));
    server.forget_history();
    server.set_fault(None);
    let mut said = 0;
    while said < 3 {
        for event in source.next().await.events {
            said += 1;
            cluster.apply(event, &mut Dirty::default());
        }
    }
    assert_eq!(cluster.services().count(), 1);
    quiet(&mut source, Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn quiet_watches_end_and_begin_again_without_a_list() {
    let server = server();
    let mut source = follow(&server);
    source.next().await;
    quiet(&mut source, Duration::from_secs(600)).await;
    assert_eq!((relists(&source), troubles(&source)), (0, String::new()));
    let watches = server.requests("watch services");
    assert!((14..=17).contains(&watches), "{watches} watches in ten minutes");
    assert!(source.standing().watches.iter().all(|watch| watch.age <= LIMITS));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_hangs_silently_is_found_within_70_seconds() {
    let server = server();
    let mut source = follow(&server);
    source.next().await;
    let begun = Instant::now();
    server.set_fault(Some(Fault::Hang));
    while troubles(&source).is_empty() {
        quiet(&mut source, Duration::from_millis(500)).await;
        assert!(begun.elapsed() < Duration::from_secs(70));
    }
    assert!(begun.elapsed() > Duration::from_secs(10), "a pause is no hang");
    assert!(troubles(&source).contains("nothing heard of the API server for 50s"), "{}", troubles(&source));
    server.put(SLICES, slice("dev", "ent", &["10.244.0.12"]));
    server.set_fault(None);
    let update = timeout(Duration::from_secs(30), source.next()).await.unwrap();
    assert_eq!((update.events.len(), relists(&source)), (1, 0), "it goes on from where it was");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_wants_a_pause_gets_it() {
    let server = server();
    let mut source = follow(&server);
    source.next().await;
    server.set_fault(Some(Fault::Refuse(429, Some(20))));
    server.cut();
    server.take_requests();
    quiet(&mut source, Duration::from_secs(60)).await;
    let asked = server.take_requests().len();
    // The cut itself is a failure with a short wait behind it.
    assert!((6..=12).contains(&asked), "{asked} requests of three watches in a minute");
    assert!(troubles(&source).contains("429"), "{}", troubles(&source));
    server.set_fault(None);
    quiet(&mut source, Duration::from_secs(30)).await;
    assert_eq!((relists(&source), troubles(&source)), (0, String::new()));
}

#[tokio::test(start_paused = true)]
async fn waits_between_tries_grow_while_the_server_refuses() {
    let server = server();
    let mut source = follow(&server);
    source.next().await;
    server.set_fault(Some(Fault::Refuse(500, None)));
    server.cut();
    server.take_requests();
    quiet(&mut source, Duration::from_secs(600)).await;
    let asked = server.take_requests().len();
    assert!((180..=400).contains(&asked), "{asked} requests of three watches in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_are_not_asked_for_at_once() {
    let server = server();
    let mut source = follow(&server);
    source.next().await;
    server.set_fault(Some(Fault::EndAtOnce));
    server.cut();
    server.take_requests();
    quiet(&mut source, Duration::from_secs(60)).await;
    let asked = server.take_requests().len();
    assert!(asked < 60, "{asked} requests of three watches in a minute");
}

#[tokio::test(start_paused = true)]
async fn octets_that_are_no_json_change_nothing_and_are_named() {
    let server = server();
    let mut source = follow(&server);
    source.next().await;
    server.set_fault(Some(Fault::Garbage));
    server.cut();
    quiet(&mut source, Duration::from_secs(60)).await;
    assert!(troubles(&source).contains("makes no sense"), "{}", troubles(&source));
    server.set_fault(None);
    quiet(&mut source, Duration::from_secs(30)).await;
    assert_eq!(troubles(&source), "");
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_is_waited_for() {
    let server = server();
    server.set_fault(Some(Fault::Slow(Duration::from_secs(6))));
    let mut source = follow(&server);
    let begun = Instant::now();
    assert_eq!(source.next().await.events.len(), 3);
    assert!(begun.elapsed() < Duration::from_secs(7));
    server.put(SERVICES, service("dev", "two", "10.96.1.11"));
    assert_eq!(timeout(Duration::from_secs(20), source.next()).await.unwrap().events.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn garbage_objects_are_named_skipped_and_told_to_their_authors_once() {
    let server = server();
    let mut settings = settings();
    settings.complain = true;
    let mut source = Kubernetes::follow(server.client(), "test", settings);
    source.next().await;
    let mut bad = service("dev", "bad", "10.96.1.99");
    bad["spec"]["ports"][0]["port"] = json!(0);
    server.put(SERVICES, bad.clone());
    let mut odd = slice("dev", "ent", &["10.244.0.11"]);
    odd["metadata"]["name"] = json!("odd");
    odd["endpoints"] = json!("many");
    server.put(SLICES, odd);
    server.put(SERVICES, service("dev", "good", "10.96.1.12"));
    assert_eq!(source.next().await.events.len(), 1, "the good one");
    let refused: Vec<String> = source.report().problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        refused,
        [
            "EndpointSlice dev/odd: endpoints: must be a list, not the text \"many\"",
            "Service dev/bad: spec.ports[0].port: 0 is outside 1..=65535",
        ]
    );
    quiet(&mut source, Duration::from_secs(2)).await;
    let written = server.written();
    let told: BTreeSet<&str> = written.iter().filter_map(|event| event["message"].as_str()).collect();
    assert_eq!(written.len(), 2, "{written:#?}");
    assert!(
        told.contains("spec.ports[0].port: 0 is outside 1..=65535; the gateway skips this object"),
        "{told:?}"
    );
    let event = written.iter().find(|event| event["involvedObject"]["kind"] == "Service").unwrap();
    assert_eq!(event["involvedObject"]["uid"], "uid-dev-bad");
    assert_eq!((event["reason"].as_str(), event["type"].as_str()), (Some("Refused"), Some("Warning")));

    // Said once, whatever is listed and said anew.
    server.put(SERVICES, bad);
    server.forget_history();
    server.cut();
    quiet(&mut source, Duration::from_secs(10)).await;
    assert_eq!(server.written().len(), 2);
    server.delete(SERVICES, "dev", "bad");
    server.delete(SLICES, "dev", "odd");
    quiet(&mut source, Duration::from_secs(1)).await;
    assert!(source.report().problems.is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_the_own_node_is_followed() {
    let server = server();
    for name in ["node-1", "node-2"] {
        let labels = json!({ "topology.kubernetes.io/zone": "zone-a" });
        server.put("nodes", json!({ "metadata": { "name": name, "labels": labels } }));
    }
    let mut settings = settings();
    settings.node_name = Some("node-2".into());
    let mut source = Kubernetes::follow(server.client(), "test", settings);
    let nodes: Vec<Event> = source.next().await.events;
    let nodes = nodes.iter().filter_map(|event| match event {
        Event::NodeApplied(node) => Some((&*node.name, node.zone.as_deref())),
        _ => None,
    });
    assert_eq!(nodes.collect::<Vec<_>>(), [("node-2", Some("zone-a"))]);
    server.put("nodes", json!({ "metadata": { "name": "node-1" } }));
    quiet(&mut source, Duration::from_secs(1)).await;
}

fn with_file(path: PathBuf) -> Settings {
    Settings { cluster_file: Some(path), ..settings() }
}

#[tokio::test(start_paused = true)]
async fn a_start_without_the_server_goes_on_from_the_file_says_so_and_then_tells_differences_only() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cluster");
    let server = server();
    let mut source = Kubernetes::follow(server.client(), "test", with_file(file.clone()));
    source.next().await;
    source.end().await;
    drop(source);

    server.set_fault(Some(Fault::Hang));
    let begun = Instant::now();
    let mut source = Kubernetes::follow(server.client(), "test", with_file(file.clone()));
    assert_eq!(source.next().await.events.len(), 3);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(troubles(&source).starts_with("stale: what an earlier run wrote "), "{}", troubles(&source));
    assert!(source.standing().stale.is_some());
    quiet(&mut source, Duration::from_secs(5)).await;
    server.put(SLICES, slice("dev", "ent", &["10.244.0.12"]));
    server.set_fault(None);
    let update = source.next().await;
    assert!(matches!(&update.events[..], [Event::SliceApplied(_)]), "{update:?}");
    assert_eq!((source.standing().stale, troubles(&source)), (None, String::new()));
}

#[tokio::test(start_paused = true)]
async fn a_file_of_another_cluster_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cluster");
    let server = server();
    let mut source = Kubernetes::follow(server.client(), "test", with_file(file.clone()));
    source.next().await;
    source.end().await;
    drop(source);
    server.set_fault(Some(Fault::Hang));
    let mut source = Kubernetes::follow(server.client(), "other", with_file(file));
    quiet(&mut source, Duration::from_secs(30)).await;
}

#[tokio::test(start_paused = true)]
async fn the_file_follows_what_changes_but_not_every_change() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cluster");
    let server = server();
    let mut source = Kubernetes::follow(server.client(), "test", with_file(file.clone()));
    source.next().await;
    quiet(&mut source, Duration::from_secs(1)).await;
    let first = std::fs::read(&file).unwrap();
    for number in 1..=5 {
        server.put(SERVICES, service("dev", &format!("s{number}"), &format!("10.96.2.{number}")));
        source.next().await;
        assert_eq!(std::fs::read(&file).unwrap(), first);
    }
    quiet(&mut source, Duration::from_secs(11)).await;
    assert!(std::fs::read(&file).unwrap().len() > first.len());
}
