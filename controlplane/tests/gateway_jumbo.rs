//! Links with an MTU of 9,000, whose packets take several frames: through the real binary in the namespace rig.

mod rig;

use rig::gateway::{BINARY, Gateway};
use rig::{BOTH, ENT_DEV, PODS, Rig, Seen, Shape};

/// Octets of a transfer that has many packets of full length.
const TRANSFER: &str = "10000000";
/// Its segments at an MTU of 9,000, with the acknowledgements and what is sent again: a quarter of what 1,500 would take.
const JUMBO_SEGMENTS: u64 = 3_600;

/// Sets the MTU of every device in a namespace.
fn set_mtu(rig: &Rig, namespace: &str, mtu: u32) {
    let script = format!(
        "for device in $(ls /sys/class/net); do
             [ $device = lo ] || ip link set $device mtu {mtu} || exit 1
         done"
    );
    rig.output(namespace, &["bash", "-c", &script]);
}

/// Sets the MTU of the client's link, and of the LAN of the pods with all its links.
fn set_mtus(rig: &Rig, client_side: u32, pod_side: u32) {
    set_mtu(rig, "jump", client_side);
    rig.output("gw", &["ip", "link", "set", "client0", "mtu", &client_side.to_string()]);
    rig.output("gw", &["ip", "link", "set", "pods0", "mtu", &pod_side.to_string()]);
    set_mtu(rig, "lan", pod_side);
    PODS.iter().for_each(|(pod, _)| set_mtu(rig, pod, pod_side));
}

fn host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Sends to a Service and compares the digests of both sides.
#[track_caller]
fn assert_upload_arrives(rig: &Rig, address: &str) {
    let script = format!(
        "set -o pipefail; head -c {TRANSFER} /dev/urandom >/dev/shm/tidegate-jumbo.$$;
         sha256sum </dev/shm/tidegate-jumbo.$$ | cut -d' ' -f1;
         curl -sS --max-time 15 -H Expect: -T /dev/shm/tidegate-jumbo.$$ http://{}:8080/;
         status=$?; rm /dev/shm/tidegate-jumbo.$$; exit $status",
        host(address)
    );
    let digests = rig.output("jump", &["bash", "-c", &script]);
    let (sent, arrived) = digests.split_once('\n').unwrap_or_else(|| panic!("one digest only: {digests}"));
    assert_eq!(sent, arrived);
}

/// Fetches from a Service and compares with what a pod itself gives.
#[track_caller]
fn assert_download_arrives(rig: &Rig, address: &str) {
    let digest = |namespace: &str, host: &str| {
        let fetch = format!("curl -sS --max-time 15 'http://{host}:8080/bytes/{TRANSFER}' | sha256sum");
        rig.output(namespace, &["bash", "-o", "pipefail", "-c", &fetch])
    };
    assert_eq!(digest("jump", &host(address)), digest("dev-1", "127.0.0.1"));
}

/// Sends datagrams, each answered by as many octets and more, and asserts that all come back whole.
#[track_caller]
fn assert_echoes(rig: &Rig, address: &str, octets: u32, count: u32) {
    let whole = rig.peer("jump", &["echoes", address, "8080", &octets.to_string(), &count.to_string()]);
    assert_eq!(whole, count.to_string(), "{octets} octets to {address}");
}

#[track_caller]
fn assert_long_ping(rig: &Rig, address: &str) {
    rig.output("jump", &["ping", "-c", "3", "-i", "0.2", "-W", "2", "-M", "do", "-s", "8900", address]);
}

fn assert_jumbo_packets_pass(arguments: &[&str], attach: &str) {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    set_mtus(&rig, 9000, 9000);
    let gateway = Gateway::start_with(&rig, arguments);
    for device in ["client0", "pods0"] {
        let line = format!("device {device} queue 0: copy mode, multi-buffer, {attach} XDP");
        assert!(gateway.log().contains(&line), "{}", gateway.log());
    }
    for address in BOTH {
        assert_long_ping(&rig, address);
        assert_echoes(&rig, address, 8_900, 40);
        // Each datagram in three fragments, two of which take several frames.
        assert_echoes(&rig, address, 20_000, 20);
        let before = gateway.counters();
        assert_upload_arrives(&rig, address);
        assert_download_arrives(&rig, address);
        let packets = gateway.counters().grown(&before, "rx_packets");
        assert!(
            packets < 2 * JUMBO_SEGMENTS,
            "{packets} packets: segments are not as long as the link takes"
        );
    }
    let counters = gateway.assert_accounts_balance();
    assert!(counters.drops().is_empty(), "{counters:#?}");
    assert_eq!((counters.value("answered_echo"), counters.value("answered")), (6, 6), "{counters:#?}");
    gateway.stop();
}

#[test]
fn jumbo_packets_pass_whole_in_native_mode() {
    assert_jumbo_packets_pass(&[], "native");
}

#[test]
fn jumbo_packets_pass_whole_in_generic_mode() {
    assert_jumbo_packets_pass(&["--xdp-mode", "generic"], "generic");
}

