//! Changes of the manifests while it runs, through the real binary in the namespace rig.

mod rig;

use std::time::Duration;

use rig::gateway::Gateway;
use rig::manifests::service;
use rig::{ENT_DEV, Rig, Shape, eventually};

const PATIENCE: Duration = Duration::from_secs(10);
const NEW_ADDRESS: &str = "10.96.1.99";

/// The pods that answer ten requests to a ClusterIP, which must all be answered.
#[track_caller]
fn pods_that_answer(rig: &Rig, address: &str) -> Vec<String> {
    let url = format!("http://{address}:8080/");
    let mut pods: Vec<String> = (0..10)
        .map(|_| {
            let seen = rig.curl(&url);
            assert_eq!(seen.status, 0, "{}", seen.errors);
            seen.output.split(' ').next().unwrap().to_owned()
        })
        .collect();
    pods.sort();
    pods.dedup();
    pods
}

#[track_caller]
fn await_pods(rig: &Rig, wanted: &[&str]) {
    eventually(&format!("answers by {wanted:?} alone"), PATIENCE, || {
        (pods_that_answer(rig, ENT_DEV) == wanted).then_some(())
    });
}

#[test]
fn pods_leave_and_join_without_a_restart_and_without_a_failed_request() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    await_pods(&rig, &["dev-1", "dev-2"]);
    rig.manifests.remove_pod("dev-1");
    await_pods(&rig, &["dev-2"]);
    rig.remove_pod("dev-1");
    assert_eq!(pods_that_answer(&rig, ENT_DEV), ["dev-2"]);
    rig.add_pod("dev-3", "10.244.0.13");
    rig.manifests.write_pod("dev-3", "10.244.0.13");
    await_pods(&rig, &["dev-2", "dev-3"]);
    gateway.assert_accounts_balance();
}

#[test]
fn a_service_comes_and_goes_with_its_name_and_then_refuses() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let name = "late.dev.svc.cluster.local";
    rig.manifests.write("late.yaml", &service("dev", "late", NEW_ADDRESS, "enterprise"));
    // The name appears last, so whoever can resolve it can also connect.
    eventually("the name resolves", PATIENCE, || (address_of(&rig, name) == NEW_ADDRESS).then_some(()));
    assert_eq!(rig.curl(&format!("http://{NEW_ADDRESS}:8080/")).status, 0);
    rig.manifests.remove("late.yaml");
    eventually("the name is gone", PATIENCE, || address_of(&rig, name).is_empty().then_some(()));
    let status = eventually("the address serves no more", PATIENCE, || {
        Some(rig.curl(&format!("http://{NEW_ADDRESS}:8080/")).status).filter(|status| *status != 0)
    });
    assert_eq!(status, 7, "refused, not left to wait");
    assert_eq!(rig.peer("jump", &["udp", NEW_ADDRESS, "8080", "hello"]), "refused");
    gateway.assert_accounts_balance();
}

#[track_caller]
fn address_of(rig: &Rig, name: &str) -> String {
    rig.output("jump", &["dig", "+short", "+tries=1", "+time=3", name])
}

#[test]
fn a_half_written_file_keeps_its_last_good_content_in_force() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let mut gateway = Gateway::start(&rig);
    let whole = service("dev", "ent", NEW_ADDRESS, "enterprise");
    let half = &whole[..whole.find("selector").unwrap() + "selector: {ap".len()];
    rig.manifests.overwrite("ent-dev.yaml", half);
    gateway.await_line("the file that does not parse", |line| line.contains("ent-dev.yaml"));
    assert_eq!(pods_that_answer(&rig, ENT_DEV), ["dev-1", "dev-2"]);
    assert_eq!(address_of(&rig, "ent.dev.svc.cluster.local"), ENT_DEV);
    rig.manifests.overwrite("ent-dev.yaml", &whole);
    eventually("the whole file is in force", PATIENCE, || {
        (address_of(&rig, "ent.dev.svc.cluster.local") == NEW_ADDRESS).then_some(())
    });
    assert_eq!(pods_that_answer(&rig, NEW_ADDRESS), ["dev-1", "dev-2"]);
    gateway.assert_accounts_balance();
}

#[test]
fn a_directory_that_vanishes_is_an_error_and_not_the_end_of_every_service() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let mut gateway = Gateway::start(&rig);
    let directory = rig.manifests.directory().to_owned();
    let away = directory.with_file_name("away");
    std::fs::rename(&directory, &away).unwrap();
    let named = directory.display().to_string();
    gateway.await_line("the directory that vanished", |line| {
        line.contains(&named) && line.to_lowercase().contains("error")
    });
    assert_eq!(pods_that_answer(&rig, ENT_DEV), ["dev-1", "dev-2"]);
    std::fs::rename(&away, &directory).unwrap();
    rig.manifests.remove_pod("dev-2");
    await_pods(&rig, &["dev-1"]);
    gateway.assert_accounts_balance();
}

#[test]
fn a_bad_object_is_named_and_skipped_and_the_others_stay_in_force() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let mut gateway = Gateway::start(&rig);
    let bad_port = service("dev", "wide", "10.96.1.30", "enterprise").replace("port: 8080,", "port: 70000,");
    rig.manifests.write("wide.yaml", &bad_port);
    gateway.await_line("the port outside its range", |line| line.contains("wide") && line.contains("70000"));
    rig.manifests.write("bent.yaml", &service("dev", "bent", "10.96.1.300", "enterprise"));
    gateway
        .await_line("the address that is none", |line| line.contains("bent") && line.contains("10.96.1.300"));
    rig.manifests.write("torn.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: [}\n");
    gateway.await_line("the file and its line", |line| {
        line.contains("torn.yaml:3") || (line.contains("torn.yaml") && line.contains("line=3"))
    });
    assert_eq!(pods_that_answer(&rig, ENT_DEV), ["dev-1", "dev-2"]);
    assert!(gateway.lives());
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}

#[test]
fn two_services_with_one_cluster_ip_are_reported_and_the_first_keeps_it() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let mut gateway = Gateway::start(&rig);
    rig.manifests.write("zz-copy.yaml", &service("prod", "zz-copy", ENT_DEV, "enterprise"));
    gateway.await_line("the address taken twice", |line| {
        line.contains(ENT_DEV) && line.contains("prod/zz-copy")
    });
    assert_eq!(pods_that_answer(&rig, ENT_DEV), ["dev-1", "dev-2"]);
}
