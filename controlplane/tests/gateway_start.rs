//! What `--check` says, how a start fails, and that neither leaves anything behind, through the real binary in the
//! namespace rig.

mod rig;

use std::process::{Command, Stdio};
use std::time::Duration;

use rig::gateway::{BINARY, Gateway, refused_start};
use rig::manifests::service;
use rig::traces::{differences, kernel_state};
use rig::{DNS, ENT_DEV, HOLLOW, Rig, Seen, Shape, eventually};

const METRICS: &str = "127.0.0.1:9100";

fn check(rig: &Rig, interfaces: &[&str], arguments: &[&str]) -> Seen {
    let source = format!("manifests:{}", rig.manifests.directory().display());
    let state = rig.state().display().to_string();
    let mut all = vec![BINARY, "run", "--check", "--source", &source];
    if !arguments.contains(&"--state-dir") {
        all.extend(["--state-dir", &state]);
    }
    all.extend(interfaces.iter().flat_map(|interface| ["--interface", interface]));
    all.extend(arguments);
    rig.run("gw", &all)
}

#[track_caller]
fn assert_says(seen: &Seen, wanted: &str) {
    assert!(seen.output.lines().any(|line| line.contains(wanted)), "no `{wanted}` in {}", seen.output);
}

#[test]
fn check_prints_the_plan_and_leaves_no_trace() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.manifests.write("bent.yaml", &service("dev", "bent", "10.96.1.300", "enterprise"));
    rig.manifests.write_pod("dev-9", "192.0.2.9");
    rig.output("gw", &["ip", "route", "add", "unreachable", "192.0.2.0/24"]);
    let before = kernel_state(&rig);
    let seen = check(&rig, &["client0", "pods0"], &["--dns-listen", DNS, "--metrics", METRICS]);
    assert_eq!(seen.status, 0, "{}{}", seen.output, seen.errors);
    assert_says(&seen, "device client0: 1 receive queues, MTU 1500");
    assert_says(&seen, "device pods0 queues 0");
    assert_says(&seen, &format!("Service dev/ent: {ENT_DEV}:8080/TCP -> 3 endpoints"));
    assert_says(&seen, &format!("Service dev/hollow: {HOLLOW}:8080/UDP -> 0 endpoints"));
    assert_says(&seen, "limit: endpoint 192.0.2.9:8080/TCP: has no route");
    assert_says(&seen, &format!("DNS: cluster.local on {DNS}:53; a run would add the address to lo"));
    let refused: Vec<_> = seen.output.lines().filter(|line| line.starts_with("refused: ")).collect();
    assert!(refused.len() == 1 && refused[0].contains("bent.yaml:1: "), "{refused:?}");
    assert!(!seen.output.contains("obstacle: ") && !seen.output.contains("dev/crew: "), "{}", seen.output);
    assert_eq!(differences(&before, &kernel_state(&rig)), [""; 0]);
    assert!(!rig.state().exists(), "a state directory was made");
}

#[test]
fn check_names_all_that_would_keep_a_second_run_from_starting_and_disturbs_nothing() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let before = kernel_state(&rig);
    let seen = check(&rig, &["client0", "pods0"], &["--dns-listen", DNS, "--metrics", METRICS]);
    assert_eq!(seen.status, 1, "{}{}", seen.output, seen.errors);
    assert!(
        seen.errors.ends_with("error: a run would not start now: there are 6 obstacles\n"),
        "{}",
        seen.errors
    );
    assert_says(&seen, "obstacle: --interface client0: XDP program ");
    assert_says(&seen, "obstacle: --interface pods0: XDP program ");
    assert_says(&seen, &format!("obstacle: --dns-listen {DNS}:53 (udp): "));
    assert_says(&seen, &format!("obstacle: --dns-listen {DNS}:53 (tcp): "));
    assert_says(&seen, "obstacle: --metrics: cannot listen: ");
    assert_says(&seen, "in use by process ");
    assert_says(&seen, &format!("Service dev/ent: {ENT_DEV}:8080/TCP -> 2 endpoints"));
    assert_eq!(differences(&before, &kernel_state(&rig)), [""; 0]);
    assert!(rig.curl(&format!("http://{ENT_DEV}:8080/")).output.starts_with("dev-"));
    gateway.assert_accounts_balance();
}

