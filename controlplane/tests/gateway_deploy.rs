//! The gateway with the rights that `tools/deploy` gives it, through the real binary in the namespace rig.

mod rig;

use std::fs;
use std::path::Path;

use rig::gateway::Gateway;
use rig::{DNS, ENT_DEV, Rig, Shape};

/// The capabilities of the unit, as `setpriv` wants them: `-all,+net_admin,...`.
fn capabilities() -> String {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/deploy/tidegate.service");
    let unit = fs::read_to_string(unit).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let added = line.split(' ').map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
    format!("-all{}", added.collect::<String>())
}

#[test]
fn the_capabilities_of_the_manifests_are_enough_and_a_read_only_proc_sys_is_no_hindrance() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let capabilities = capabilities();
    // As in a container: /proc/sys is read-only, the host's /proc/sys/net is mounted elsewhere, memory for pinning is
    // scarce.
    let script = "set -e
        mkdir -p \"$2\" && mount --bind /proc/sys/net \"$2\"
        mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys
        ulimit -l 64
        export TIDEGATE_SYSCTL_NET=\"$2\"
        sets=$1; shift 2
        exec setpriv --inh-caps=\"$sets\" --bounding-set=\"$sets\" --no-new-privs \"$@\"";
    let mounted = rig.state().with_file_name("sysctl-net").display().to_string();
    let wrapper = ["unshare", "--mount", "bash", "-c", script, "confined", &capabilities, &mounted];
    let gateway = Gateway::start_by(&rig, &wrapper, &[]);
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.id())).unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let effective = u64::from_str_radix(effective, 16).unwrap();
    assert_eq!(effective.count_ones() as usize, capabilities.matches('+').count(), "{effective:x}");

    let seen = rig.curl(&format!("http://{ENT_DEV}:8080/"));
    assert_eq!(seen.status, 0, "{}", seen.errors);
    let name = "ent.dev.svc.cluster.local";
    assert_eq!(rig.output("jump", &["dig", "+short", &format!("@{DNS}"), name]), ENT_DEV);
    gateway.stop();
}
