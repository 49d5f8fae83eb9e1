use super::*;

fn run(arguments: &[&str]) -> Result<RunArguments, String> {
    let all = ["tidegate", "run"].iter().chain(arguments).map(OsString::from);
    match parse(all).map_err(|e| e.to_string())?.command {
        Command::Run(run) => Ok(*run),
        other => panic!("{other:?} is no run"),
    }
}

#[test]
fn flags_win_over_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "interface = ['a', 'b']\nsource = 'manifests:/m'\nflows = 4096\n").unwrap();
    let config = file.path().to_str().unwrap();
    let both = run(&["--config", config, "--flows", "2048"]).unwrap();
    assert_eq!((both.interfaces, both.flows), (vec!["a".into(), "b".into()], 2048));
    assert_eq!(both.cluster.source, Source::Manifests("/m".into()));
}

#[test]
fn workers_sleep_unless_the_command_line_or_the_file_says_otherwise() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "polling = 'busy'\n").unwrap();
    let base = ["--interface", "a", "--source", "manifests:/m"];
    let with = |more: &[&str]| run(&[&base[..], more].concat()).unwrap().polling;
    let config = file.path().to_str().unwrap();
    assert_eq!(with(&[]), PollingMode::Adaptive);
    assert_eq!(with(&["--config", config]), PollingMode::Busy);
    assert_eq!(with(&["--config", config, "--polling", "adaptive"]), PollingMode::Adaptive);
}

#[test]
fn how_names_are_made_can_be_said_by_flags_and_by_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "interface = 'a'\nsource = 'manifests:/m'\ndns-pods = 'verified'\ndns-ttl = 5\n\
                dns-namespace = ['dev', 'prod']\ndns-endpoint-pod-names = true\n\
                dns-upstream = ['192.0.2.1', '/etc/resolv.conf']\n";
    std::fs::write(&file, text).unwrap();
    let run = run(&["--config", file.path().to_str().unwrap(), "--dns-aaaa", "nodata"]).unwrap();
    assert_eq!((run.names.dns_pods, run.names.dns_ttl), (PodsMode::Verified, 5));
    assert_eq!(run.names.dns_namespaces, ["dev", "prod"]);
    assert!(run.names.dns_endpoint_pod_names && !run.names.dns_ignore_empty_service);
    assert_eq!(run.names.dns_aaaa, Some(AaaaAnswer::Nodata));
    let server = DnsUpstream::Server("192.0.2.1:53".parse().unwrap());
    assert_eq!(run.dns_upstream, [server, DnsUpstream::File("/etc/resolv.conf".into())]);
}

#[test]
fn an_unknown_key_of_the_file_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "inteface = 'a'\n").unwrap();
    let error = run(&["--config", file.path().to_str().unwrap()]).unwrap_err();
    assert!(error.contains("`inteface` is no setting"), "{error}");
}

#[track_caller]
fn assert_refused(flag: &str, value: &str, says: &str) {
    let error = run(&["--interface", "a", "--source", "manifests:/m", flag, value]).unwrap_err();
    assert!(error.contains(says) && error.contains(flag), "{flag} {value}: {error}");
}

#[test]
fn bad_values_are_named_with_their_flag() {
    for (flag, value, says) in [
        ("--dns-listen", "10.96.0.300", "`10.96.0.300` is no address"),
        ("--dns-listen", "10.96.0.10:99999", "nor an address and a port, as `10.96.0.10`"),
        ("--dns-listen", "10.96.0.10:0", "`10.96.0.10:0` has port 0; the least is 1"),
        ("--dns-listen", "224.0.0.1", "`224.0.0.1` is a multicast address"),
        ("--metrics", "9100", "`9100` is no address and port, as `127.0.0.1:9100`"),
        ("--metrics", "127.0.0.1:0", "the port from 1 to 65535"),
        ("--interface", "", "--interface <NAME>"),
        ("--interface", "a", "--interface a: named twice"),
        ("--node-name", "A/b", "`A/b` is no DNS name"),
        ("--node-name", "", "`` is no DNS name"),
        ("--zone", "a/b", "`a/b` is no value of a label"),
        ("--cluster-domain", "a..b", "has a label that is empty"),
        ("--cluster-domain", ".", "`.` is the root"),
        ("--dns-namespace", "A/b", "`A/b` is no DNS label"),
        ("--dns-stub", "corp", "not ZONE=ADDR"),
        ("--dns-stub", "a..b=192.0.2.1", "zone \"a..b\" has a label that is empty"),
        ("--dns-stub", "corp=0.0.0.0", "`0.0.0.0` is nobody's address"),
        ("--dns-upstream", "192.0.2.1,192.0.2.1", "--dns-upstream 192.0.2.1: named twice"),
        ("--dns-upstream", "::", "`::` is nobody's address"),
        ("--dns-upstream", "resolv.conf", "`resolv.conf` is no address"),
        ("--dns-pods", "maybe", "[possible values: disabled, insecure, verified]"),
        ("--masquerade", "sometimes", "[possible values: auto, always, never]"),
    ] {
        assert_refused(flag, value, says);
    }
}

