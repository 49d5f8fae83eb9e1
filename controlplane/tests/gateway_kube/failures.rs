//! The ways in which an API server fails, each with requests, names and a held connection going on.

use super::*;

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
