//! Which names exist and what they say: the rules of the Kubernetes DNS specification and CoreDNS' table.

mod dns_cluster;

use dns_cluster::{
    additionals, ask, cluster_ip, events, object, say, service, settings, slice, zone, zone_of,
};
use tidegate::cluster::{Cluster, Dirty, ServiceKind};
use tidegate::dns::{Name, Outcome, Owner, PodNames, Reason, Record, Type, Zone, ZoneSettings};

const MX: Type = Type(15);
const ANY: Type = Type(255);

fn soa_owner(zone: &Zone, name: &str, qtype: Type) -> String {
    match ask(zone, name, qtype).outcome {
        Outcome::NoData(Record { owner: Owner::Name(owner), .. })
        | Outcome::NxDomain(Record { owner: Owner::Name(owner), .. })
        | Outcome::Unsynced(Record { owner: Owner::Name(owner), .. }) => owner.to_string(),
        other => panic!("{name}: no SOA in {other:?}"),
    }
}

#[test]
fn s0_names_are_compared_without_case() {
    assert_eq!(say(&zone(), "ENT.Dev.sVc.CLUSTER.local", Type::A), "A 10.96.0.11");
    assert_eq!(
        say(&zone(), "_HTTP._Tcp.ent.dev.svc.cluster.local", Type::SRV),
        "SRV 0 50 8080 ent.dev.svc.cluster.local."
    );
    assert_eq!(say(&zone(), "11.0.96.10.IN-ADDR.Arpa", Type::PTR), "PTR ent.dev.svc.cluster.local.");
}

#[test]
fn s1_dns_version_tells_the_schema() {
    assert_eq!(say(&zone(), "dns-version.cluster.local", Type::TXT), "TXT 1.1.0 for 28800 s");
    assert_eq!(say(&zone(), "dns-version.cluster.local", Type::A), "NODATA");
    assert_eq!(say(&zone(), "x.dns-version.cluster.local", Type::TXT), "NXDOMAIN");
}

#[test]
fn s2_a_service_has_the_a_record_of_its_cluster_ip() {
    assert_eq!(say(&zone(), "ent.dev.svc.cluster.local", Type::A), "A 10.96.0.11");
    assert_eq!(say(&zone(), "ent.prod.svc.cluster.local", Type::A), "A 10.96.0.12");
    let Outcome::Answer { records, .. } = ask(&zone(), "ent.dev.svc.cluster.local", Type::A).outcome else {
        panic!("an answer")
    };
    assert_eq!((records[0].ttl, &records[0].owner), (30, &Owner::Question));
}

#[test]
fn s3_a_service_has_the_aaaa_record_of_its_cluster_ip() {
    assert_eq!(say(&zone(), "ent.dev.svc.cluster.local", Type::AAAA), "AAAA fd00:96::11");
    assert_eq!(say(&zone(), "ent.prod.svc.cluster.local", Type::AAAA), "NODATA");
}

#[test]
fn s4_each_named_port_has_an_srv_record() {
    let zone = zone();
    for name in ["_http._tcp.ent.dev.svc.cluster.local", "http.tcp.ent.dev.svc.cluster.local"] {
        assert_eq!(say(&zone, name, Type::SRV), "SRV 0 50 8080 ent.dev.svc.cluster.local.", "{name}");
        assert_eq!(
            additionals(&zone, name, Type::SRV),
            "ent.dev.svc.cluster.local. A 10.96.0.11, ent.dev.svc.cluster.local. AAAA fd00:96::11"
        );
    }
    assert_eq!(
        say(&zone, "_stats._udp.ent.dev.svc.cluster.local", Type::SRV),
        "SRV 0 50 8125 ent.dev.svc.cluster.local."
    );
    assert_eq!(say(&zone, "_stats._tcp.ent.dev.svc.cluster.local", Type::SRV), "NXDOMAIN");
    assert_eq!(say(&zone, "_8080._tcp.ent.prod.svc.cluster.local", Type::SRV), "NXDOMAIN");
}

