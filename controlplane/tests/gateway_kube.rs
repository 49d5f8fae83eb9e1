//! The real binary in the namespace rig with an API server as its source, through each way in which that can fail.
//! Requests, names and a held connection go on all the while, and none may be lost.

mod api_server;
mod rig;

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

/// Lets the API server fail in some way and recover; whatever it does, what is in force stays, is served, and is not
/// published anew. `words` are what /readyz says of the failure.
fn fails_and_recovers(fail: impl FnOnce(&Scene), words: &str, recover: impl FnOnce(&Scene)) {
    let Some(scene) = Scene::set() else { return };
    let gateway = scene.gateway();
    let mut conversation = Conversation::open(&scene.rig, ENT_DEV, "9000");
    scene.assert_served();
    let publications = metric(&gateway, "publications_total");

    fail(&scene);
    eventually(&format!("/readyz says {words}"), PATIENCE, || {
        scene.assert_served();
        readiness(&gateway).contains(words).then_some(())
    });
    assert!(conversation.say("still").ends_with("still"));
    recover(&scene);
    eventually("the API server answers again", PATIENCE, || {
        scene.assert_served();
        (readiness(&gateway) == "ok\n").then_some(())
    });
    assert_eq!(metric(&gateway, "publications_total"), publications, "nothing changed, nothing is published");
    scene.assert_follows();
    assert!(conversation.say("there").ends_with("there"));
    gateway.assert_accounts_balance();
    gateway.stop();
}

#[test]
fn the_api_server_is_gone_and_comes_back() {
    fails_and_recovers(
        |scene| scene.listener.stop(),
        "the API server is not reached",
        |scene| scene.listener.resume(),
    );
}

#[test]
fn the_api_server_is_restarted_and_has_forgotten_its_history() {
    fails_and_recovers(
        |scene| scene.listener.stop(),
        "watch of Services",
        |scene| {
            scene.server.forget_history();
            scene.listener.resume();
        },
    );
}

#[test]
fn the_api_server_hangs_without_a_word() {
    let begun = Instant::now();
    fails_and_recovers(
        |scene| scene.server.set_fault(Some(Fault::Hang)),
        "nothing heard of the API server for",
        |scene| scene.server.set_fault(None),
    );
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn the_api_server_is_too_busy() {
    fails_and_recovers(
        |scene| {
            scene.server.set_fault(Some(Fault::Refuse(429, Some(1))));
            scene.server.cut();
        },
        "429",
        |scene| scene.server.set_fault(None),
    );
}

#[test]
fn the_api_server_talks_rubbish() {
    fails_and_recovers(
        |scene| {
            scene.server.set_fault(Some(Fault::Garbage));
            scene.server.cut();
        },
        "makes no sense",
        |scene| scene.server.set_fault(None),
    );
}

#[test]
fn the_token_is_rotated() {
    fails_and_recovers(
        |scene| {
            scene.server.set_tokens(&["second"]);
            scene.server.cut();
        },
        "401",
        |scene| fs::write(scene.listener.token_file(), "second").unwrap(),
    );
}

#[test]
fn the_server_forgets_what_we_saw_last() {
    let Some(scene) = Scene::set() else { return };
    let gateway = scene.gateway();
    let publications = metric(&gateway, "publications_total");
    for _ in 0..3 {
        let before = metric(&gateway, "relists_total");
        scene.server.forget_history();
        scene.server.cut();
        eventually("all is listed anew", PATIENCE, || {
            scene.assert_served();
            (metric(&gateway, "relists_total") >= before + 3 && readiness(&gateway) == "ok\n").then_some(())
        });
    }
    assert_eq!(metric(&gateway, "publications_total"), publications, "no table was made anew");
    scene.assert_follows();
    assert!(metric(&gateway, "publications_total") > publications);
    gateway.stop();
}

#[test]
fn a_slow_api_server_delays_the_start_and_nothing_else() {
    let Some(scene) = Scene::set() else { return };
    scene.server.set_fault(Some(Fault::Slow(Duration::from_millis(300))));
    let gateway = scene.gateway();
    scene.assert_served();
    scene.assert_follows();
    assert_eq!(readiness(&gateway), "ok\n");
    gateway.stop();
}

#[test]
fn an_api_server_that_answers_too_late_is_one_that_is_away() {
    fails_and_recovers(
        |scene| {
            scene.server.set_fault(Some(Fault::Slow(Duration::from_secs(3))));
            scene.server.cut();
        },
        "nothing heard of the API server for",
        |scene| scene.server.set_fault(None),
    );
}

#[test]
fn the_clock_jumps_and_nothing_waits_by_it() {
    let Some(scene) = Scene::set() else { return };
    let clock = JumpingClock::make(scene.directory.path());
    let arguments = scene.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let gateway = Gateway::start_by(&scene.rig, &clock.wrapper(), &arguments);
    let mut conversation = Conversation::open(&scene.rig, ENT_DEV, "9000");
    let publications = metric(&gateway, "publications_total");
    let year = || gateway.log().lines().filter_map(|line| line.get(..4)?.parse::<i64>().ok()).next_back();
    let began_in = year().unwrap();
    for years in [10, -20, 0] {
        clock.set_ahead(years * 366);
        // What it says of the API server then shows that it goes by the other time.
        scene.listener.stop();
        eventually("it writes another year", PATIENCE, || {
            scene.assert_served();
            let is_there = (year().unwrap() - began_in - years).abs() <= 1;
            (is_there && readiness(&gateway) != "ok\n").then_some(())
        });
        assert!(conversation.say("still").ends_with("still"));
        scene.listener.resume();
        eventually("the API server answers again", PATIENCE, || {
            scene.assert_served();
            (readiness(&gateway) == "ok\n").then_some(())
        });
        // A watch that is thought dead because of the clock would be given up within this time.
        let relists = metric(&gateway, "relists_total");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            scene.assert_served();
            assert_eq!(readiness(&gateway), "ok\n");
        }
        assert_eq!(metric(&gateway, "relists_total"), relists);
    }
    assert_eq!(metric(&gateway, "publications_total"), publications, "nothing changed, nothing is published");
    clock.set_ahead(3660);
    scene.assert_follows();
    assert!(conversation.say("there").ends_with("there"));
    gateway.assert_accounts_balance();
    gateway.stop();
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
fn an_exec_plugin_gives_the_token_and_is_asked_again_when_that_is_refused() {
    let Some(scene) = Scene::set() else { return };
    let (answer, kubeconfig) = (scene.directory.path().join("answer"), scene.listener.kubeconfig());
    let issue = |token: &str| {
        let status = json!({ "token": token });
        let kind = "ExecCredential";
        let said = json!({ "apiVersion": "client.authentication.k8s.io/v1", "kind": kind, "status": status });
        fs::write(&answer, said.to_string()).unwrap();
        scene.server.set_tokens(&[token]);
    };
    issue("one");
    let by_file = format!("tokenFile: '{}'", scene.listener.token_file().display());
    let by_plugin = format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, command: cat, args: ['{}'], interactiveMode: Never}}",
        answer.display()
    );
    let text = fs::read_to_string(&kubeconfig).unwrap();
    assert!(text.contains(&by_file), "{text}");
    fs::write(&kubeconfig, text.replace(&by_file, &by_plugin)).unwrap();
    let gateway = scene.gateway();
    scene.assert_served();
    issue("two");
    scene.server.cut();
    scene.assert_follows();
    gateway.stop();
}

