//! The server over real sockets: messages, limits, noise.

#[path = "dns_wire/connections.rs"]
mod connections;
mod dns_client;
mod dns_cluster;
#[path = "dns_wire/edns.rs"]
mod edns;
#[path = "dns_wire/faults.rs"]
mod faults;

use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;

use dns_client::{
    ANY_PORT, PATIENCE, Running, lines, question, question_edns, receive, receive_tcp, send_tcp,
};
use dns_cluster::{cluster_ip, service, settings, slice, zone, zone_of};
use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use tidegate::cluster::{Event, ServiceKind};
use tidegate::dns::{ForwardSettings, TcpLimits, Zone};

const ENT: &str = "ent.dev.svc.cluster.local.";

fn running() -> Running {
    Running::start(zone(), ForwardSettings::default())
}

/// A headless Service `dev/many` of `count` endpoints with long names, and its port `http`.
fn crowd(count: usize) -> Zone {
    let endpoints: Vec<String> = (0..count)
        .map(|i| format!("10.2.{}.{}=endpoint-with-a-rather-long-name-{i:04}", i / 250, i % 250 + 1))
        .collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let mut events: Vec<Event> = vec![service("dev/many", ServiceKind::Headless, &["http/80/TCP"])];
    for (number, chunk) in endpoints.chunks(100).enumerate() {
        events.push(slice(&format!("dev/many-{number}"), "dev/many", chunk, &["http/80/TCP"]));
    }
    zone_of(settings(), events)
}

#[test]
fn an_answer_carries_the_question_its_id_and_the_flags_of_an_authority() {
    let server = running();
    let asked = question(ENT, RecordType::A);
    for reply in [server.udp(&asked), server.tcp(&asked)] {
        assert_eq!(reply.metadata.id, asked.metadata.id);
        assert_eq!(reply.queries, asked.queries);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        let flags = reply.metadata;
        assert!(flags.authoritative && flags.recursion_available && flags.recursion_desired);
        assert!(!flags.truncation && !flags.authentic_data);
        assert_eq!(lines(&reply.answers), ["ent.dev.svc.cluster.local. A 10.96.0.11"]);
        assert_eq!(reply.answers[0].ttl, 30);
        assert!(reply.edns.is_none() && reply.authorities.is_empty() && reply.additionals.is_empty());
    }
    assert_eq!(server.count("coredns_dns_requests", "A"), 2);
    assert_eq!(server.count("coredns_dns_responses", "NOERROR"), 2);
}

#[test]
fn s0_names_come_back_in_the_case_of_the_question() {
    let server = running();
    let reply = server.udp(&question("eNt.DeV.Svc.cLuStEr.LoCaL.", RecordType::A));
    assert_eq!(reply.queries[0].name().to_string(), "eNt.DeV.Svc.cLuStEr.LoCaL.");
    assert_eq!(lines(&reply.answers), ["eNt.DeV.Svc.cLuStEr.LoCaL. A 10.96.0.11"]);
    let reply = server.udp(&question("_Http._tcp.eNt.DeV.Svc.cLuStEr.LoCaL.", RecordType::SRV));
    assert!(lines(&reply.answers)[0].ends_with(" ent.dev.svc.cLuStEr.LoCaL."), "{:?}", reply.answers);
    let reply = server.udp(&question("nobody.DEV.svc.cluster.LOCAL.", RecordType::A));
    assert_eq!(reply.authorities[0].name.to_string(), "cluster.LOCAL.");
}

#[test]
fn each_record_type_reaches_the_wire() {
    let server = running();
    let answers = |name: &str, qtype| lines(&server.udp(&question(name, qtype)).answers);
    assert_eq!(answers(ENT, RecordType::AAAA), ["ent.dev.svc.cluster.local. AAAA fd00:96::11"]);
    assert_eq!(
        answers("11.0.96.10.in-addr.arpa.", RecordType::PTR),
        ["11.0.96.10.in-addr.arpa. PTR ent.dev.svc.cluster.local."]
    );
    assert_eq!(
        answers("dns-version.cluster.local.", RecordType::TXT),
        ["dns-version.cluster.local. TXT 1.1.0"]
    );
    assert_eq!(
        answers("cluster.local.", RecordType::SOA),
        ["cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 1001 7200 1800 86400 30"]
    );
    assert_eq!(
        answers("inside.dev.svc.cluster.local.", RecordType::A),
        [
            "inside.dev.svc.cluster.local. CNAME ent.prod.svc.cluster.local.",
            "ent.prod.svc.cluster.local. A 10.96.0.12"
        ]
    );
    let reply = server.udp(&question("_http._tcp.ent.dev.svc.cluster.local.", RecordType::SRV));
    assert_eq!(
        lines(&reply.answers),
        ["_http._tcp.ent.dev.svc.cluster.local. SRV 0 50 8080 ent.dev.svc.cluster.local."]
    );
    assert_eq!(reply.additionals.len(), 2);
}