#[test]
fn an_srv_name_answers_addresses_too() {
    assert_eq!(say(&zone(), "_http._tcp.ent.dev.svc.cluster.local", Type::A), "A 10.96.0.11");
    assert_eq!(say(&zone(), "_nope._tcp.ent.dev.svc.cluster.local", Type::A), "NXDOMAIN");
    assert_eq!(say(&zone(), "_http._tcp.ent.dev.svc.cluster.local", Type::TXT), "NODATA");
    assert_eq!(
        say(&zone(), "_metrics._tcp.web.dev.svc.cluster.local", Type::A),
        "A 10.1.0.21, A 10.1.0.22, A 10.1.0.23"
    );
    assert_eq!(say(&zone(), "_metrics._tcp.web.dev.svc.cluster.local", Type::AAAA), "NODATA");
}

#[test]
fn the_bare_service_has_an_srv_record_per_port_named_or_not() {
    let zone = zone();
    let both = "SRV 0 25 8080 ent.dev.svc.cluster.local., SRV 0 25 8125 ent.dev.svc.cluster.local.";
    assert_eq!(say(&zone, "ent.dev.svc.cluster.local", Type::SRV), both);
    let unnamed = "SRV 0 100 8080 ent.prod.svc.cluster.local.";
    assert_eq!(say(&zone, "ent.prod.svc.cluster.local", Type::SRV), unnamed);
    assert_eq!(say(&zone, "_._tcp.ent.prod.svc.cluster.local", Type::SRV), unnamed);
}

#[test]
fn s5_a_cluster_ip_has_a_ptr_record() {
    assert_eq!(say(&zone(), "11.0.96.10.in-addr.arpa", Type::PTR), "PTR ent.dev.svc.cluster.local.");
    assert_eq!(say(&zone(), "11.0.96.10.in-addr.arpa", Type::A), "NODATA");
}

#[test]
fn s6_a_cluster_ip_of_ipv6_has_a_ptr_record() {
    let nibbles = "1.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(say(&zone(), nibbles, Type::PTR), "PTR ent.dev.svc.cluster.local.");
}

#[test]
fn s7_a_headless_service_has_the_addresses_of_its_ready_endpoints() {
    let name = "web.dev.svc.cluster.local";
    assert_eq!(say(&zone(), name, Type::A), "A 10.1.0.21, A 10.1.0.22, A 10.1.0.23");
    assert_eq!(say(&zone(), name, Type::AAAA), "AAAA fd00:1::, AAAA fd00:1::21");
    assert_eq!(ask(&zone(), name, Type::A).reason, Reason::Endpoints(object("dev/web")));
}

#[test]
fn s7_a_headless_service_without_ready_endpoints_is_nxdomain() {
    for service in ["silent", "sliceless"] {
        for qtype in [Type::A, Type::AAAA, Type::SRV, Type::TXT] {
            let name = format!("{service}.dev.svc.cluster.local");
            assert_eq!(say(&zone(), &name, qtype), "NXDOMAIN", "{name} {qtype:?}");
            assert_eq!(say(&zone(), &format!("_http._tcp.{name}"), qtype), "NXDOMAIN");
        }
    }
    let verdict = ask(&zone(), "silent.dev.svc.cluster.local", Type::A);
    assert_eq!(verdict.reason, Reason::NoReadyEndpoint(object("dev/silent")));
    assert_eq!(verdict.reason.rule(), Some("S7"));
}

#[test]
fn s8_an_endpoint_is_named_by_its_hostname_or_dashed_address() {
    let zone = zone();
    let rows = [
        ("web-0.web.dev", Type::A, "A 10.1.0.21"),
        ("web-0.web.dev", Type::AAAA, "AAAA fd00:1::21"),
        ("web-1.web.dev", Type::AAAA, "NODATA"),
        ("10-1-0-23.web.dev", Type::A, "A 10.1.0.23"),
        ("10-1-0-21.web.dev", Type::A, "NXDOMAIN"),
        ("fd00-1--0.web.dev", Type::AAAA, "AAAA fd00:1::"),
        ("web-2.web.dev", Type::A, "NXDOMAIN"),
        ("x.web-0.web.dev", Type::A, "NXDOMAIN"),
        ("10-1-0-5.ent.dev", Type::A, "A 10.1.0.5"),
        ("10-1-0-6.ent.dev", Type::A, "NXDOMAIN"),
        ("spare.ent.dev", Type::A, "A 10.1.0.7"),
        ("spare.ent.dev", Type::SRV, "SRV 0 100 80 spare.ent.dev.svc.cluster.local."),
    ];
    for (name, qtype, expected) in rows {
        assert_eq!(say(&zone, &format!("{name}.svc.cluster.local"), qtype), expected, "{name} {qtype:?}");
    }
}

