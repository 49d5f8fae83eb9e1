//! Starts without the API server, from what an earlier run knew or from nothing.

use super::*;

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
