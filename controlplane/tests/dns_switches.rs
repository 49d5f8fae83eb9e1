//! What can be switched: TTLs, pods' names, namespaces, AAAA, endpoints' names; and what `explain` says.

mod dns_cluster;

use std::sync::Arc;

use dns_cluster::{
    additionals, ask, cluster_ip, events, object, say, service, settings, slice, zone, zone_of,
};
use tidegate::cluster::{Event, Pod, ServiceKind};
use tidegate::dns::{Name, Outcome, PodNames, Reason, Record, Type, ZoneSettings, explain};

fn pod(name: &str, addresses: &[&str]) -> Event {
    let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    Event::PodApplied(Arc::new(Pod { name: object(name), addresses }))
}

#[test]
fn ttl_and_negative_ttl_are_set_apart_and_the_soa_is_kept_300_s_at_most() {
    let with = |ttl, negative_ttl| zone_of(ZoneSettings { ttl, negative_ttl, ..settings() }, events());
    let zone = with(5, 3);
    let Outcome::Answer { records, .. } = ask(&zone, "ent.dev.svc.cluster.local", Type::A).outcome else {
        panic!("an answer")
    };
    assert_eq!(records[0].ttl, 5);
    let soa = say(&zone, "cluster.local", Type::SOA);
    assert!(soa.ends_with(" 3 for 3 s"), "{soa}");
    let soa = say(&with(3600, 3600), "cluster.local", Type::SOA);
    assert!(soa.ends_with(" 3600 for 300 s"), "{soa}");
    let Outcome::NxDomain(Record { ttl, .. }) = ask(&with(0, 0), "no.dev.svc.cluster.local", Type::A).outcome
    else {
        panic!("NXDOMAIN")
    };
    assert_eq!(ttl, 0);
    assert_eq!(say(&zone, "dns-version.cluster.local", Type::TXT), "TXT 1.1.0 for 28800 s");
}

#[test]
fn verified_pod_names_are_those_of_pods_that_are_there() {
    let settings = || ZoneSettings { pods: PodNames::Verified, ..settings() };
    let pods = [pod("dev/a", &["10.1.0.5", "fd00:1::5"]), pod("prod/b", &["10.1.0.6"])];
    let zone = zone_of(settings(), events().into_iter().chain(pods.clone()).collect());
    let rows = [
        ("10-1-0-5.dev.pod", Type::A, "A 10.1.0.5"),
        ("10-1-0-5.dev.pod", Type::AAAA, "NODATA"),
        ("10-1-0-5.dev.pod", Type::SRV, "NODATA"),
        // CoreDNS knows one address per Pod.
        ("fd00-1--5.dev.pod", Type::AAAA, "AAAA fd00:1::5"),
        ("10-1-0-5.prod.pod", Type::A, "NXDOMAIN"),
        ("10-1-0-6.prod.pod", Type::A, "A 10.1.0.6"),
        ("10-1-0-7.dev.pod", Type::A, "NXDOMAIN"),
        ("dev.pod", Type::A, "NODATA"),
        ("pod", Type::A, "NODATA"),
        ("nowhere.pod", Type::A, "NXDOMAIN"),
    ];
    for (name, qtype, expected) in rows {
        assert_eq!(say(&zone, &format!("{name}.cluster.local"), qtype), expected, "{name} {qtype}");
    }
    assert_eq!(
        ask(&zone, "10-1-0-5.dev.pod.cluster.local", Type::A).reason,
        Reason::VerifiedPod(object("dev/a"))
    );
    let history = events().into_iter().chain(pods).chain([
        // A host's address is of several Pods; it stays as long as one of them.
        pod("dev/c", &["10.1.0.5"]),
        Event::PodDeleted(object("dev/a")),
        pod("prod/b", &["10.1.0.8"]),
    ]);
    let zone = zone_of(settings(), history.collect());
    assert_eq!(say(&zone, "10-1-0-5.dev.pod.cluster.local", Type::A), "A 10.1.0.5");
    assert_eq!(say(&zone, "fd00-1--5.dev.pod.cluster.local", Type::AAAA), "NXDOMAIN");
    assert_eq!(say(&zone, "10-1-0-6.prod.pod.cluster.local", Type::A), "NXDOMAIN");
    assert_eq!(say(&zone, "10-1-0-8.prod.pod.cluster.local", Type::A), "A 10.1.0.8");
}

#[test]
fn with_pod_names_disabled_there_are_none() {
    let zone = zone_of(ZoneSettings { pods: PodNames::Disabled, ..settings() }, events());
    for name in ["1-2-3-4.dev.pod", "dev.pod", "pod"] {
        assert_eq!(say(&zone, &format!("{name}.cluster.local"), Type::A), "NXDOMAIN", "{name}");
    }
}

