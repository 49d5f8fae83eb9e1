//! The gateway with the rights that `tools/deploy` gives it, through the real binary in the namespace rig.

mod rig;

use std::fs;
use std::path::Path;

use rig::gateway::{Gateway, refused_start_by};
use rig::{DNS, ENT_DEV, Rig, Shape};

/// The capabilities of the unit, as `setpriv` wants them: `-all,+net_admin,...`.
fn capabilities() -> String {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/deploy/tidegate.service");
    let unit = fs::read_to_string(unit).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let added = line.split(' ').map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
    format!("-all{}", added.collect::<String>())
}

/// Runs what follows it with these capabilities and little memory for pinning; as in a container, /proc/sys is read-only,
/// and the host's /proc/sys/net is mounted elsewhere.
fn confined(rig: &Rig, capabilities: &str) -> [String; 8] {
    let script = "set -e
        mkdir -p \"$2\" && mount --bind /proc/sys/net \"$2\"
        mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys
        ulimit -l 64
        export TIDEGATE_SYSCTL_NET=\"$2\"
        sets=$1; shift 2
        exec setpriv --inh-caps=\"$sets\" --bounding-set=\"$sets\" --no-new-privs \"$@\"";
    let mounted = rig.state().with_file_name("sysctl-net").display().to_string();
    ["unshare", "--mount", "bash", "-c", script, "confined", capabilities, &mounted].map(str::to_owned)
}

#[test]
fn the_capabilities_of_the_manifests_are_enough_and_a_read_only_proc_sys_is_no_hindrance() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let capabilities = capabilities();
    let wrapper = confined(&rig, &capabilities);
    let mut gateway = Gateway::start_by(&rig, &wrapper.each_ref().map(String::as_str), &[]);
    gateway.await_line("what the set costs", |line| line.contains("without CAP_PERFMON"));
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

#[test]
fn without_any_one_of_these_capabilities_it_does_not_start_and_says_why() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let capabilities = capabilities();
    let said = [
        ("net_admin", "lacks CAP_NET_ADMIN"),
        ("net_raw", "lacks CAP_NET_RAW"),
        ("bpf", "lacks CAP_BPF"),
        ("ipc_lock", "memory"),
        ("net_bind_service", "--dns-listen"),
    ];
    assert_eq!(said.len(), capabilities.matches('+').count());
    for (name, wanted) in said {
        let others = capabilities.replace(&format!(",+{name}"), "");
        assert_ne!(others, capabilities, "{name}");
        let wrapper = confined(&rig, &others);
        let wrapper = wrapper.each_ref().map(String::as_str);
        let (status, errors) = refused_start_by(&rig, &wrapper, &["client0", "pods0"], &[]);
        println!("{name}: {status}: {errors}");
        assert!(status != 0 && errors.contains(wanted), "{name}: {status}: {errors}");
    }
}
