//! Which queue a packet comes by is nobody's business but the NIC's: replies by another than their requests, connections
//! that move between queues, datagrams whose fragments come by both.

mod rig;

use std::process::Stdio;

use rig::gateway::Gateway;
use rig::{BOTH, ENT_PROD, Rig, Shape};

/// The queue by which each end sends: (namespace, device).
const CLIENT_END: (&str, &str) = ("jump", "eth0");
const PODS_END: (&str, &str) = ("lan", "gw");

/// Builds the rig with two queues on each device; `None` where two workers have no two cores.
fn two_queues() -> Option<Rig> {
    let rig = Rig::up(Shape::TwoQueues)?;
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("skipped: needs two cores");
        return None;
    }
    Some(rig)
}

fn two_workers(rig: &Rig) -> Gateway<'_> {
    Gateway::start_with(rig, &["--cores", "0,1"])
}

/// Shell text that lets the processors of a mask, and no others, send by a queue.
fn send_by(device: &str, queue: &str, processors: &str) -> String {
    format!("echo {processors} >/sys/class/net/{device}/queues/tx-{queue}/xps_cpus || exit 1\n")
}

/// The mask of all processors, as the kernel writes it: words of 32, the highest first.
fn all_processors() -> String {
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    let count = possible.trim().rsplit(['-', ',']).next().unwrap().parse::<u32>().unwrap() + 1;
    let words = (0..count.div_ceil(32)).rev();
    let words = words.map(|word| format!("{:08x}", u32::MAX >> (32 - (count - word * 32).min(32))));
    words.collect::<Vec<_>>().join(",")
}

/// Lets all processors send by one queue of a device.
fn steer(rig: &Rig, (namespace, device): (&str, &str), queue: usize) {
    let (queue, other) = if queue == 0 { ("0", "1") } else { ("1", "0") };
    let script = send_by(device, queue, &all_processors()) + &send_by(device, other, "0");
    rig.output(namespace, &["bash", "-c", &script]);
}

/// Datagrams, many short connections and a long one, over both families.
fn assert_serves_everything(rig: &Rig) {
    for address in BOTH {
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        assert_eq!(rig.peer("jump", &["echoes", address, "8080", "100", "200"]), "200", "{address}");
        let requests = format!(
            "seq 60 | xargs -P 8 -I{{}} curl -sS --max-time 10 'http://{host}:8080/?{{}}' | cut -c1-3 | sort | uniq -c"
        );
        assert_eq!(rig.output("jump", &["bash", "-o", "pipefail", "-c", &requests]), "60 dev", "{address}");
        let body = format!("curl -sS --max-time 15 'http://{host}:8080/bytes/3000000' | wc -c");
        assert_eq!(rig.output("jump", &["bash", "-o", "pipefail", "-c", &body]), "3000000", "{address}");
    }
}

#[test]
fn replies_by_another_queue_than_their_requests_find_their_flow() {
    let Some(rig) = two_queues() else { return };
    steer(&rig, CLIENT_END, 0);
    steer(&rig, PODS_END, 1);
    let gateway = two_workers(&rig);
    assert_serves_everything(&rig);
    let counters = gateway.assert_accounts_balance();
    assert!(counters.drops().is_empty(), "{counters:#?}");
    let of = |worker: usize, name: &str| {
        let wanted = format!("tidegate_{name}_total{{worker=\"{worker}\"}} ");
        let (_, metrics) = gateway.page("/metrics");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&wanted));
        line.unwrap_or_else(|| panic!("no {wanted}")).parse::<u64>().unwrap()
    };
    // The worker of the requests makes every flow; the other has nothing but replies to them.
    assert!(of(0, "flows_inserted") >= 2 * (1 + 60 + 1), "{counters:#?}");
    assert_eq!(of(1, "flows_inserted"), 0, "{counters:#?}");
    assert!(of(1, "forwarded") > 1_000, "{counters:#?}");
    gateway.stop();
}