#[test]
fn s8_endpoints_that_share_a_hostname_answer_together() {
    let zone = zone_of(
        settings(),
        vec![
            service("dev/web", ServiceKind::Headless, &["http/80/TCP"]),
            slice("dev/a", "dev/web", &["10.1.0.1=same", "10.1.0.2=same"], &["http/80/TCP"]),
        ],
    );
    assert_eq!(say(&zone, "same.web.dev.svc.cluster.local", Type::A), "A 10.1.0.1, A 10.1.0.2");
    assert_eq!(
        say(&zone, "_http._tcp.web.dev.svc.cluster.local", Type::SRV),
        "SRV 0 50 80 same.web.dev.svc.cluster.local."
    );
}

#[test]
fn s9_a_headless_service_has_srv_records_of_ready_endpoints_times_ports() {
    let zone = zone();
    assert_eq!(
        say(&zone, "_http._tcp.web.dev.svc.cluster.local", Type::SRV),
        "SRV 0 20 80 10-1-0-23.web.dev.svc.cluster.local., SRV 0 20 80 fd00-1--0.web.dev.svc.cluster.local., \
         SRV 0 20 80 web-0.web.dev.svc.cluster.local., SRV 0 20 80 web-1.web.dev.svc.cluster.local."
    );
    assert_eq!(
        additionals(&zone, "_metrics._tcp.web.dev.svc.cluster.local", Type::SRV),
        "10-1-0-23.web.dev.svc.cluster.local. A 10.1.0.23, web-0.web.dev.svc.cluster.local. A 10.1.0.21, \
         web-1.web.dev.svc.cluster.local. A 10.1.0.22"
    );
    // 3 IPv4 endpoints with 2 ports each and 2 IPv6 endpoints with 1: 8 places, of which web-0:80 is there
    // twice.
    let bare = say(&zone, "web.dev.svc.cluster.local", Type::SRV);
    assert_eq!(bare.matches("SRV 0 12 ").count(), 7, "{bare}");
}

#[test]
fn a_headless_service_without_ports_has_addresses_but_no_srv() {
    let zone = zone();
    assert_eq!(say(&zone, "portless.dev.svc.cluster.local", Type::A), "A 10.1.0.31");
    assert_eq!(say(&zone, "portless.dev.svc.cluster.local", Type::SRV), "NODATA");
    assert_eq!(say(&zone, "only.portless.dev.svc.cluster.local", Type::SRV), "NODATA");
    assert_eq!(say(&zone, "_http._tcp.portless.dev.svc.cluster.local", Type::SRV), "NXDOMAIN");
}

#[test]
fn s10_a_ready_endpoint_has_a_ptr_record() {
    let zone = zone();
    assert_eq!(say(&zone, "21.0.1.10.in-addr.arpa", Type::PTR), "PTR web-0.web.dev.svc.cluster.local.");
    assert_eq!(say(&zone, "23.0.1.10.in-addr.arpa", Type::PTR), "PTR 10-1-0-23.web.dev.svc.cluster.local.");
    assert_eq!(say(&zone, "24.0.1.10.in-addr.arpa", Type::PTR), "FORWARD");
    let nibbles = "1.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(say(&zone, nibbles, Type::PTR), "PTR web-0.web.dev.svc.cluster.local.");
}

#[test]
fn an_address_of_several_endpoints_has_a_ptr_record_of_each_but_a_cluster_ip_comes_alone() {
    let zone = zone_of(
        settings(),
        vec![
            cluster_ip("dev/one", &["10.96.0.1"], &["http/80/TCP"]),
            service("dev/a", ServiceKind::Headless, &[]),
            service("dev/b", ServiceKind::Headless, &[]),
            slice("dev/a-1", "dev/a", &["10.1.0.1=x", "10.96.0.1"], &[]),
            slice("dev/a-2", "dev/a", &["10.1.0.1=x"], &[]),
            slice("dev/b-1", "dev/b", &["10.1.0.1"], &[]),
        ],
    );
    assert_eq!(
        say(&zone, "1.0.1.10.in-addr.arpa", Type::PTR),
        "PTR 10-1-0-1.b.dev.svc.cluster.local., PTR x.a.dev.svc.cluster.local."
    );
    assert_eq!(say(&zone, "1.0.96.10.in-addr.arpa", Type::PTR), "PTR one.dev.svc.cluster.local.");
}