/// Gives a program the account of a pod where a kubelet mounts it, for its eyes alone, then becomes it.
const AS_IN_A_POD: &str = "mount -t tmpfs none /run
    account=/run/secrets/kubernetes.io/serviceaccount
    mkdir -p $account
    cp \"$1/ca.pem\" $account/ca.crt
    cp \"$1/token\" $account/token
    printf kube-system >$account/namespace
    shift
    exec \"$@\"";

#[test]
fn a_pod_finds_the_api_server_by_the_account_that_is_mounted_into_it() {
    let Some(scene) = Scene::set() else { return };
    let (address, directory) = (scene.listener.address(), scene.directory.path().display().to_string());
    let host = format!("KUBERNETES_SERVICE_HOST={}", address.ip());
    let port = format!("KUBERNETES_SERVICE_PORT={}", address.port());
    let environment = ["env", "-u", "KUBECONFIG", "HOME=/nowhere", &host, &port];
    let account = ["unshare", "--mount", "sh", "-ec", AS_IN_A_POD, "sh", &directory];
    let arguments = ["--source", "kubernetes", "--watch-time", "2s"];
    scene.server.set_tokens(&["first"]);
    let gateway = Gateway::start_by(&scene.rig, &[&environment[..], &account].concat(), &arguments);
    scene.assert_served();
    scene.assert_follows();
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
fn a_gateway_waits_for_the_api_server_and_says_so() {
    let Some(scene) = Scene::set() else { return };
    scene.server.set_fault(Some(Fault::Refuse(503, None)));
    let page = |path: &str| {
        let url = format!("http://127.0.0.1:9100{path}");
        let curl = ["netns", "exec", "tgtest-gw", "curl", "-s", "-w", "%{http_code}", &url];
        String::from_utf8(Command::new("ip").args(curl).output().unwrap().stdout).unwrap()
    };
    let server = scene.server.clone();
    let started = std::thread::scope(|scope| {
        scope.spawn(move || {
            eventually("it is healthy and not ready", PATIENCE, || {
                let (health, ready) = (page("/healthz"), page("/readyz"));
                let waits = ready.starts_with("waiting: the API server has not said all yet\n");
                (health == "ok\n200" && waits && ready.ends_with("503")).then_some(())
            });
            server.set_fault(None);
        });
        scene.gateway()
    });
    scene.assert_served();
    started.stop();
}

#[test]
fn a_restart_without_the_api_server_serves_what_was_known_and_then_only_what_differs() {
    let Some(scene) = Scene::set() else { return };
    let gateway = scene.gateway();
    let mut conversation = Conversation::open(&scene.rig, ENT_DEV, "9000");
    gateway.stop();
    scene.listener.stop();

    let begun = Instant::now();
    let gateway = scene.gateway();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    scene.assert_served();
    assert!(conversation.say("back").ends_with("back"));
    let said = readiness(&gateway);
    assert!(
        said.starts_with("ok\nstale: what an earlier run wrote ") && said.contains("not reached"),
        "{said}"
    );
    assert_eq!(metric(&gateway, "cluster_stale"), 1);
    let publications = metric(&gateway, "publications_total");

    scene.listener.resume();
    eventually("it is no longer stale", PATIENCE, || (readiness(&gateway) == "ok\n").then_some(()));
    assert_eq!(metric(&gateway, "cluster_stale"), 0);
    assert_eq!(metric(&gateway, "publications_total"), publications, "nothing differs");
    scene.assert_follows();
    gateway.stop();
}

#[test]
fn no_connection_is_reset_by_an_old_file_alone() {
    let Some(scene) = Scene::set() else { return };
    let file = scene.rig.state().join("cluster");
    scene.server.put(SLICES, slice("dev", "ent", &PODS[..1]));
    scene.gateway().stop();
    let old = fs::read(&file).unwrap();
    scene.server.put(SLICES, slice("dev", "ent", &PODS[1..]));
    let gateway = scene.gateway();
    let mut conversation = Conversation::open(&scene.rig, ENT_DEV, "9000");
    let pod = conversation.say("line");
    gateway.stop();
    fs::write(&file, old).unwrap();
    scene.listener.stop();

    let gateway = scene.gateway();
    assert_eq!(metric(&gateway, "cluster_stale"), 1);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert_eq!(
            conversation.say("line"),
            pod,
            "the file does not list that Pod, but knows nothing of today"
        );
    }
    scene.listener.resume();
    eventually("it is no longer stale", PATIENCE, || (readiness(&gateway) == "ok\n").then_some(()));
    assert_eq!(conversation.say("line"), pod);
    gateway.stop();

    scene.server.put(SLICES, slice("dev", "ent", &PODS[..1]));
    let gateway = scene.gateway();
    eventually("a Pod that the API server itself does not list is gone", PATIENCE, || {
        let answer = conversation.say("line");
        assert!(answer == pod || answer == "ConnectionResetError", "{answer}");
        (answer != pod).then_some(())
    });
    gateway.stop();
}