#[test]
fn bad_usage_and_configuration_end_with_status_2_and_name_the_flag() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let file = rig.state().with_file_name("config.toml");
    std::fs::write(&file, "flows = 'many'\n").unwrap();
    let before = kernel_state(&rig);
    for (interfaces, arguments, says) in [
        (&["client0"][..], &["--nonsense"][..], "--nonsense"),
        (&["client0", "nosuch0"], &[], "--interface nosuch0: no such device"),
        (&["client0", "client0"], &[], "--interface client0: named twice"),
        (&["lo"], &[], "--interface lo"),
        (&["client0"], &["--cores", "63"], "--cores: core 63"),
        (&["client0"], &["--config", file.to_str().unwrap()], "--flows"),
        (&["client0"], &["--cluster-domain", "a..b"], "'a..b' for '--cluster-domain <DOMAIN>'"),
        (
            &["client0"],
            &["--state-dir", file.to_str().unwrap()],
            &format!("--state-dir {0}: {0} is no directory", file.display()),
        ),
        (&["client0"], &["--cluster-file", "/etc"], "--cluster-file /etc: is a directory"),
        (&["client0"], &["--service-cidr", "10.1.0.0/16"], "10.1.0.0/24, which is a network of this box"),
        (&["client0"], &["--service-cidr", "10.244.0.0/25"], "10.244.0.0/24, which is a network of this box"),
        (&["client0"], &["--pod-cidr", "10.97.0.0/16"], "10.97.0.0/16, which is a --pod-cidr"),
        (&["client0"], &["--dns-listen", "0.0.0.0"], "--dns-listen 0.0.0.0:53"),
        (&["client0"], &["--dns-listen", DNS, "--dns-listen", DNS], "--dns-listen 10.96.0.10: named twice"),
        (&["client0"], &["--dns-listen", DNS, "--dns-upstream", DNS], "--dns-upstream 10.96.0.10:53"),
        (&["client0"], &["--dns-stub", "a.cluster.local=192.0.2.1"], "--dns-stub"),
    ] {
        let seen = check(&rig, interfaces, arguments);
        assert_eq!(seen.status, 2, "{arguments:?}: {}{}", seen.output, seen.errors);
        assert!(seen.errors.contains(says) && !seen.errors.contains("panicked"), "{says}: {}", seen.errors);
    }
    rig.output("gw", &["ip", "link", "set", "client0", "mtu", "9300"]);
    let seen = check(&rig, &["client0"], &[]);
    assert!(seen.status == 2 && seen.errors.contains("ip link set client0 mtu 9202"), "{}", seen.errors);
    rig.output("gw", &["ip", "link", "set", "client0", "mtu", "1500"]);
    assert_eq!(differences(&before, &kernel_state(&rig)), [""; 0]);
}

#[test]
fn a_dns_address_in_use_is_named_with_its_flag_before_a_packet_is_taken() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.start_peer("gw", &["serve-dns", "192.0.2.1"]);
    let before = kernel_state(&rig);
    let (status, errors) = refused_start(&rig, &["client0", "pods0"], &[]);
    assert_eq!(status, 1, "{errors}");
    assert!(
        errors.contains(&format!("--dns-listen: cannot listen on {DNS}:53 (udp): in use by ")),
        "{errors}"
    );
    assert_eq!(differences(&before, &kernel_state(&rig)), [""; 0]);
}

#[test]
fn a_start_that_fails_in_the_middle_takes_everything_back() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    // The punt device comes after the program is attached and the address is on lo.
    rig.output("gw", &["ip", "link", "add", "tide0", "type", "veth", "peer", "name", "other0"]);
    let before = kernel_state(&rig);
    let (status, errors) = refused_start(&rig, &["client0", "pods0"], &["--xdp-mode", "generic"]);
    assert_eq!(status, 1, "{errors}");
    assert!(errors.contains("device tide0 exists and is not this instance's"), "{errors}");
    assert_eq!(differences(&before, &kernel_state(&rig)), [""; 0]);
}

#[test]
fn sigterm_at_any_time_of_the_start_leaves_nothing_behind() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let before = kernel_state(&rig);
    let source = format!("manifests:{}", rig.manifests.directory().display());
    let state = rig.state().display().to_string();
    for delay in (0..15).map(|step| Duration::from_millis(step * step)) {
        let arguments = [
            [BINARY, "run", "--interface", "client0", "--interface", "pods0", "--source", &source],
            ["--state-dir", &state, "--dns-listen", DNS, "--flows", "65536", "--xdp-mode", "generic"],
        ];
        let mut command = rig.command("gw", &arguments.concat());
        let program = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(delay);
        let told = Command::new("kill").args(["-s", "TERM", &program.id().to_string()]).status().unwrap();
        assert!(told.success());
        let output = program.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        // A signal before the first line of ours ends the process by itself.
        assert!([Some(0), None].contains(&output.status.code()), "{delay:?}: {} {errors}", output.status);
        assert_eq!(differences(&before, &kernel_state(&rig)), [""; 0], "after {delay:?}: {errors}");
    }
}

#[test]
fn the_limit_of_open_files_is_raised_to_the_hard_one() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let source = format!("manifests:{}", rig.manifests.directory().display());
    let state = rig.state().display().to_string();
    let arguments = [
        ["bash", "-c", "ulimit -Sn 256 && exec \"$@\"", "-", BINARY, "run", "--interface", "client0"],
        ["--source", &source, "--state-dir", &state, "--flows", "65536", "--dns-listen", DNS],
    ];
    let mut program = rig.command("gw", &arguments.concat()).stdin(Stdio::null()).spawn().unwrap();
    let shown = |what: &str| std::fs::read_to_string(format!("/proc/{}/{what}", program.id())).unwrap();
    eventually("equal limits of open files", Duration::from_secs(10), || {
        // The shell before it has equal ones too, until it lowers one.
        let limits = (shown("comm") == "tidegate\n").then(|| shown("limits"))?;
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let numbers: Vec<&str> = line.split_whitespace().skip(3).collect();
        (numbers[0] == numbers[1]).then_some(())
    });
    let told = Command::new("kill").args(["-s", "TERM", &program.id().to_string()]).status().unwrap();
    // The limit is raised first of all: the signal may come before there is anything to take back.
    assert!(told.success());
    program.wait().unwrap();
}
