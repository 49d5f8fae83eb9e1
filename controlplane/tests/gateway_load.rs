//! Many connections at once through the real binary, over both families.

mod rig;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use rig::conversation::Many;
use rig::gateway::Gateway;
use rig::{BOTH, Rig, Shape, eventually};

/// A virtual address as it stands in a URL.
fn host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

#[test]
fn ten_thousand_short_connections_at_fifty_in_parallel_all_succeed() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    for address in BOTH {
        let pages = format!("http://{}:8080/[1-5000]", host(address));
        let client = "timeout 120 curl -sS -Z --parallel-max 50 --no-keepalive -H 'Connection: close' \
                      --max-time 20 -o /dev/null -w '%{http_code}\n' \"$0\" | sort | uniq -c";
        let mut command = rig.command("jump", &["bash", "-o", "pipefail", "-c", client, &pages]);
        let seen = command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&seen.stdout);
        let errors = String::from_utf8_lossy(&seen.stderr);
        assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["5000", "200"], "{address}: {errors}");
    }
    let counters = gateway.assert_accounts_balance();
    assert!(counters.value("flows_inserted") >= 10_000, "{counters:#?}");
    assert_eq!(counters.drops(), BTreeMap::new());
}

#[test]
fn a_thousand_idle_connections_stay_across_ten_endpoint_changes() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let mut connections = BOTH.map(|address| Many::open(&rig, address, "9000", 500));
    assert_eq!(connections.each_mut().map(|some| some.say("before")), [500, 500]);
    let (_, metrics) = gateway.page("/metrics");
    for family in ["ipv4", "ipv6"] {
        let wanted = format!("tidegate_flows_by_state{{family=\"{family}\",state=\"tcp_established\"}} ");
        let established = metrics.lines().find_map(|line| line.strip_prefix(&wanted)).unwrap();
        assert_eq!(established, "500", "{family}");
    }
    for change in 0..10 {
        let before = gateway.counters().value("endpoints");
        if change % 2 == 0 {
            rig.manifests.write_pod("dev-3", "10.244.0.13");
        } else {
            rig.manifests.remove_pod("dev-3");
        }
        eventually("the change in force", Duration::from_secs(5), || {
            (gateway.counters().value("endpoints") != before).then_some(())
        });
    }
    assert_eq!(connections.each_mut().map(|some| some.say("after")), [500, 500]);
    gateway.assert_accounts_balance();
}