#[test]
fn s11_an_external_name_is_an_alias() {
    let zone = zone();
    let rows = [
        ("outside", Type::A, "CNAME www.example.org., then www.example.org."),
        ("outside", Type::AAAA, "CNAME www.example.org., then www.example.org."),
        ("outside", Type::CNAME, "CNAME www.example.org."),
        ("outside", Type::SRV, "NODATA"),
        ("outside", Type::TXT, "NODATA"),
        ("outside", MX, "NODATA"),
        ("x.outside", Type::A, "NXDOMAIN"),
        ("_http._tcp.outside", Type::SRV, "NXDOMAIN"),
        ("inside", Type::A, "A 10.96.0.12, CNAME ent.prod.svc.cluster.local."),
        ("inside", Type::AAAA, "NODATA"),
        (
            "twice",
            Type::A,
            "A 10.96.0.12, CNAME ent.prod.svc.cluster.local., CNAME inside.dev.svc.cluster.local.",
        ),
        (
            "far",
            Type::A,
            "CNAME outside.dev.svc.cluster.local., CNAME www.example.org., then www.example.org.",
        ),
        ("self", Type::A, "NODATA"),
        ("tick", Type::A, "NODATA"),
        ("dangling", Type::A, "NODATA"),
        ("address", Type::A, "NXDOMAIN"),
    ];
    for (name, qtype, expected) in rows {
        assert_eq!(say(&zone, &format!("{name}.dev.svc.cluster.local"), qtype), expected, "{name} {qtype:?}");
    }
}

#[test]
fn s11_each_alias_is_owned_by_the_name_before_it() {
    let Outcome::Answer { records, .. } = ask(&zone(), "twice.dev.svc.cluster.local", Type::A).outcome else {
        panic!("an answer")
    };
    let owner = |name| Owner::Name(Name::parse(name).expect("a name"));
    let owners: Vec<Owner> = records.into_iter().map(|record| record.owner).collect();
    let expected =
        [Owner::Question, owner("inside.dev.svc.cluster.local"), owner("ent.prod.svc.cluster.local")];
    assert_eq!(owners, expected);
}

#[test]
fn s12_readiness_alone_decides_about_an_endpoint() {
    let endpoints = |ready| {
        zone_of(
            settings(),
            vec![
                service("dev/web", ServiceKind::Headless, &["http/80/TCP"]),
                slice("dev/web-1", "dev/web", &[ready, "10.1.0.2=b"], &["http/80/TCP"]),
            ],
        )
    };
    assert_eq!(say(&endpoints("10.1.0.1=a"), "web.dev.svc.cluster.local", Type::A), "A 10.1.0.1, A 10.1.0.2");
    assert_eq!(say(&endpoints("!10.1.0.1=a"), "web.dev.svc.cluster.local", Type::A), "A 10.1.0.2");
}

#[test]
fn s13_pod_names_spell_their_address() {
    let zone = zone();
    let rows = [
        ("1-2-3-4.dev.pod", Type::A, "A 1.2.3.4"),
        ("1-2-3-4.dev.pod", Type::AAAA, "NODATA"),
        ("1-2-3-4.dev.pod", Type::SRV, "NODATA"),
        ("fd00-1--21.dev.pod", Type::AAAA, "AAAA fd00:1::21"),
        ("--1.dev.pod", Type::AAAA, "AAAA ::1"),
        ("x.1-2-3-4.dev.pod", Type::A, "A 1.2.3.4"),
        ("a.b.c.1-2-3-4.dev.pod", Type::A, "NXDOMAIN"),
        ("1-2-3-256.dev.pod", Type::A, "NXDOMAIN"),
        ("ent.dev.pod", Type::A, "NXDOMAIN"),
        ("1-2-3-4.nowhere.pod", Type::A, "NXDOMAIN"),
        ("dev.pod", Type::A, "NODATA"),
        ("nowhere.pod", Type::A, "NXDOMAIN"),
        ("pod", Type::A, "NODATA"),
    ];
    for (name, qtype, expected) in rows {
        assert_eq!(say(&zone, &format!("{name}.cluster.local"), qtype), expected, "{name} {qtype:?}");
    }
    let disabled = zone_of(ZoneSettings { pods: PodNames::Disabled, ..settings() }, events());
    assert_eq!(say(&disabled, "1-2-3-4.dev.pod.cluster.local", Type::A), "NXDOMAIN");
}

