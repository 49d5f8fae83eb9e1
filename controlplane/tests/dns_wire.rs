//! The server over real sockets: messages, limits, noise.

mod dns_client;
mod dns_cluster;

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

#[test]
fn many_questions_go_over_one_tcp_connection_pipelined() {
    let server = running();
    let mut stream = server.tcp_stream();
    let asked: Vec<Message> = (0..200).map(|_| question(ENT, RecordType::A)).collect();
    for message in &asked {
        send_tcp(&mut stream, &message.to_vec().expect("encodes"));
    }
    for message in &asked {
        let reply = Message::from_vec(&receive_tcp(&mut stream).expect("a reply")).expect("decodes");
        assert_eq!(reply.metadata.id, message.metadata.id);
        assert_eq!(reply.answers.len(), 1);
    }
}

/// Limits that a test does not have to wait for.
fn short_limits() -> TcpLimits {
    let limit = Duration::from_millis(300);
    TcpLimits { idle: limit, write: limit, connections: 6, connections_per_client: 4 }
}

fn running_with(limits: TcpLimits, zone: Zone) -> Running {
    Running::try_start_with(zone, ForwardSettings::default(), vec![ANY_PORT], limits).expect("starts")
}

/// Waits for the server's end of a connection.
fn is_closed(stream: &mut std::net::TcpStream) -> bool {
    stream.read_to_end(&mut Vec::new()).is_ok_and(|rest| rest == 0)
}

#[test]
fn a_silent_connection_and_one_that_stops_amid_a_question_are_closed() {
    let server = running_with(short_limits(), zone());
    let mut silent = server.tcp_stream();
    let mut amid = server.tcp_stream();
    amid.write_all(&[0, 40, 1, 2, 3]).expect("sends");
    assert!(is_closed(&mut silent) && is_closed(&mut amid));
    assert_eq!(server.count("dns_tcp_idle", ""), 2);
    server.await_count("dns_tcp_open", "", 0);
}

#[test]
fn a_connection_that_asks_now_and_then_stays_open() {
    let server = running_with(short_limits(), zone());
    let mut stream = server.tcp_stream();
    for _ in 0..4 {
        std::thread::sleep(short_limits().idle / 2);
        send_tcp(&mut stream, &question(ENT, RecordType::A).to_vec().expect("encodes"));
        receive_tcp(&mut stream).expect("a reply");
    }
}