#[test]
fn connections_whose_packets_change_queues_at_random_go_on() {
    let Some(rig) = two_queues() else { return };
    let gateway = two_workers(&rig);
    let mut steering: Vec<_> = [CLIENT_END, PODS_END]
        .map(|(namespace, device)| {
            let [one, other] = [("$queue", &*all_processors()), ("$((1 - queue))", "0")]
                .map(|(queue, processors)| send_by(device, queue, processors));
            let script = format!(
                "while true; do queue=$((RANDOM % 2))
                 {one} {other} read -t 0.00$((RANDOM % 9 + 1)) <> <(:); done"
            );
            rig.command(namespace, &["bash", "-c", &script]).stdin(Stdio::null()).spawn().unwrap()
        })
        .into();
    assert_serves_everything(&rig);
    for process in &mut steering {
        assert_eq!(process.try_wait().unwrap(), None, "the steering has ended");
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let counters = gateway.assert_accounts_balance();
    assert!(counters.drops().is_empty(), "{counters:#?}");
    gateway.stop();
}

#[test]
fn datagrams_whose_fragments_come_by_both_queues_in_any_order_pass() {
    let Some(rig) = two_queues() else { return };
    let script = send_by("eth0", "0", "1") + &send_by("eth0", "1", "2");
    rig.output("jump", &["bash", "-c", &script]);
    let gateway = two_workers(&rig);
    for address in BOTH {
        assert!(rig.peer("jump", &["udp", address, "8080", "neighbours are known now"]).starts_with("dev-"));
        let before = gateway.assert_accounts_balance();
        assert_eq!(rig.peer("jump", &["scattered", address, "8080", "8000", "100"]), "100", "{address}");
        let after = gateway.assert_accounts_balance();
        // Of each datagram's six pieces three come by the queue of the worker that it does not belong to.
        assert!(after.grown(&before, "handed_over") >= 300, "{after:#?}");
        assert_eq!(after.value("held"), 0, "{after:#?}");
        assert!(after.drops().is_empty(), "{after:#?}");
    }
    gateway.stop();
}

#[test]
fn a_connection_whose_segments_are_cut_on_the_way_passes_two_workers() {
    let Some(rig) = two_queues() else { return };
    rig.add_host("remote", "10.244.0.34");
    rig.output("remote", &["ip", "link", "del", "eth0"]);
    rig.join([("jump", "remote0", "10.3.0.1/24", 1500), ("remote", "eth0", "10.3.0.2/24", 1500)]);
    // The router in front cuts, since the client allows it.
    for (namespace, setting) in [("jump", "net.ipv4.ip_forward=1"), ("remote", "net.ipv4.ip_no_pmtu_disc=1")]
    {
        rig.output(namespace, &["sysctl", "-w", setting]);
    }
    rig.output("jump", &["ip", "route", "replace", "default", "via", "10.1.0.1", "mtu", "lock", "600"]);
    rig.output("remote", &["ip", "route", "add", "default", "via", "10.3.0.1"]);
    rig.output("gw", &["ip", "route", "add", "10.3.0.0/24", "via", rig::CLIENT]);
    let gateway = two_workers(&rig);
    let sent = rig.scratch().join("sent");
    let sent = sent.to_str().unwrap();
    let upload = format!(
        "head -c 2000000 /dev/urandom >{sent}; sha256sum <{sent} | cut -d' ' -f1;
         curl -sS --max-time 15 -H Expect: -T {sent} http://{ENT_PROD}:8080/"
    );
    let digests = rig.output("remote", &["bash", "-c", &upload]);
    let (sent, arrived) = digests.split_once('\n').unwrap_or_else(|| panic!("one digest only: {digests}"));
    assert_eq!(sent, arrived);
    let counters = gateway.assert_accounts_balance();
    assert!(counters.value("handed_over") > 1_000, "{counters:#?}");
    assert_eq!(counters.value("handed_over"), counters.value("taken_over"), "{counters:#?}");
    gateway.stop();
}
