//! The real binary in the namespace rig with an API server as its source: what it follows, tells and measures here; how it
//! finds the server in `access`, the server's failures in `failures`, starts without it in `warm_start`.

#[path = "gateway_kube/access.rs"]
mod access;
mod api_server;
#[path = "gateway_kube/failures.rs"]
mod failures;
mod rig;
#[path = "gateway_kube/warm_start.rs"]
mod warm_start;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use api_server::listener::Listener;
use api_server::objects::{node, service, slice};
use api_server::{ApiServer, Fault, NODES, SERVICES, SLICES};
use rig::conversation::Conversation;
use rig::gateway::{Gateway, refused_start};
use rig::jumping_clock::JumpingClock;
use rig::{DNS, ENT_DEV, Rig, Shape, eventually};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(20);
const NAME: &str = "ent.dev.svc.cluster.local";
const NEW: &str = "10.96.1.99";
const PODS: [&str; 2] = ["10.244.0.11", "10.244.0.12"];

/// A rig with an API server in the gateway's namespace.
struct Scene {
    rig: Rig,
    server: ApiServer,
    listener: Listener,
    directory: tempfile::TempDir,
}

impl Scene {
    fn set() -> Option<Self> {
        let rig = Rig::up(Shape::TwoInterfaces)?;
        let server = ApiServer::new();
        server.put_service("dev", "ent", ENT_DEV, &PODS);
        server.put_service("kube-system", "kube-dns", DNS, &["10.244.0.21"]);
        let directory = tempfile::tempdir().unwrap();
        let listener = Listener::start(&server, Some("tgtest-gw"), directory.path());
        Some(Self { rig, server, listener, directory })
    }

    fn arguments(&self) -> Vec<String> {
        let kubeconfig = self.listener.kubeconfig().display().to_string();
        let arguments = ["--source", "kubernetes", "--kubeconfig", &kubeconfig, "--watch-time", "2s"];
        arguments.map(str::to_owned).into()
    }

