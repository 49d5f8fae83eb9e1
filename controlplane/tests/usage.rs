//! What subcommands say to bad input, through the real binary: status 2, the flag, the value, and what would be right.

use std::process::{Command, Output, Stdio};

const EXAMPLE: &str = concat!("manifests:", env!("CARGO_MANIFEST_DIR"), "/../tools/example");

fn tidegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env_remove("TIDEGATE_LOG").stdin(Stdio::null());
    command
}

#[track_caller]
fn assert_refused(output: &Output, wanted: &[&str]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    for wanted in wanted {
        assert!(errors.starts_with("error: ") && errors.contains(wanted), "no `{wanted}` in {errors}");
    }
}

#[test]
fn a_namespace_that_is_no_dns_label_is_refused() {
    let long = "a".repeat(64);
    for namespace in ["a/b", "../x", "A", "", "a.b", "a-", &long] {
        let flag = format!("--namespace={namespace}");
        let says = ["--namespace", &format!("`{namespace}` is no DNS label")];
        for arguments in [
            &["env", "--source", EXAMPLE, &flag][..],
            &["resolv-conf", "--dns-listen", "10.96.0.10", &flag],
            &["dns", "explain", "ent", "--source", EXAMPLE, &flag],
        ] {
            assert_refused(&tidegate(arguments).output().unwrap(), &says);
        }
    }
    let longest = format!("--namespace={}", "a".repeat(63));
    let taken = tidegate(&["resolv-conf", "--dns-listen", "10.96.0.10", &longest]).output().unwrap();
    assert!(taken.status.success(), "{taken:?}");
}

#[test]
fn what_a_subcommand_cannot_use_is_named_with_its_flag_and_its_value() {
    let resolv_conf = ["resolv-conf", "--namespace", "dev", "--dns-listen", "10.96.0.10"];
    let explain = ["dns", "explain", "--source", EXAMPLE];
    for (command, arguments, says) in [
        (&resolv_conf[..], &["--resolv-conf", "/nosuch"][..], &["--resolv-conf /nosuch: No such file"][..]),
        (
            &resolv_conf,
            &["--cluster-domain", "a..b"],
            &["--cluster-domain", "\"a..b\" has a label that is empty"],
        ),
        (&resolv_conf, &["--dns-listen", "10.96.0.10"], &["--dns-listen 10.96.0.10: named twice"]),
        (&explain, &["a..b"], &["NAME `a..b`: ", "has a label that is empty"]),
        (&explain, &["ent", "BOGUS"], &["TYPE `BOGUS`: is no type; write `A`, `SRV` or `TYPE65`"]),
        (
            &["env", "--namespace", "dev"],
            &["--source", "manifests:/nosuch"],
            &["--source manifests:/nosuch: cannot follow the directory: No such file"],
        ),
        (
            &["env", "--namespace", "dev"],
            &["--source", "etcd:/x"],
            &["--source", "`kubernetes` or `manifests:DIR`"],
        ),
    ] {
        assert_refused(&tidegate(&[command, arguments].concat()).output().unwrap(), says);
    }
}

#[test]
fn an_answer_is_all_that_is_printed_where_nothing_is_wrong() {
    let output =
        tidegate(&["dns", "explain", "nosuch.dev.svc.cluster.local.", "--source", EXAMPLE]).output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let wanted = "nosuch.dev.svc.cluster.local. A: NXDOMAIN\n  because: the namespace has no such Service\n";
    assert_eq!((output.status.code(), &*said, &*errors), (Some(0), wanted, ""));
}

#[test]
fn a_log_filter_that_is_none_is_refused() {
    let mut command = tidegate(&["env", "--namespace", "dev", "--source", EXAMPLE]);
    let output = command.env("TIDEGATE_LOG", "tidegate=loud").output().unwrap();
    assert_refused(&output, &["TIDEGATE_LOG `tidegate=loud`: "]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = tidegate(&["env", "--namespace", "dev", "--source", EXAMPLE]);
    let output = command.env("TIDEGATE_LOG", "off").stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(141), &b""[..]), "{output:?}");
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let full = std::fs::File::create("/dev/full").unwrap();
    let output =
        tidegate(&["resolv-conf", "--namespace", "dev", "--dns-listen", "10.96.0.10"]).stdout(full).output();
    let output = output.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.starts_with("error: cannot write to stdout: "), "{errors}");
}
