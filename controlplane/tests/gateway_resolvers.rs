//! The resolvers that people use, and names that come and go under them, through the real binary in the namespace rig.

mod rig;

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rig::gateway::Gateway;
use rig::manifests::service;
use rig::{BOTH, DNS, ENT_DEV, ENT_PROD, Rig, Shape, eventually};

const PATIENCE: Duration = Duration::from_secs(10);
/// An address of the gateway's own, on the clients' side.
const DIRECT: &str = "10.1.0.1";

fn gateway(rig: &Rig) -> Gateway<'_> {
    Gateway::start_with(rig, &["--dns-listen", DIRECT])
}

#[track_caller]
fn short(rig: &Rig, server: &str, question: &[&str]) -> Vec<String> {
    let server = format!("@{server}");
    let arguments = [&["dig", "+tries=1", "+time=3", "+short", &server], question].concat();
    let mut lines: Vec<String> = rig.output("jump", &arguments).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn dig_is_answered_by_the_cluster_ip_and_directly_whatever_it_switches_on() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let _gateway = gateway(&rig);
    let name = "ent.dev.svc.cluster.local";
    for server in [DNS, DIRECT] {
        for switch in [
            "+notcp",
            "+tcp",
            "+bufsize=512",
            "+bufsize=4096",
            "+nocookie",
            "+noedns",
            "+dnssec",
            "+padding=64",
        ] {
            assert_eq!(short(&rig, server, &[switch, name]), [ENT_DEV], "{server} {switch}");
        }
        assert_eq!(short(&rig, server, &["+search", "eNt"]), [ENT_DEV]);
        assert_eq!(short(&rig, server, &["AAAA", "both.dev.svc.cluster.local"]), [BOTH[1]]);
        assert_eq!(short(&rig, server, &["-x", BOTH[1]]), ["both.dev.svc.cluster.local."]);
        assert_eq!(
            short(&rig, server, &["+keepopen", "+tcp", name, "ent.prod.svc.cluster.local"]),
            [ENT_DEV, ENT_PROD]
        );
    }
    let said = rig.output("jump", &["dig", "+tries=1", &format!("@{DNS}"), "EnT.dEv.sVc.cLuStEr.lOcAl"]);
    let answer = said.lines().find(|line| line.starts_with("EnT.dEv.sVc.cLuStEr.lOcAl."));
    assert!(answer.is_some_and(|line| line.ends_with(ENT_DEV)), "{said}");
    assert!(!said.contains("malformed") && !said.contains("mismatch"), "{said}");
}

#[test]
fn nslookup_walks_the_search_list() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let _gateway = gateway(&rig);
    let said = rig.output("jump", &["nslookup", "ent.prod"]);
    assert!(said.contains("ent.prod.svc.cluster.local") && said.contains(ENT_PROD), "{said}");
    let said = rig.output("jump", &["nslookup", ENT_PROD]);
    assert!(said.contains("name = ent.prod.svc.cluster.local."), "{said}");
    let said = rig.run("jump", &["nslookup", "nobody.dev.svc.cluster.local."]);
    assert!(said.output.contains("NXDOMAIN"), "{}", said.output);
}

#[test]
fn glibc_finds_services_of_both_families_by_the_search_list() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let _gateway = gateway(&rig);
    let said = rig.output("jump", &["getent", "ahosts", "both"]);
    assert!(BOTH.iter().all(|address| said.contains(address)), "{said}");
    assert_eq!(rig.run("jump", &["getent", "hosts", "nobody"]).status, 2);
    for (name, answers) in [("http://ent:8080/", "dev-"), ("http://ent.prod:8080/", "prod-")] {
        let seen = rig.curl(name);
        assert!(seen.output.starts_with(answers), "{name}: {}{}", seen.output, seen.errors);
    }
}

/// Compiles a program with musl, as Alpine's are; `None`, with the reason, where its compiler is missing.
fn musl_resolver(rig: &Rig) -> Option<PathBuf> {
    const SOURCE: &str = r#"
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
int main(int count, char **words) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
    int error = getaddrinfo(words[count - 1], 0, &hints, &found);
    if (error) { puts(gai_strerror(error)); return 1; }
    for (; found; found = found->ai_next) {
        char text[64];
        void *address = found->ai_family == AF_INET6
            ? (void *)&((struct sockaddr_in6 *)found->ai_addr)->sin6_addr
            : (void *)&((struct sockaddr_in *)found->ai_addr)->sin_addr;
        puts(inet_ntop(found->ai_family, address, text, sizeof text));
    }
    return 0;
}
"#;
    let (source, program) = (rig.scratch().join("resolve.c"), rig.scratch().join("resolve"));
    fs::write(&source, SOURCE).unwrap();
    match Command::new("musl-gcc").arg("-static").arg("-o").arg(&program).arg(&source).status() {
        Ok(status) if status.success() => Some(program),
        Ok(status) => panic!("musl-gcc: {status}"),
        Err(error) => {
            println!("skipped: musl-gcc: {error}");
            None
        }
    }
}