#[test]
fn s13_the_apex_has_soa_and_ns() {
    let zone = zone();
    let soa = "SOA ns.dns.cluster.local. hostmaster.cluster.local. 1001 30 for 30 s";
    assert_eq!(say(&zone, "cluster.local", Type::SOA), soa);
    assert_eq!(say(&zone, "cluster.local", Type::NS), "NS kube-dns.kube-system.svc.cluster.local.");
    assert_eq!(
        additionals(&zone, "cluster.local", Type::NS),
        "kube-dns.kube-system.svc.cluster.local. A 10.96.0.10"
    );
    let alone = zone_of(settings(), vec![]);
    assert_eq!(say(&alone, "cluster.local", Type::NS), "NS ns.dns.cluster.local.");
    assert_eq!(additionals(&alone, "cluster.local", Type::NS), "ns.dns.cluster.local. A 10.96.0.10");
    assert_eq!(say(&alone, "ns.dns.cluster.local", Type::A), "A 10.96.0.10");
}

#[test]
fn nodata_and_nxdomain_are_told_apart_at_every_node() {
    let zone = zone();
    let rows = [
        ("cluster.local", "NODATA"),
        ("svc.cluster.local", "NODATA"),
        ("dev.svc.cluster.local", "NODATA"),
        ("empty.svc.cluster.local", "NODATA"),
        // Not declared, but a Service is in it.
        ("kube-system.svc.cluster.local", "NODATA"),
        ("nowhere.svc.cluster.local", "NXDOMAIN"),
        ("ent.nowhere.svc.cluster.local", "NXDOMAIN"),
        ("nobody.dev.svc.cluster.local", "NXDOMAIN"),
        ("_tcp.ent.dev.svc.cluster.local", "NODATA"),
        ("tcp.ent.dev.svc.cluster.local", "NODATA"),
        ("_udp.ent.dev.svc.cluster.local", "NODATA"),
        ("_sctp.ent.dev.svc.cluster.local", "NXDOMAIN"),
        ("_udp.web.dev.svc.cluster.local", "NXDOMAIN"),
        ("_tcp.web.dev.svc.cluster.local", "NODATA"),
        ("a._http._tcp.ent.dev.svc.cluster.local", "NXDOMAIN"),
        ("dns.cluster.local", "NODATA"),
        ("ns.dns.cluster.local", "NODATA"),
        ("x.dns.cluster.local", "NXDOMAIN"),
        ("x.ns.dns.cluster.local", "NXDOMAIN"),
        ("other.cluster.local", "NXDOMAIN"),
        ("any.dev.svc.cluster.local", "NXDOMAIN"),
        ("*.dev.svc.cluster.local", "NXDOMAIN"),
    ];
    for (name, expected) in rows {
        for qtype in [Type::TXT, MX, ANY, Type::CNAME, Type::PTR] {
            assert_eq!(say(&zone, name, qtype), expected, "{name} {qtype:?}");
            assert_eq!(soa_owner(&zone, name, qtype), "cluster.local.", "{name} {qtype:?}");
        }
    }
}

#[test]
fn reverse_zones_are_ours_within_the_service_cidrs_only() {
    let zone = zone();
    let rows = [
        ("99.0.96.10.in-addr.arpa", Type::PTR, "NXDOMAIN"),
        ("1.2.111.10.in-addr.arpa", Type::PTR, "NXDOMAIN"),
        ("1.2.112.10.in-addr.arpa", Type::PTR, "FORWARD"),
        ("0.96.10.in-addr.arpa", Type::PTR, "NODATA"),
        ("x.0.96.10.in-addr.arpa", Type::PTR, "NXDOMAIN"),
        ("x.11.0.96.10.in-addr.arpa", Type::PTR, "NXDOMAIN"),
        ("011.0.96.10.in-addr.arpa", Type::PTR, "NXDOMAIN"),
        (
            "96.10.in-addr.arpa",
            Type::SOA,
            "SOA ns.dns.cluster.local. hostmaster.cluster.local. 1001 30 for 30 s",
        ),
        ("96.10.in-addr.arpa", Type::NS, "NS kube-dns.kube-system.svc.cluster.local."),
        ("10.in-addr.arpa", Type::SOA, "FORWARD"),
        ("in-addr.arpa", Type::NS, "FORWARD"),
        ("1.2.0.192.in-addr.arpa", Type::PTR, "FORWARD"),
        ("www.example.org", Type::A, "FORWARD"),
        ("local", Type::A, "FORWARD"),
        (".", Type::NS, "FORWARD"),
    ];
    for (name, qtype, expected) in rows {
        assert_eq!(say(&zone, name, qtype), expected, "{name} {qtype:?}");
    }
    assert_eq!(soa_owner(&zone, "99.0.96.10.in-addr.arpa", Type::PTR), "96.10.in-addr.arpa.");
    assert_eq!(soa_owner(&zone, "21.0.1.10.in-addr.arpa", Type::A), "21.0.1.10.in-addr.arpa.");
}