#[test]
fn a_negative_answer_carries_the_soa() {
    let server = running();
    for (name, code) in
        [("nobody.dev.svc.cluster.local.", ResponseCode::NXDomain), (ENT, ResponseCode::NoError)]
    {
        let reply = server.udp(&question(name, RecordType::MX));
        assert_eq!(reply.metadata.response_code, code);
        assert!(reply.metadata.authoritative && reply.answers.is_empty());
        assert_eq!(reply.authorities.len(), 1);
        assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
        assert_eq!(reply.authorities[0].ttl, 30);
    }
}

#[test]
fn an_unsynced_zone_is_servfail_until_a_synced_one_is_swapped_in() {
    let empty = Zone::new(settings()).expect("a zone");
    let server = Running::start(empty, ForwardSettings::default());
    let reply = server.udp(&question(ENT, RecordType::A));
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    server.zone.store(std::sync::Arc::new(zone()));
    assert_eq!(server.udp(&question(ENT, RecordType::A)).answers.len(), 1);
}

#[test]
fn addresses_rotate_over_the_clients() {
    let server = running();
    let first =
        || lines(&server.udp(&question("web.dev.svc.cluster.local.", RecordType::A)).answers)[0].clone();
    let firsts: std::collections::BTreeSet<String> = (0..3).map(|_| first()).collect();
    assert_eq!(firsts.len(), 3);
}

/// What a message says, without the order of its records.
fn said(message: &Message) -> (Vec<String>, Vec<String>, Vec<String>, String, bool) {
    let sorted = |records: &[Record]| {
        let mut lines: Vec<String> =
            records.iter().map(|record| format!("{} {} {}", record.name, record.ttl, record.data)).collect();
        lines.sort();
        lines
    };
    let metadata = message.metadata;
    let flags =
        format!("{} {:?} {:?}", metadata, message.queries, message.edns.as_ref().map(Edns::max_payload));
    (
        sorted(&message.answers),
        sorted(&message.authorities),
        sorted(&message.additionals),
        flags,
        metadata.truncation,
    )
}

#[test]
fn both_encoders_say_the_same() {
    let server = running();
    let names = [
        "eNt.dev.svc.Cluster.local.",
        "web.dev.svc.cluster.local.",
        "_http._tcp.web.Dev.svc.cluster.LOCAL.",
        "twice.dev.svc.cluster.local.",
        "nobody.dev.svc.cluster.local.",
        "dev.svc.cluster.local.",
        "cluster.local.",
        "dns-version.cluster.local.",
        "11.0.96.10.In-Addr.arpa.",
        "99.0.96.10.in-addr.arpa.",
        "21.0.1.10.in-addr.arpa.",
        "1-2-3-4.dev.pod.cluster.local.",
    ];
    let types = [
        RecordType::A,
        RecordType::AAAA,
        RecordType::SRV,
        RecordType::PTR,
        RecordType::TXT,
        RecordType::SOA,
        RecordType::NS,
        RecordType::ANY,
    ];
    for (name, qtype) in names.iter().flat_map(|name| types.map(|qtype| (name, qtype))) {
        for asked in [question(name, qtype), question_edns(name, qtype, 1232)] {
            let plain = asked.to_vec().expect("encodes");
            // An octet behind the message is what the short way leaves to the long one.
            let odd = [&plain[..], &[0]].concat();
            // Over TCP, so that nothing is cut.
            let (short, long) = (server.tcp_octets(&plain), server.tcp_octets(&odd));
            assert!(short.len() <= long.len(), "{name} {qtype}: {} octets, {}", short.len(), long.len());
            let decode = |octets: &[u8]| Message::from_vec(octets).expect("decodes");
            assert_eq!(said(&decode(&short)), said(&decode(&long)), "{name} {qtype}");
        }
    }
}

