//! Devices of several kinds, and starts that must fail, through the real binary in the namespace rig.

mod rig;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rig::gateway::{BINARY, Gateway, refused_start};
use rig::{ENT_DEV, ENT_PROD, HOLLOW, Rig, Shape};

/// TCP, UDP, ping, refusal and names in one go.
#[track_caller]
fn assert_serves_everything(rig: &Rig) {
    for _ in 0..8 {
        let seen = rig.curl("http://ent:8080/");
        assert!(seen.output.starts_with("dev-"), "{}{}", seen.output, seen.errors);
    }
    let answer = rig.peer("jump", &["udp", ENT_PROD, "8080", "hello"]);
    assert!(answer.starts_with("prod-") && answer.ends_with("hello"), "answered {answer}");
    let said = rig.output("jump", &["ping", "-c", "2", "-i", "0.2", "-W", "2", ENT_DEV]);
    assert!(said.contains("2 received"), "{said}");
    assert_eq!(rig.curl(&format!("http://{HOLLOW}:8080/")).status, 7);
    let body = "curl -sS --max-time 15 http://ent:8080/bytes/2000000 | wc -c";
    assert_eq!(rig.output("jump", &["bash", "-c", body]), "2000000");
}

#[test]
fn one_interface_for_clients_and_pods_is_enough() {
    let Some(rig) = Rig::up(Shape::OneInterface) else { return };
    let gateway = Gateway::start(&rig);
    assert_serves_everything(&rig);
    gateway.assert_accounts_balance();
    gateway.stop();
}

#[test]
fn one_worker_serves_every_queue_of_a_device() {
    let Some(rig) = Rig::up(Shape::TwoQueues) else { return };
    let gateway = Gateway::start(&rig);
    assert_serves_everything(&rig);
    gateway.assert_accounts_balance();
    gateway.stop();
}

#[test]
fn two_workers_share_the_connections_of_many_clients() {
    let Some(rig) = Rig::up(Shape::TwoQueues) else { return };
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("skipped: needs two cores");
        return;
    }
    let gateway = Gateway::start_with(&rig, &["--cores", "0,1"]);
    assert_serves_everything(&rig);
    // A reply's hash is not its request's, so many of these cross from one worker's queue to the other's.
    let requests = "seq 300 | xargs -P 16 -I{} curl -sS --max-time 10 http://10.96.1.10:8080/?{} | cut -c1-3 | sort | uniq -c";
    assert_eq!(rig.output("jump", &["bash", "-o", "pipefail", "-c", requests]), "300 dev");
    let counters = gateway.assert_accounts_balance();
    assert!(counters.drops().is_empty(), "{counters:#?}");
    gateway.stop();
}

#[test]
fn a_device_without_native_xdp_is_served_in_generic_mode_with_gro_off_meanwhile() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    // A bridge has no XDP of its own; the client's side of the gateway becomes one.
    let script = "ip link add br0 type bridge && ip link set client0 master br0 &&
        ip addr del 10.1.0.1/24 dev client0 && ip addr add 10.1.0.1/24 dev br0 && ip link set br0 up";
    rig.output("gw", &["bash", "-c", script]);
    rig.output("jump", &["ip", "neigh", "flush", "all"]);
    let gro = || {
        let features = rig.output("gw", &["ethtool", "-k", "br0"]);
        let feature = features.lines().find(|line| line.contains("generic-receive-offload")).unwrap();
        feature.trim().to_owned()
    };
    assert_eq!(gro(), "generic-receive-offload: on");
    let gateway = Gateway::start_on(&rig, &["br0", "pods0"], &[]);
    assert_eq!(gro(), "generic-receive-offload: off");
    let log = gateway.log();
    assert!(log.lines().any(|line| line.contains("br0") && line.contains("generic")), "{log}");
    assert!(log.lines().any(|line| line.contains("pods0") && line.contains("native")), "{log}");
    assert_serves_everything(&rig);
    gateway.assert_accounts_balance();
    gateway.stop();
    assert_eq!(gro(), "generic-receive-offload: on");
}

#[test]
fn every_socket_names_its_mode() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let log = gateway.log();
    for interface in ["client0", "pods0"] {
        let told =
            |line: &str| line.contains(interface) && line.contains("copy") && !line.contains("zero-copy");
        assert!(log.lines().any(told), "veth has copy mode only, and {interface} does not say so: {log}");
    }
}

#[test]
fn an_unknown_interface_is_named() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let (status, errors) = refused_start(&rig, &["client0", "nosuch0"], &[]);
    assert_eq!(status, 2, "{errors}");
    assert!(errors.contains("nosuch0"), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
}

#[test]
fn a_missing_manifest_directory_is_named() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let (status, errors) =
        refused_start(&rig, &["client0", "pods0"], &["--source", "manifests:/nowhere/at/all"]);
    assert_eq!(status, 2, "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
}

#[test]
fn a_start_without_root_says_what_it_needs() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["run", "--interface", "lo", "--source"];
    let source = format!("manifests:{}", directory.path().display());
    let mut command = if rig::is_root() {
        // The one who runs it next may not read the directories of the build.
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let copy = directory.path().join("tidegate");
        std::fs::copy(BINARY, &copy).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(copy);
        command
    } else {
        Command::new(BINARY)
    };
    command.args(arguments).arg(source);
    command.args(["--service-cidr", "10.96.0.0/12", "--cores", "0", "--state-dir"]);
    let output = command.arg(directory.path().join("state")).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!([1, 2].contains(&output.status.code().unwrap_or(-1)), "{}: {errors}", output.status);
    assert!(errors.contains("root") || errors.contains("CAP_"), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
}