#[test]
fn musl_finds_services_of_both_families_by_the_search_list() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let Some(program) = musl_resolver(&rig) else { return };
    let _gateway = gateway(&rig);
    let program = program.to_str().unwrap();
    let resolve = |name: &str| {
        let seen = rig.run("jump", &[program, name]);
        let mut lines: Vec<String> = seen.output.lines().map(str::to_owned).collect();
        lines.sort();
        (seen.status, lines)
    };
    assert_eq!(resolve("ent"), (0, vec![ENT_DEV.to_owned()]));
    assert_eq!(resolve("ent.prod"), (0, vec![ENT_PROD.to_owned()]));
    assert_eq!(resolve("both"), (0, BOTH.map(str::to_owned).to_vec()));
    assert_eq!(resolve("crew.dev.svc.cluster.local").1, ["10.244.0.11", "10.244.0.12"]);
    // musl gives up at SERVFAIL or REFUSED, and goes on at NXDOMAIN.
    let (status, said) = resolve("nobody.dev.svc.cluster.local.");
    assert_eq!(status, 1);
    assert!(said.iter().any(|line| line.contains("not resolve") || line.contains("not exist")), "{said:?}");
}

#[test]
fn explain_says_what_the_gateway_answers() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let _gateway = gateway(&rig);
    let source = format!("manifests:{}", rig.manifests.directory().display());
    let explain = |arguments: &[&str]| {
        let output = Command::new(rig::gateway::BINARY)
            .args(["dns", "explain", "--source", &source, "--dns-listen", DNS])
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (status, text, _) = explain(&["ent.dev.svc.cluster.local"]);
    assert_eq!(status, Some(0));
    assert!(text.contains(&format!("answer: ent.dev.svc.cluster.local. 30 IN A {ENT_DEV}")), "{text}");
    assert!(text.contains("because: Service dev/ent by its ClusterIPs (S2, S3)"), "{text}");
    assert_eq!(short(&rig, DNS, &["ent.dev.svc.cluster.local"]), [ENT_DEV]);
    let (_, text, _) = explain(&["--namespace", "prod", "ent", "A"]);
    assert!(text.contains(ENT_PROD), "{text}");
    let (_, text, _) = explain(&["nobody.dev.svc.cluster.local."]);
    assert!(text.contains("NXDOMAIN\n  because: the namespace has no such Service"), "{text}");
    let (status, _, errors) = explain(&["ent", "NONSENSE"]);
    assert_eq!(status, Some(2));
    assert!(errors.contains("TYPE `NONSENSE`: is no type"), "{errors}");
}

#[test]
fn questions_are_logged_counted_and_the_names_age_shown() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let mut gateway = Gateway::start_with(&rig, &["--dns-log-queries"]);
    assert_eq!(short(&rig, DNS, &["ent.dev.svc.cluster.local"]), [ENT_DEV]);
    let line = gateway.await_line("the question", |line| line.contains("A ent.dev.svc.cluster.local. "));
    assert!(line.contains("10.1.0.2:") && line.contains(" udp ") && line.contains("No Error"), "{line}");
    let (_, metrics) = gateway.page("/metrics");
    for line in [
        "coredns_dns_requests_total{server=\"dns://:53\",zone=\".\",view=\"\",proto=\"udp\",family=\"1\",type=\"A\"} 1",
        "coredns_dns_responses_total{server=\"dns://:53\",zone=\".\",view=\"\",rcode=\"NOERROR\",plugin=\"kubernetes\"} 1",
        "coredns_dns_request_duration_seconds_count{server=\"dns://:53\",zone=\".\",view=\"\"} 1",
        "coredns_kubernetes_dns_programming_duration_seconds_count{service_kind=\"any\"} 1",
        "tidegate_dns_synced 1",
        "tidegate_dns_age_seconds 0",
    ] {
        assert!(metrics.lines().any(|own| own == line), "no {line} in {metrics}");
    }
}

/// Rounds of the soak: each makes and removes four Services.
fn rounds() -> usize {
    if std::env::var_os("TIDEGATE_LONG").is_some() { 250 } else { 10 }
}

#[test]
fn no_connect_fails_within_the_linger_of_its_answer_and_later_ones_are_refused_and_never_hang() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = gateway(&rig);
    let (stop, name) = (rig.scratch().join("stop"), "soak-3.dev.svc.cluster.local");
    let mut client = rig
        .command("jump", &["python3", rig::PEER, "soak", DNS, "dev.svc.cluster.local", "8080", "1.0"])
        .arg(&stop)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let soak = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for round in 0..rounds() {
            for number in 0..4 {
                // Addresses come again in another order, so that one passes from Service to Service.
                let address = format!("10.96.3.{}", (number + round) % 5 + 1);
                let service = service("dev", &format!("soak-{number}"), &address, "enterprise");
                rig.manifests.write(&format!("soak-{number}.yaml"), &service);
            }
            eventually("the last name comes", PATIENCE, || {
                (!short(&rig, DNS, &[name]).is_empty()).then_some(())
            });
            (0..4).for_each(|number| rig.manifests.remove(&format!("soak-{number}.yaml")));
            eventually("the last name goes", PATIENCE, || short(&rig, DNS, &[name]).is_empty().then_some(()));
        }
    }));
    fs::write(&stop, "").unwrap();
    let (mut said, mut errors) = (String::new(), String::new());
    client.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    client.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(client.wait().unwrap().success(), "{errors}");
    soak.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let figures: Vec<usize> = said.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
    let [answers, failures, unanswered, hung] = figures[..] else { panic!("{said}") };
    assert!(answers >= 4 * rounds(), "{said}");
    assert_eq!((failures, unanswered, hung), (0, 0, 0), "{said}{errors}");
    gateway.assert_accounts_balance();
}