#[test]
fn a_torn_or_foreign_file_is_refused_with_a_reason_and_the_start_waits() {
    let Some(scene) = Scene::set() else { return };
    let gateway = scene.gateway();
    gateway.stop();
    let file = scene.rig.state().join("cluster");
    let whole = fs::read(&file).unwrap();
    for (content, says) in [
        (whole[..whole.len() / 2].to_vec(), "is torn: it has another length than it says"),
        (b"something else".to_vec(), "is no file of a cluster"),
    ] {
        fs::write(&file, content).unwrap();
        let gateway = scene.gateway();
        assert!(gateway.log().contains(says), "{}", gateway.log());
        scene.assert_served();
        gateway.stop();
        assert_eq!(fs::read(&file).unwrap().len(), whole.len(), "a good one is written in its place");
    }
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

#[test]
fn an_api_server_that_cannot_be_is_named_before_anything_is_touched() {
    let Some(scene) = Scene::set() else { return };
    let refused = |kubeconfig: &str| {
        let arguments = ["--source", "kubernetes", "--kubeconfig", kubeconfig];
        refused_start(&scene.rig, &["client0", "pods0"], &arguments)
    };
    let (status, said) = refused("/nowhere/kubeconfig");
    assert!(status == 2 && said.contains("--kubeconfig /nowhere/kubeconfig: "), "{status}: {said}");
    let inside = scene.directory.path().join("inside");
    let text = fs::read_to_string(scene.listener.kubeconfig()).unwrap();
    let line = text.lines().find(|line| line.contains("server:")).unwrap();
    let server = line.split('\'').nth(1).unwrap();
    fs::write(&inside, text.replace(server, "https://10.96.0.1:443")).unwrap();
    let (status, said) = refused(inside.to_str().unwrap());
    assert!(status == 2 && said.contains("an address of --service-cidr"), "{status}: {said}");
}