#[test]
fn names_of_other_namespaces_than_those_named_do_not_exist() {
    let only = ZoneSettings { namespaces: ["prod".to_owned()].into(), ..settings() };
    let zone = zone_of(only, events());
    let rows = [
        ("ent.prod.svc.cluster.local", Type::A, "A 10.96.0.12"),
        ("prod.svc.cluster.local", Type::A, "NODATA"),
        ("ent.dev.svc.cluster.local", Type::A, "NXDOMAIN"),
        ("dev.svc.cluster.local", Type::A, "NXDOMAIN"),
        ("1-2-3-4.dev.pod.cluster.local", Type::A, "NXDOMAIN"),
        ("1-2-3-4.prod.pod.cluster.local", Type::A, "A 1.2.3.4"),
        ("12.0.96.10.in-addr.arpa", Type::PTR, "PTR ent.prod.svc.cluster.local."),
        ("11.0.96.10.in-addr.arpa", Type::PTR, "NXDOMAIN"),
        ("21.0.1.10.in-addr.arpa", Type::PTR, "FORWARD"),
        // The DNS Service is the name server wherever it lives.
        ("cluster.local", Type::NS, "NS kube-dns.kube-system.svc.cluster.local."),
    ];
    for (name, qtype, expected) in rows {
        assert_eq!(say(&zone, name, qtype), expected, "{name} {qtype}");
    }
    assert_eq!(
        additionals(&zone, "cluster.local", Type::NS),
        "kube-dns.kube-system.svc.cluster.local. A 10.96.0.10"
    );
    assert_eq!(ask(&zone, "ent.dev.svc.cluster.local", Type::A).reason, Reason::HiddenNamespace);
}

#[test]
fn aaaa_nodata_leaves_no_ipv6_address_in_any_section() {
    let zone = zone_of(ZoneSettings { aaaa_nodata: true, ..settings() }, events());
    let rows = [
        ("ent.dev.svc.cluster.local", Type::AAAA, "NODATA"),
        ("ent.dev.svc.cluster.local", Type::A, "A 10.96.0.11"),
        ("web-0.web.dev.svc.cluster.local", Type::AAAA, "NODATA"),
        ("nobody.dev.svc.cluster.local", Type::AAAA, "NXDOMAIN"),
        ("fd00-1--5.dev.pod.cluster.local", Type::AAAA, "NODATA"),
    ];
    for (name, qtype, expected) in rows {
        assert_eq!(say(&zone, name, qtype), expected, "{name} {qtype}");
    }
    assert_eq!(
        additionals(&zone, "_http._tcp.ent.dev.svc.cluster.local", Type::SRV),
        "ent.dev.svc.cluster.local. A 10.96.0.11"
    );
}

#[test]
fn services_without_a_ready_endpoint_can_be_left_out() {
    let events = || {
        vec![
            cluster_ip("dev/full", &["10.96.0.21"], &["http/80/TCP"]),
            slice("dev/full-1", "dev/full", &["10.1.0.1"], &["http/80/TCP"]),
            cluster_ip("dev/empty", &["10.96.0.22"], &["http/80/TCP"]),
            slice("dev/empty-1", "dev/empty", &["!10.1.0.2"], &["http/80/TCP"]),
            service("dev/alias", ServiceKind::ExternalName("full.dev.svc.cluster.local".into()), &[]),
        ]
    };
    let name = |service: &str| format!("{service}.dev.svc.cluster.local");
    let as_ever = zone_of(settings(), events());
    assert_eq!(say(&as_ever, &name("empty"), Type::A), "A 10.96.0.22");
    let zone = zone_of(ZoneSettings { hide_empty: true, ..settings() }, events());
    assert_eq!(say(&zone, &name("full"), Type::A), "A 10.96.0.21");
    assert_eq!(say(&zone, &name("empty"), Type::A), "NXDOMAIN");
    assert_eq!(say(&zone, &format!("_http._tcp.{}", name("empty")), Type::SRV), "NXDOMAIN");
    assert_eq!(say(&zone, "22.0.96.10.in-addr.arpa", Type::PTR), "NXDOMAIN");
    assert_eq!(say(&zone, &name("alias"), Type::A), "A 10.96.0.21, CNAME full.dev.svc.cluster.local.");
}