#[test]
fn a_client_that_does_not_read_is_closed_and_disturbs_nobody() {
    let server = running_with(short_limits(), crowd(300));
    let asked =
        question("_http._tcp.many.dev.svc.cluster.local.", RecordType::SRV).to_vec().expect("encodes");
    let mut slow = server.tcp_stream();
    slow.set_write_timeout(Some(short_limits().write)).expect("sets");
    // Replies of some 20 kB: more than the kernel keeps for a client that reads none.
    let framed = [&(asked.len() as u16).to_be_bytes()[..], &asked].concat();
    for _ in 0..4000 {
        if slow.write_all(&framed).is_err() {
            break;
        }
    }
    assert_eq!(server.udp(&question("many.dev.svc.cluster.local.", RecordType::MX)).authorities.len(), 1);
    server.await_count("dns_tcp_slow", "", 1);
    server.await_count("dns_tcp_open", "", 0);
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once() {
    let limits = TcpLimits { idle: PATIENCE, ..short_limits() };
    let server = running_with(limits, zone());
    let asked = question(ENT, RecordType::A).to_vec().expect("encodes");
    let mut open: Vec<_> = (0..4).map(|_| server.tcp_stream()).collect();
    server.await_count("dns_tcp_open", "", 4);
    assert!(is_closed(&mut server.tcp_stream()), "a fifth of one client");
    assert_eq!(server.count("dns_tcp_refused", ""), 1);
    for stream in &mut open {
        send_tcp(stream, &asked);
        receive_tcp(stream).expect("a reply");
    }
    drop(open.pop());
    server.await_count("dns_tcp_open", "", 3);
    let mut next = server.tcp_stream();
    send_tcp(&mut next, &asked);
    receive_tcp(&mut next).expect("a reply");
}

#[test]
fn a_half_closed_connection_still_gets_its_replies() {
    let server = running();
    let mut stream = server.tcp_stream();
    let asked = question(ENT, RecordType::A).to_vec().expect("encodes");
    send_tcp(&mut stream, &asked);
    send_tcp(&mut stream, &asked);
    stream.shutdown(std::net::Shutdown::Write).expect("shuts down");
    for _ in 0..2 {
        receive_tcp(&mut stream).expect("a reply");
    }
    assert!(is_closed(&mut stream));
}

#[test]
fn a_question_may_come_octet_by_octet() {
    let server = running();
    let mut stream = server.tcp_stream();
    stream.set_nodelay(true).expect("sets");
    let asked = question(ENT, RecordType::A).to_vec().expect("encodes");
    for octet in [&(asked.len() as u16).to_be_bytes()[..], &asked].concat() {
        stream.write_all(&[octet]).expect("sends");
    }
    let reply = Message::from_vec(&receive_tcp(&mut stream).expect("a reply")).expect("decodes");
    assert_eq!(reply.answers.len(), 1);
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
fn opt_is_answered_with_our_payload_and_only_if_asked() {
    let server = running();
    for payload in [0, 100, 512, 1232, 4096, 65_535] {
        let reply = server.udp(&question_edns(ENT, RecordType::A, payload));
        let edns = reply.edns.expect("an OPT");
        assert_eq!((edns.max_payload(), edns.version()), (1232, 0));
        assert!(edns.options().as_ref().is_empty());
    }
}

#[test]
fn an_unknown_edns_version_is_badvers() {
    let server = running();
    let mut asked = question_edns(ENT, RecordType::A, 1232);
    asked.edns.as_mut().expect("an OPT").set_version(1);
    let reply = server.udp(&asked);
    assert_eq!(u16::from(reply.metadata.response_code), 16);
    assert_eq!(reply.edns.expect("an OPT").version(), 0);
    assert!(reply.answers.is_empty());
    assert_eq!(server.count("coredns_dns_responses", "BADVERS"), 1);
}

#[test]
fn two_opt_records_are_formerr() {
    let server = running();
    let mut octets = question_edns(ENT, RecordType::A, 1232).to_vec().expect("encodes");
    octets[11] = 2;
    octets.extend_from_within(octets.len() - 11..);
    assert_eq!(server.udp_octets(&octets)[3] & 15, 1);
}

#[test]
fn three_hundred_endpoints_are_cut_to_what_the_client_takes() {
    let server = Running::start(crowd(300), ForwardSettings::default());
    let name = "many.dev.svc.cluster.local.";
    // What is asked, the limit, and how many records of 16 octets fit behind the question.
    let cases = [
        (question(name, RecordType::A), 512, 29),
        (question_edns(name, RecordType::A, 100), 512, 28),
        (question_edns(name, RecordType::A, 1000), 1000, 59),
        (question_edns(name, RecordType::A, 1232), 1232, 73),
        (question_edns(name, RecordType::A, 65_535), 1232, 73),
    ];
    for (asked, limit, fitting) in cases {
        let octets = server.udp_octets(&asked.to_vec().expect("encodes"));
        assert!(octets.len() <= limit, "{} octets, limit {limit}", octets.len());
        let reply = Message::from_vec(&octets).expect("decodes");
        assert!(reply.metadata.truncation);
        assert_eq!(reply.answers.len(), fitting, "in {limit} octets");
        assert_eq!(reply.edns.is_some(), asked.edns.is_some(), "the OPT is kept");
    }
    for asked in [question(name, RecordType::A), question_edns(name, RecordType::A, 512)] {
        let reply = server.tcp(&asked);
        assert!(!reply.metadata.truncation);
        assert_eq!(reply.answers.len(), 300);
    }
    let octets = server.tcp_octets(&question(name, RecordType::A).to_vec().expect("encodes"));
    assert_eq!(octets.len(), 44 + 300 * 16, "each owner is a pointer");
    let reply = server.tcp(&question("_http._tcp.many.dev.svc.cluster.local.", RecordType::SRV));
    assert_eq!((reply.answers.len(), reply.additionals.len()), (300, 300));
    assert!(!reply.metadata.truncation);
}

#[test]
fn additional_records_go_first_and_without_tc() {
    let server = Running::start(crowd(7), ForwardSettings::default());
    let name = "_http._tcp.many.dev.svc.cluster.local.";
    let reply = server.udp(&question_edns(name, RecordType::SRV, 1232));
    assert_eq!((reply.answers.len(), reply.additionals.len(), reply.metadata.truncation), (7, 7, false));
    let octets = server.udp_octets(&question_edns(name, RecordType::SRV, 512).to_vec().expect("encodes"));
    let reply = Message::from_vec(&octets).expect("decodes");
    assert_eq!((reply.answers.len(), reply.additionals.len(), reply.metadata.truncation), (7, 0, false));
    assert!(octets.len() <= 512 && reply.edns.is_some());
}

#[test]
fn what_is_no_query_of_class_in_is_refused_by_its_code() {
    let server = running();
    let mut status = question(ENT, RecordType::A);
    status.metadata.op_code = OpCode::Status;
    let mut notify = question(ENT, RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    let mut update = question("cluster.local.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut two = question(ENT, RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::A));
    let mut none = question(ENT, RecordType::A);
    none.queries.clear();
    let cases = [
        (status, ResponseCode::NotImp),
        (notify, ResponseCode::NotImp),
        (update, ResponseCode::NotImp),
        (chaos, ResponseCode::Refused),
        (two, ResponseCode::FormErr),
        (none, ResponseCode::FormErr),
        (question("cluster.local.", RecordType::AXFR), ResponseCode::Refused),
    ];
    for (asked, code) in cases {
        for reply in [server.udp(&asked), server.tcp(&asked)] {
            assert_eq!(reply.metadata.response_code, code, "{asked}");
            assert_eq!(reply.metadata.id, asked.metadata.id);
            assert!(reply.answers.is_empty() && reply.authorities.is_empty());
        }
    }
}

#[test]
fn undecodable_messages_are_formerr_and_those_that_may_be_replies_are_dropped() {
    let server = running();
    let good = question(ENT, RecordType::A).to_vec().expect("encodes");
    let code = |octets: &[u8]| octets[3] & 15;
    // Every proper prefix with a whole header, and a header that promises more than there is.
    for length in 12..good.len() {
        let reply = server.udp_octets(&good[..length]);
        assert_eq!((reply.len(), code(&reply)), (12, 1), "{length} octets");
        assert_eq!(reply[..2], good[..2]);
    }
    for (at, value) in [(4, 0xff), (7, 1), (9, 1), (11, 1), (12, 0x80), (12, 0xc0)] {
        let mut lying = good.clone();
        lying[at] = value;
        assert_eq!(code(&server.udp_octets(&lying)), 1, "octet {at} = {value:#x}");
    }
    let socket = server.udp_socket();
    let mut answer = good.clone();
    answer[2] |= 0x80;
    for silent in [&good[..11], &answer[..], &[]] {
        socket.send(silent).expect("sends");
    }
    socket.send(&good).expect("sends");
    let reply = receive(&socket).expect("a reply");
    assert_eq!(code(&reply), 0, "only the question is answered");
    let mut trailing = good.clone();
    trailing.extend([0; 7]);
    assert_eq!(Message::from_vec(&server.udp_octets(&trailing)).expect("decodes").answers.len(), 1);
}

/// A small generator of octets that do not repeat (xorshift64).
fn noise(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 32) as u8
}

#[test]
fn noise_disturbs_nothing() {
    let server = running();
    let good = question_edns(ENT, RecordType::A, 1232).to_vec().expect("encodes");
    let mut state = 0x7469_6465_6761_7465;
    let socket = server.udp_socket();
    socket.set_nonblocking(true).expect("sets");
    for round in 0..4000_usize {
        let mut octets = if round % 2 == 0 { good.clone() } else { vec![0; round % 600] };
        for octet in &mut octets {
            // Half the rounds are noise throughout, half a good question with some octets wrong.
            if round % 2 == 1 || noise(&mut state) < 16 {
                *octet = noise(&mut state);
            }
        }
        // The kernel may say that its buffer is full: then this one is lost.
        socket.send(&octets).ok();
        while receive(&socket).is_ok() {}
    }
    for length in [0_u16, 1, 11, 12, 600, 65_535] {
        let mut stream = server.tcp_stream();
        let octets: Vec<u8> = (0..length).map(|_| noise(&mut state)).collect();
        send_tcp(&mut stream, &octets);
        stream.shutdown(std::net::Shutdown::Write).expect("shuts down");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the server closes the connection");
    }
    let half_open = server.tcp_stream();
    assert_eq!(server.udp(&question(ENT, RecordType::A)).answers.len(), 1);
    assert_eq!(server.tcp(&question(ENT, RecordType::A)).answers.len(), 1);
    drop(half_open);
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
