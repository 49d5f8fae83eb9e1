//! SCTP, and iperf3 over TCP and UDP, through the real binary over both families.

mod rig;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rig::gateway::Gateway;
use rig::manifests::dual_stack_service;
use rig::{Rig, Shape};

const ADDRESSES: [&str; 2] = ["10.96.1.60", "fd00:96::160"];

/// Puts a dual-stack Service in place with one port to the pods.
fn add_service(rig: &Rig, protocol: &str, port: u16, target: u16) {
    let service = dual_stack_service("dev", "sole", ADDRESSES, "enterprise");
    let (head, _) = service.split_once("  ports:\n").unwrap();
    let port = format!("    - {{name: p{port}, protocol: {protocol}, port: {port}, targetPort: {target}}}\n");
    rig.manifests.write("sole.yaml", &format!("{head}  ports:\n{port}"));
}

#[test]
fn an_sctp_association_goes_both_ways_with_right_checksums() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    add_service(&rig, "SCTP", 5000, 5001);
    for pod in ["dev-1", "dev-2"] {
        rig.start_peer(pod, &["serve-sctp", "5001"]);
    }
    let gateway = Gateway::start(&rig);
    for address in ADDRESSES {
        assert_eq!(rig.peer("jump", &["sctp", address, "5000"]), "2 11 0 0", "{address}");
    }
    gateway.assert_accounts_balance();
}

/// Runs iperf3 against a Service whose pods serve it, over both families.
fn assert_iperf3(protocol: &str, arguments: &[&str], is_whole: impl Fn(&str) -> bool) {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    // One pod, since iperf3 opens a control connection and others to the same server.
    rig.manifests.remove_pod("dev-2");
    add_service(&rig, "TCP", 5201, 5201);
    if protocol == "UDP" {
        let path = rig.manifests.directory().join("sole.yaml");
        let both = std::fs::read_to_string(path).unwrap();
        let udp = "    - {name: udp, protocol: UDP, port: 5201, targetPort: 5201}\n";
        rig.manifests.write("sole.yaml", &format!("{both}{udp}"));
    }
    let mut server = rig.command("dev-1", &["iperf3", "-s", "--forceflush"]);
    let mut server = server.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(server.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().starts_with("Server listening")), "iperf3 did not start");
    let gateway = Gateway::start(&rig);
    for address in ADDRESSES {
        let client = [&["iperf3", "-c", address, "-t", "2", "-J"], arguments].concat();
        let report = rig.output("jump", &client);
        assert!(is_whole(&report), "{address}: {report}");
    }
    let _may_have_ended = server.kill();
    let _no_use_for_its_status = server.wait();
    gateway.assert_accounts_balance();
}

/// Reads the last number of a name in iperf3's report.
fn last_number(report: &str, name: &str) -> f64 {
    let (_, behind) = report.rsplit_once(&format!("\"{name}\":")).unwrap();
    let number = behind.trim_start().split([',', '\n', '}']).next().unwrap();
    number.trim().parse().unwrap()
}

#[test]
fn iperf3_moves_octets_over_tcp_both_ways() {
    assert_iperf3("TCP", &[], |report| last_number(report, "bytes") > 1e6);
    assert_iperf3("TCP", &["-R"], |report| last_number(report, "bytes") > 1e6);
}

#[test]
fn iperf3_loses_no_datagram_of_ten_megabits_a_second() {
    assert_iperf3("UDP", &["-u", "-b", "10M", "-l", "1200"], |report| {
        last_number(report, "packets") > 1_000.0 && last_number(report, "lost_packets") == 0.0
    });
}