    fn gateway(&self) -> Gateway<'_> {
        let arguments = self.arguments();
        Gateway::start_with(&self.rig, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Asks by name and address; all must be answered.
    #[track_caller]
    fn assert_served(&self) {
        let seen = self.rig.curl(&format!("http://{ENT_DEV}:8080/"));
        assert_eq!(seen.status, 0, "{}", seen.errors);
        assert_eq!(self.resolve(NAME), ENT_DEV);
    }

    fn resolve(&self, name: &str) -> String {
        self.rig.run("jump", &["dig", "+short", "+tries=1", "+time=2", &format!("@{DNS}"), name]).output
    }

    /// Changes a Service and waits until packets and names follow.
    #[track_caller]
    fn assert_follows(&self) {
        self.server.put(SERVICES, service("dev", "late", NEW));
        self.server.put(SLICES, slice("dev", "late", &PODS));
        eventually("a new Service has a name", PATIENCE, || {
            (self.resolve("late.dev.svc.cluster.local") == NEW).then_some(())
        });
        // Service and slice come by two watches, in whatever order.
        eventually("and its Pods answer", PATIENCE, || {
            (self.rig.curl(&format!("http://{NEW}:8080/")).status == 0).then_some(())
        });
    }
}

fn readiness(gateway: &Gateway<'_>) -> String {
    gateway.page("/readyz").1
}

/// The sum of the series of a metric.
fn metric(gateway: &Gateway<'_>, name: &str) -> u64 {
    let (_, body) = gateway.page("/metrics");
    let lines = body.lines().filter_map(|line| line.strip_prefix("tidegate_")?.strip_prefix(name));
    let values =
        lines.filter(|rest| rest.starts_with([' ', '{'])).map(|rest| rest.rsplit(' ').next().unwrap());
    values.map(|value| value.parse::<u64>().unwrap()).sum()
}

#[test]
fn watches_and_objects_are_shown_in_metrics() {
    let Some(scene) = Scene::set() else { return };
    let gateway = scene.gateway();
    let of_kind = |name: &str, kind: &str| metric(&gateway, &format!("{name}{{kind=\"{kind}\"}}"));
    assert_eq!(["Service", "EndpointSlice"].map(|kind| of_kind("objects", kind)), [2, 2]);
    assert_eq!(metric(&gateway, "relists_total"), 0);
    scene.server.set_fault(Some(Fault::Hang));
    let oldest =
        || ["Service", "EndpointSlice"].map(|kind| of_kind("watch_age_seconds", kind)).into_iter().max();
    eventually("watches grow old", PATIENCE, || (oldest() > Some(3)).then_some(()));
    scene.server.set_fault(None);
    eventually("and are young again", PATIENCE, || (oldest() < Some(2)).then_some(()));
    let failed = ["Service", "EndpointSlice"].map(|kind| of_kind("watch_failures_total", kind));
    assert!(failed.iter().all(|failures| *failures > 0), "{failed:?}");
    scene.server.forget_history();
    scene.server.cut();
    eventually("each kind is listed anew", PATIENCE, || {
        (metric(&gateway, "relists_total") >= 3).then_some(())
    });
    scene.server.put(SERVICES, service("dev", "late", NEW));
    eventually("an object more is counted", PATIENCE, || (of_kind("objects", "Service") == 3).then_some(()));
    gateway.stop();
}

#[test]
fn garbage_objects_are_named_and_disturb_nobody() {
    let Some(scene) = Scene::set() else { return };
    let gateway = scene.gateway();
    let mut bad = service("dev", "bad", NEW);
    bad["spec"]["ports"] = json!([{ "port": "many" }]);
    scene.server.put(SERVICES, bad);
    let mut broken = service("dev", "ent", ENT_DEV);
    broken["spec"]["clusterIP"] = json!("300.0.0.1");
    scene.server.put(SERVICES, broken);
    eventually("both are named", PATIENCE, || {
        scene.assert_served();
        let said = readiness(&gateway);
        let named = ["Service dev/bad: spec.ports[0].port", "Service dev/ent: spec."];
        named.iter().all(|name| said.contains(&format!("refused: {name}"))).then_some(())
    });
    eventually("their authors are told", PATIENCE, || (scene.server.written().len() == 2).then_some(()));
    scene.assert_follows();
    gateway.stop();
}

#[test]
fn what_only_publication_refuses_is_told_to_its_author_once_and_ends_with_its_cause() {
    let Some(scene) = Scene::set() else { return };
    let gateway = scene.gateway();
    scene.server.put_service("prod", "second", ENT_DEV, &PODS);
    let told = eventually("its author is told", PATIENCE, || {
        scene.assert_served();
        let written = scene.server.written();
        (!written.is_empty()).then_some(written)
    });
    let event = &told[0];
    assert_eq!(event["involvedObject"]["kind"], "Service");
    assert_eq!(event["involvedObject"]["namespace"], "prod");
    assert_eq!(event["involvedObject"]["name"], "second");
    assert_eq!(event["involvedObject"]["uid"], "uid-prod-second");
    let said =
        format!("spec.clusterIPs: {ENT_DEV}: belongs to Service dev/ent already; the gateway leaves that");
    assert!(event["message"].as_str().unwrap().starts_with(&said), "{event}");
    assert_eq!(metric(&gateway, "services_short"), 1);
    scene.server.put(SERVICES, service("prod", "second", NEW));
    eventually("it is served by an address of its own", PATIENCE, || {
        (scene.resolve("second.prod.svc.cluster.local") == NEW).then_some(())
    });
    assert_eq!(metric(&gateway, "services_short"), 0);
    assert_eq!(scene.server.written().len(), 1);
    gateway.stop();
}

#[test]
fn k11_k33_the_own_nodes_zone_and_its_end_are_followed() {
    let Some(scene) = Scene::set() else { return };
    scene.server.put(NODES, node("here", "a"));
    let mut hinted = slice("dev", "ent", &PODS);
    for (endpoint, zone) in hinted["endpoints"].as_array_mut().unwrap().iter_mut().zip(["a", "b"]) {
        endpoint["hints"] = json!({ "forZones": [{ "name": zone }] });
    }
    scene.server.put(SLICES, hinted);
    let mut arguments = scene.arguments();
    arguments.extend(["--node-name".to_owned(), "here".to_owned()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let gateway = Gateway::start_with(&scene.rig, &arguments);
    let pods = || -> BTreeSet<String> {
        let answers = (0..8).map(|_| scene.rig.curl(&format!("http://{ENT_DEV}:8080/")).output);
        answers.map(|said| said.split(' ').next().unwrap().to_owned()).collect()
    };
    assert_eq!(pods(), BTreeSet::from(["dev-1".to_owned()]), "the endpoint for the node's zone");
    scene.server.put(NODES, node("here", "b"));
    eventually("the node's other zone is followed", PATIENCE, || {
        (pods() == BTreeSet::from(["dev-2".to_owned()])).then_some(())
    });
    assert_eq!(gateway.page("/healthz"), ("200".to_owned(), "ok\n".to_owned()));
    let mut leaving = node("here", "b");
    leaving["spec"] =
        json!({ "taints": [{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }] });
    scene.server.put(NODES, leaving);
    eventually("balancers are told that the node goes", PATIENCE, || {
        (gateway.page("/healthz").0 == "503").then_some(())
    });
    assert_eq!(gateway.page("/livez").0, "200");
    assert_eq!(pods(), BTreeSet::from(["dev-2".to_owned()]), "it serves on");
    gateway.stop();
}

#[test]
fn the_way_from_events_to_packets_is_measured() {
    let Some(scene) = Scene::set() else { return };
    let gateway = scene.gateway();
    let before = metric(&gateway, "event_to_packet_seconds_count");
    let mut changed = slice("dev", "ent", &PODS[..1]);
    let now = scene.rig.output("gw", &["date", "-u", "+%Y-%m-%dT%H:%M:%SZ"]);
    let annotations = json!({ "endpoints.kubernetes.io/last-change-trigger-time": now });
    changed["metadata"]["annotations"] = annotations;
    scene.server.put(SLICES, changed);
    eventually("it is measured", PATIENCE, || {
        let events = metric(&gateway, "event_to_packet_seconds_count");
        (events == before + 1 && metric(&gateway, "trigger_to_packet_seconds_count") == 1).then_some(())
    });
    gateway.stop();
}