#[test]
fn bad_numbers_times_and_networks_are_named_with_what_would_be_right() {
    for (flag, value, says) in [
        (
            "--service-cidr",
            "10.96.0.0/33",
            "`10.96.0.0/33` is no network ADDRESS/LENGTH: the length 33 is above 32",
        ),
        (
            "--pod-cidr",
            "fd00::/129",
            "`fd00::/129` is no network ADDRESS/LENGTH: the length 129 is above 128",
        ),
        ("--dns-allow", "10.0.0/8", "`10.0.0/8` is no network ADDRESS/LENGTH: `10.0.0` is no address"),
        ("--nodeport-addresses", "10.0.0.1", "it has no `/LENGTH`, as in `10.96.0.0/12`"),
        ("--pod-cidr", "", "`` is no network ADDRESS/LENGTH"),
        ("--pod-cidr", "10.0.0.0/", "`` is no length from 0 to 32"),
        ("--pod-cidr", "10.0.0.0/-1", "`-1` is no length from 0 to 32"),
        ("--pod-cidr", "10.0.0.0/8,10.0.0.0/8", "--pod-cidr 10.0.0.0/8: named twice"),
        ("--vip-linger", "9999999999999h", "`9999999999999h` is longer than 136 years"),
        ("--watch-time", "0", "`0` is no time at all"),
        ("--vip-linger", "5", "needs a unit"),
        ("--cores", "1,1", "names a core twice"),
        ("--cores", "5-2", "`5-2` is no range: 5 comes after 2"),
        ("--cores", "0-99999999999", "`99999999999` is no core number; write `2`"),
        ("--cores", "0-64", "`0-64` names 65 cores; 1 to 64 are possible"),
        ("--flows", "5", "`5` is no whole number from 1024 to 33554432"),
        ("--flows", "many", "`many` is no whole number from 1024 to 33554432"),
        ("--frames", "", "`` is no whole number from 4096 to 1048576"),
        ("--endpoints", "1e6", "`1e6` is no whole number from 1024 to 16777216"),
        ("--timeout", "udp", "not NAME=TIME"),
        ("--timeout", "udp=5", "needs a unit"),
        ("--timeout", "udp=0s", "timeout udp: at least one second"),
        ("--timeout", "udp=1500ms", "no time of whole seconds"),
        ("--timeout", "tcp=5s", "`tcp` is no timeout; there are tcp_syn_sent"),
        ("--timeout", "udp=5s,nf_conntrack_udp_timeout=6s", "--timeout udp: named twice"),
        ("--dns-ttl", "3601", "3601"),
        ("--masquerade-ports", "65535-61000", "`65535-61000` is no range"),
        ("--masquerade-ports", "0-5", "`0-5` is no range"),
        ("--masquerade-ports", "61000-70000", "`70000` is no port"),
    ] {
        assert_refused(flag, value, says);
    }
}

#[test]
fn each_timeout_that_is_named_replaces_linuxs() {
    let base = ["--interface", "a", "--source", "manifests:/m"];
    assert_eq!(run(&base).unwrap().flow_timeouts(), Timeouts::default());
    let named =
        ["--timeout", "tcp_established=2h", "--timeout", "nf_conntrack_udp_timeout=45s,sctp_closed=1m"];
    let expected = Timeouts { tcp_established: 7_200, udp: 45, sctp_closed: 60, ..Timeouts::default() };
    assert_eq!(run(&[&base[..], &named].concat()).unwrap().flow_timeouts(), expected);
}

#[test]
fn an_unknown_source_is_refused() {
    let error = run(&["--interface", "a", "--source", "etcd:/x"]).unwrap_err();
    assert!(error.contains("manifests:DIR"), "{error}");
}

#[test]
fn a_dns_address_has_port_53_unless_given() {
    assert_eq!("10.96.0.10".parse::<DnsAddress>().unwrap().0, "10.96.0.10:53".parse().unwrap());
    assert_eq!("[::1]:5353".parse::<DnsAddress>().unwrap().0, "[::1]:5353".parse().unwrap());
}

#[test]
fn core_lists_take_ranges() {
    assert_eq!("0,2-4".parse::<CoreList>().unwrap().0, [0, 2, 3, 4]);
}

#[test]
fn two_servers_of_one_zone_and_one_of_two_zones_are_no_repetition() {
    let base = ["--interface", "a", "--source", "manifests:/m"];
    let stubs = ["--dns-stub", "corp=192.0.2.1,corp=192.0.2.2", "--dns-stub", "lab=192.0.2.1"];
    assert_eq!(run(&[&base[..], &stubs].concat()).unwrap().dns_stubs.len(), 3);
}

#[test]
fn a_network_is_taken_with_any_length_and_any_host_part() {
    for (text, network) in
        [("10.96.1.2/12", "10.96.0.0/12"), ("0.0.0.0/0", "0.0.0.0/0"), ("fd00:96::1/128", "fd00:96::1/128")]
    {
        assert_eq!(values::network(text).unwrap().trunc(), network.parse().unwrap());
    }
}

#[test]
fn the_help_names_every_page_of_the_metrics_address() {
    let help = parse(["tidegate", "run", "--help"].map(OsString::from)).unwrap_err().to_string();
    let line = help.lines().find(|line| line.contains("/metrics")).unwrap();
    assert!(["/healthz", "/livez", "/readyz"].iter().all(|page| line.contains(page)), "{line}");
}
