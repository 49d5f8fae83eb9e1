//! The generator and its sink, with nothing, or something that loses packets, between them.

mod ends_rig;

use std::fs;
use std::path::Path;
use std::process::Command;

use ends_rig::Rig;
use tidegate_bench::traffic::plan::{Kind, Pace, Plan};
use tidegate_bench::traffic::popularity::Popularity;
use tidegate_bench::traffic::results::Results;

/// Another compiler makes other octets of the same program.
const CLANG: &str = "clang version 14.";

fn plan(kind: Kind) -> Plan {
    let (popularity, pace) = (Popularity::Uniform, Pace::Sleep);
    Plan { kind, rate: 20_000.0, bytes: 60, flows: 1000, popularity, seconds: 0.25, pace, echo: false }
}

/// Returns how many were sent: all, but for what a core that was busy elsewhere at the end kept from being due in time.
fn assert_most_were_sent(results: &Results) -> u64 {
    assert!((4000..=5000).contains(&results.sent), "{results:?}");
    results.sent
}

#[test]
fn everything_that_is_sent_over_a_wire_arrives_once_and_in_order() {
    let Some(rig) = Rig::new("wire") else { return };
    let mut generator = rig.generator();
    for kind in [Kind::EstablishedUdp, Kind::EstablishedTcp, Kind::NewUdp, Kind::Connections] {
        for bytes in [60, 1514] {
            let results = generator.run(&Plan { bytes, ..plan(kind) }, |_| {}).unwrap();
            assert_eq!(results.offered, 5000, "{results:?}");
            let sent = assert_most_were_sent(&results);
            assert_eq!((results.completed, results.sink.received), (sent, sent), "{results:?}");
            assert_eq!(results.sink.reordered, 0, "{results:?}");
            assert_eq!(results.latency.count, sent, "every packet is timed");
        }
    }
}

#[test]
fn a_datagram_that_is_sent_back_is_timed_both_ways() {
    let Some(rig) = Rig::new("echo") else { return };
    let results = rig.generator().run(&Plan { echo: true, ..plan(Kind::EstablishedUdp) }, |_| {}).unwrap();
    let sent = assert_most_were_sent(&results);
    assert_eq!((results.replies, results.round_trip.count), (sent, sent), "{results:?}");
    assert!(results.round_trip.p50 >= results.latency.p50, "{results:?}");
}

#[test]
fn connections_run_from_syn_to_the_last_acknowledgement() {
    let Some(rig) = Rig::new("connections") else { return };
    let results = rig.generator().run(&plan(Kind::Connections), |_| {}).unwrap();
    let sink = results.sink;
    let sent = assert_most_were_sent(&results);
    assert_eq!((sink.opened, sink.received, sink.closed), (sent, sent, sent), "{results:?}");
    assert_eq!(sink.without_data, 2 * sent, "the ACK of the SYN and the ACK of the FIN: {results:?}");
    assert_eq!(results.round_trip.count, sent, "handshakes");
}

#[test]
fn packets_that_are_lost_are_counted_as_lost() {
    let Some(rig) = Rig::new("loss") else { return };
    let mut generator = rig.generator();
    rig.sink("ip link set eth0 down");
    let results = generator.run(&plan(Kind::NewUdp), |_| {}).unwrap();
    assert_eq!((results.completed, results.sink.received), (0, 0), "{results:?}");
    assert!((results.loss - 1.0).abs() < f64::EPSILON, "{results:?}");
    let opening = generator.run(&plan(Kind::EstablishedUdp), |_| {}).unwrap_err();
    assert_eq!(opening.to_string(), "1000 of 1000 flows were not answered");
}

#[test]
fn a_stall_makes_all_packets_late_that_were_due_in_it() {
    let Some(rig) = Rig::new("stall") else { return };
    let mut generator = rig.generator();
    // Offered more than leaves: the last ones are due long before they go.
    let overload = Plan { rate: 40e6, seconds: 0.05, pace: Pace::Spin, ..plan(Kind::NewUdp) };
    let results = generator.run(&overload, |_| {}).unwrap();
    assert!(results.sent < results.offered && results.loss > 0.5, "{results:?}");
    assert!(results.latency.max > 20_000_000, "{results:?}");
}

#[test]
fn the_committed_objects_are_made_from_the_committed_sources() {
    let Ok(clang) = Command::new("clang").arg("--version").output() else {
        println!("skipped: no clang");
        return;
    };
    let version = String::from_utf8_lossy(&clang.stdout).into_owned();
    if !version.contains(CLANG) || !Path::new("/usr/include/bpf/bpf_helpers.h").exists() {
        println!("skipped: no {CLANG} with libbpf's headers");
        return;
    }
    for (directory, object) in [("traffic", "ends.bpf.o"), ("flow_entries", "carry.bpf.o")] {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(directory);
        let rebuilt = std::env::temp_dir().join(format!("tg{}-{object}", std::process::id()));
        let build = Command::new(sources.join("build.sh")).arg(&rebuilt).output().unwrap();
        let octets = fs::read(&rebuilt);
        let _may_be_missing = fs::remove_file(&rebuilt);
        assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
        assert!(
            octets.unwrap() == fs::read(sources.join(object)).unwrap(),
            "run bench/src/{directory}/build.sh"
        );
    }
}