#[test]
fn duplicates_in_overlapping_slices_are_answered_once_but_weigh() {
    let zone = zone_of(
        settings(),
        vec![
            service("dev/web", ServiceKind::Headless, &["http/80/TCP"]),
            slice("dev/a", "dev/web", &["10.1.0.1=x", "10.1.0.2=y"], &["http/80/TCP"]),
            slice("dev/b", "dev/web", &["10.1.0.1=x"], &["http/80/TCP"]),
        ],
    );
    assert_eq!(say(&zone, "web.dev.svc.cluster.local", Type::A), "A 10.1.0.1, A 10.1.0.2");
    assert_eq!(
        say(&zone, "web.dev.svc.cluster.local", Type::SRV),
        "SRV 0 33 80 x.web.dev.svc.cluster.local., SRV 0 33 80 y.web.dev.svc.cluster.local."
    );
    assert_eq!(
        additionals(&zone, "web.dev.svc.cluster.local", Type::SRV),
        "x.web.dev.svc.cluster.local. A 10.1.0.1, y.web.dev.svc.cluster.local. A 10.1.0.2"
    );
    assert_eq!(say(&zone, "1.0.1.10.in-addr.arpa", Type::PTR), "PTR x.web.dev.svc.cluster.local.");
}

#[test]
fn before_the_sources_are_read_every_name_of_ours_is_servfail_with_soa() {
    let (mut cluster, mut dirty) = (Cluster::default(), Dirty::default());
    events().into_iter().for_each(|event| cluster.apply(event, &mut dirty));
    let zone = Zone::new(settings()).expect("a zone").updated(&cluster, &dirty);
    for name in ["ent.dev.svc.cluster.local", "nobody.dev.svc.cluster.local", "cluster.local"] {
        assert_eq!(say(&zone, name, Type::A), "SERVFAIL", "{name}");
        assert_eq!(soa_owner(&zone, name, Type::A), "cluster.local.");
    }
    assert_eq!(say(&zone, "11.0.96.10.in-addr.arpa", Type::PTR), "SERVFAIL");
    assert_eq!(say(&zone, "99.0.1.10.in-addr.arpa", Type::PTR), "SERVFAIL");
    assert_eq!(say(&zone, "www.example.org", Type::A), "FORWARD");
}

#[test]
fn zone_transfers_are_refused() {
    for qtype in [Type::AXFR, Type::IXFR] {
        assert_eq!(say(&zone(), "cluster.local", qtype), "REFUSED");
        assert_eq!(say(&zone(), "96.10.in-addr.arpa", qtype), "REFUSED");
    }
}

#[test]
fn a_walk_along_the_search_list_ends_at_one_name() {
    let search = ["dev.svc.cluster.local", "svc.cluster.local", "cluster.local"];
    let zone = zone();
    for (asked, found) in
        [("ent", 0), ("ent.prod", 1), ("ent.prod.svc", 2), ("ent.prod.svc.cluster.local", 3)]
    {
        // Fewer than five dots: the list comes first, the name as it stands comes last.
        let mut candidates: Vec<String> = search.iter().map(|suffix| format!("{asked}.{suffix}")).collect();
        candidates.push(asked.to_owned());
        let answers: Vec<String> = candidates.iter().map(|name| say(&zone, name, Type::A)).collect();
        let hits: Vec<usize> = (0..answers.len()).filter(|&i| answers[i].starts_with("A ")).collect();
        assert_eq!(hits, [found], "{asked}: {answers:?}");
        assert!(answers[..found].iter().all(|answer| answer == "NXDOMAIN"), "{asked}: {answers:?}");
    }
}