#[test]
fn jumbo_packets_that_are_the_kernels_reach_it_whole() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    set_mtus(&rig, 9000, 9000);
    rig.let_the_kernel_forward();
    let gateway = Gateway::start(&rig);
    // The replies come from an endpoint and belong to no flow, since the client asked the pod itself.
    assert_echoes(&rig, PODS[0].1, 8_900, 20);
    let counters = gateway.assert_accounts_balance();
    assert!(counters.value("punted") >= 20 && counters.drops().is_empty(), "{counters:#?}");
    gateway.stop();
}

#[test]
fn jumbo_fragments_pass_by_two_workers() {
    let Some(rig) = Rig::up(Shape::TwoQueues) else { return };
    set_mtus(&rig, 9000, 9000);
    let gateway = Gateway::start_with(&rig, &["--cores", "0,1"]);
    for address in BOTH {
        assert_echoes(&rig, address, 20_000, 60);
    }
    let counters = gateway.assert_accounts_balance();
    assert!(counters.value("taken_over") > 0 && counters.drops().is_empty(), "{counters:#?}");
    gateway.stop();
}

/// Asserts what the client has learned of the path to a destination.
#[track_caller]
fn assert_path_mtu(rig: &Rig, destination: &str, mtu: u32) {
    let learned = rig.output("jump", &["ip", "route", "get", destination]);
    assert!(learned.contains(&format!("mtu {mtu}")), "{destination}: {learned}");
}

#[test]
fn between_a_jumbo_link_and_a_short_one_transfers_finish_and_long_datagrams_are_cut_where_they_may_be() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    set_mtus(&rig, 9000, 1500);
    let gateway = Gateway::start(&rig);
    for address in BOTH {
        // The pods' segments are short anyhow; what the client sends becomes so when it was told.
        assert_long_ping(&rig, address);
        assert_upload_arrives(&rig, address);
        assert_download_arrives(&rig, address);
    }
    let before = gateway.counters();
    let script = format!(
        "exec 3<>/dev/udp/{ENT_DEV}/8080; head -c 8900 /dev/zero >&3; sleep 0.2; head -c 8900 /dev/zero >&3; true"
    );
    rig.output("jump", &["bash", "-c", &script]);
    assert_path_mtu(&rig, ENT_DEV, 1500);
    assert!(gateway.counters().grown(&before, "answered_fragmentation_needed") > 0);
    rig.output("jump", &["ip", "route", "flush", "cache"]);
    rig.output("jump", &["sysctl", "-w", "net.ipv4.ip_no_pmtu_disc=1"]);
    let before = gateway.counters();
    assert_echoes(&rig, ENT_DEV, 8_900, 30);
    let counters = gateway.assert_accounts_balance();
    let pieces = counters.grown(&before, "originated");
    assert_eq!(pieces, 30 * 6, "seven pieces of each, without the last: {counters:#?}");
    assert!(counters.drops().is_empty(), "{counters:#?}");
    gateway.stop();
}

fn check(rig: &Rig, interface: &str, arguments: &[&str]) -> Seen {
    let source = format!("manifests:{}", rig.manifests.directory().display());
    let state = rig.state().display().to_string();
    let all =
        [BINARY, "run", "--check", "--source", &source, "--state-dir", &state, "--interface", interface];
    rig.run("gw", &[&all, arguments].concat())
}

#[test]
fn a_device_that_cannot_have_its_mtu_is_refused_with_limit_and_reason() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    set_mtus(&rig, 9000, 9300);
    let seen = check(&rig, "client0", &[]);
    assert_eq!(seen.status, 0, "{}{}", seen.output, seen.errors);
    assert!(
        seen.output.contains("device client0: 1 receive queues, MTU 9000 (multi-buffer), "),
        "{}",
        seen.output
    );
    let seen = check(&rig, "pods0", &[]);
    let says = "--interface pods0: its MTU is 9300, more than 9202: no longer packets are carried; lower it with \
                `ip link set pods0 mtu 9202`";
    assert!(seen.status == 2 && seen.errors.contains(says), "{}{}", seen.output, seen.errors);

    // A tap device runs programs in its driver, which has packets in one buffer only.
    rig.output("gw", &["ip", "tuntap", "add", "tap0", "mode", "tap"]);
    rig.output("gw", &["ip", "link", "set", "tap0", "mtu", "9000", "up"]);
    let seen = check(&rig, "tap0", &[]);
    let says = "--interface tap0: its MTU is 9000, more than 3498: its driver has no multi-buffer packets with \
                native XDP; lower it with `ip link set tap0 mtu 3498`, or try `--xdp-mode generic`";
    assert!(seen.status == 2 && seen.errors.contains(says), "{}{}", seen.output, seen.errors);
    assert_eq!(check(&rig, "tap0", &["--xdp-mode", "generic"]).status, 0);
    let (status, errors) = rig::gateway::refused_start(&rig, &["tap0"], &[]);
    assert!(status == 2 && errors.contains(says), "{errors}");
}