#[test]
fn reverse_zones_of_ipv6_are_ours_within_the_service_cidrs_only() {
    let zone = zone();
    let nibbles = |text: &str, kept: usize| {
        let octets = text.parse::<std::net::Ipv6Addr>().expect("an address").octets();
        let all: Vec<String> =
            octets.iter().flat_map(|o| [o >> 4, o & 15]).map(|n| format!("{n:x}")).collect();
        let reversed: Vec<String> = all.into_iter().take(kept).rev().collect();
        format!("{}.ip6.arpa", reversed.join("."))
    };
    let rows = [
        (nibbles("fd00:96::11", 32), Type::PTR, "PTR ent.dev.svc.cluster.local."),
        (nibbles("fd00:96::11", 32), Type::AAAA, "NODATA"),
        (nibbles("fd00:96::12", 32), Type::PTR, "NXDOMAIN"),
        (nibbles("fd00:96::", 30), Type::PTR, "NODATA"),
        (nibbles("fd00:96::", 28), Type::NS, "NS kube-dns.kube-system.svc.cluster.local."),
        (nibbles("fd00:96::", 27), Type::NS, "FORWARD"),
        (nibbles("fd00:97::12", 32), Type::PTR, "FORWARD"),
        (nibbles("fd00:1::21", 32), Type::PTR, "PTR web-0.web.dev.svc.cluster.local."),
        (format!("x.{}", nibbles("fd00:96::11", 32)), Type::PTR, "NXDOMAIN"),
        (format!("gg.{}", nibbles("fd00:96::", 31)), Type::PTR, "NXDOMAIN"),
    ];
    for (name, qtype, expected) in rows {
        assert_eq!(say(&zone, &name, qtype), expected, "{name} {qtype}");
    }
}

fn explained(name: &str, qtype: Type) -> String {
    explain(&zone(), &Name::parse(name).expect("a name"), qtype)
}

#[test]
fn explain_names_the_object_and_the_rule_of_an_answer() {
    assert_eq!(
        explained("ent.dev.svc.cluster.local", Type::A),
        "ent.dev.svc.cluster.local. A: NOERROR, 1 record\n  \
         answer: ent.dev.svc.cluster.local. 30 IN A 10.96.0.11\n  \
         because: Service dev/ent by its ClusterIPs (S2, S3)\n"
    );
    let rows = [
        ("web.dev.svc.cluster.local", Type::A, "headless Service dev/web by its ready endpoints (S7)"),
        ("web-0.web.dev.svc.cluster.local", Type::A, "an endpoint of Service dev/web (S8)"),
        ("_http._tcp.ent.dev.svc.cluster.local", Type::SRV, "ports of Service dev/ent (S4, S9)"),
        ("outside.dev.svc.cluster.local", Type::A, "Service dev/outside is an ExternalName (S11)"),
        ("11.0.96.10.in-addr.arpa", Type::PTR, "ClusterIP of Service dev/ent (S5, S6)"),
        ("21.0.1.10.in-addr.arpa", Type::PTR, "address of an endpoint of Service dev/web (S10)"),
        ("dns-version.cluster.local", Type::TXT, "it tells the version of the specification (S1)"),
        (
            "1-2-3-4.dev.pod.cluster.local",
            Type::A,
            "the name spells an address; pod names are not verified (S13)",
        ),
    ];
    for (name, qtype, because) in rows {
        let text = explained(name, qtype);
        assert!(text.ends_with(&format!("  because: {because}\n")), "{text}");
    }
}

#[test]
fn explain_says_why_there_is_nothing() {
    let rows = [
        ("nobody.dev.svc.cluster.local", "NXDOMAIN", "the namespace has no such Service"),
        ("ent.nowhere.svc.cluster.local", "NXDOMAIN", "the namespace does not exist"),
        ("silent.dev.svc.cluster.local", "NXDOMAIN", "Service dev/silent has no ready endpoint (S7)"),
        ("x.ent.dev.svc.cluster.local", "NXDOMAIN", "Service dev/ent has no such port or endpoint"),
        (
            "address.dev.svc.cluster.local",
            "NXDOMAIN",
            "has an externalName that is an address or no name (S11)",
        ),
        ("99.0.96.10.in-addr.arpa", "NXDOMAIN", "no Service has this address of a --service-cidr"),
        ("dev.svc.cluster.local", "NODATA", "nothing has this name, but names exist below it"),
        ("tick.dev.svc.cluster.local", "NODATA", "or is a circle (S11)"),
    ];
    for (name, code, because) in rows {
        let text = explained(name, Type::A);
        assert!(text.lines().next().is_some_and(|line| line.contains(code)), "{text}");
        assert!(text.ends_with(&format!("{because}\n")), "{text}");
    }
}