#[test]
fn what_is_counted_goes_by_coredns_names() {
    let server = running();
    server.udp(&question(ENT, RecordType::AAAA));
    server.tcp(&question("nobody.dev.svc.cluster.local.", RecordType::A));
    server.udp_octets(&question(ENT, RecordType::A).to_vec().expect("encodes")[..20]);
    let text = server.metrics();
    let server_labels = "server=\"dns://:53\",zone=\".\",view=\"\"";
    for line in [
        format!("coredns_dns_requests{{{server_labels},proto=\"udp\",family=\"1\",type=\"AAAA\"}} 1"),
        format!("coredns_dns_requests{{{server_labels},proto=\"tcp\",family=\"1\",type=\"A\"}} 1"),
        format!("coredns_dns_requests{{{server_labels},proto=\"udp\",family=\"1\",type=\"other\"}} 1"),
        format!("coredns_dns_responses{{{server_labels},rcode=\"NOERROR\",plugin=\"kubernetes\"}} 1"),
        format!("coredns_dns_responses{{{server_labels},rcode=\"NXDOMAIN\",plugin=\"kubernetes\"}} 1"),
        format!("coredns_dns_responses{{{server_labels},rcode=\"FORMERR\",plugin=\"\"}} 1"),
        format!("coredns_dns_request_size_bytes{{{server_labels},proto=\"udp\"}} 2"),
        format!("coredns_dns_request_duration_seconds{{{server_labels}}} 3"),
    ] {
        assert!(text.contains(&line), "no {line} in {text:#?}");
    }
}

#[test]
fn replies_leave_from_the_address_asked_on_every_listen_address() {
    let listen = ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"].map(|text| text.parse().expect("an address"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let zone = std::sync::Arc::new(arc_swap::ArcSwap::from_pointee(zone()));
        let settings = tidegate::dns::ServerSettings {
            listen: listen.to_vec(),
            zone,
            forward: ForwardSettings::default(),
            log_queries: false,
            tcp: tidegate::dns::TcpLimits::default(),
        };
        let server = tidegate::dns::Server::start(settings, std::sync::Arc::default()).expect("starts");
        let asked = question(ENT, RecordType::A).to_vec().expect("encodes");
        for &address in server.addresses() {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = tokio::net::UdpSocket::bind(any).await.expect("binds");
            socket.send_to(&asked, address).await.expect("sends");
            let mut datagram = [0; 512];
            let received = tokio::time::timeout(PATIENCE, socket.recv_from(&mut datagram)).await;
            assert_eq!(received.expect("a reply in time").expect("a reply").1, address);
        }
        let addresses = server.addresses().to_vec();
        server.shutdown().await;
        for address in addresses {
            tokio::net::UdpSocket::bind(address).await.expect("the port is free again");
            tokio::net::TcpListener::bind(address).await.expect("the port is free again");
        }
    });
}

#[test]
fn dig_understands_the_answers() {
    if Command::new("dig").arg("-v").output().is_err() {
        eprintln!("skipped: dig is not installed");
        return;
    }
    let server = Running::start(
        zone_of(settings(), {
            let mut events = dns_cluster::events();
            events.push(cluster_ip("dev/extra", &["10.96.0.99"], &["http/80/TCP"]));
            events
        }),
        ForwardSettings::default(),
    );
    let dig = |arguments: &str| {
        let port = server.address.port().to_string();
        let output = Command::new("dig")
            .args(["@127.0.0.1", "-p", &port, "+tries=1", "+time=5"])
            .args(arguments.split(' '))
            .output()
            .expect("dig runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(dig("+short extra.dev.svc.cluster.local"), "10.96.0.99\n");
    assert_eq!(dig("+short +tcp +nocookie extra.dev.svc.cluster.local"), "10.96.0.99\n");
    assert_eq!(dig("+short +bufsize=512 -x 10.96.0.99"), "extra.dev.svc.cluster.local.\n");
    assert_eq!(
        dig("+short _http._tcp.extra.dev.svc.cluster.local SRV"),
        "0 100 80 extra.dev.svc.cluster.local.\n"
    );
    let nobody = dig("nobody.dev.svc.cluster.local");
    assert!(nobody.contains("status: NXDOMAIN") && nobody.contains("SOA"), "{nobody}");
    assert!(!nobody.contains("malformed"), "{nobody}");
    let searched = dig("+noall +answer +search +ndots=5 +domain=dev.svc.cluster.local ExTrA");
    let fields: Vec<&str> = searched.split_whitespace().collect();
    assert_eq!(fields, ["ExTrA.dev.svc.cluster.local.", "30", "IN", "A", "10.96.0.99"]);
}
