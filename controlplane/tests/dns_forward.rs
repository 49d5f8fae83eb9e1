//! Names of others: who may ask, who is asked, and what comes back.

mod dns_client;
mod dns_cluster;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dns_client::{ANY_PORT, Running, lines, question, question_edns, receive_tcp, send_tcp};
use dns_cluster::{events, settings, zone, zone_of};
use hickory_proto::op::{Message, MessageType, Metadata, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tidegate::dns::{ForwardSettings, ZoneSettings};

/// What the upstream sends for a question: datagrams over UDP, messages over TCP.
type Answering = dyn Fn(&Message, bool) -> Vec<Message> + Send + Sync;

/// A resolver on loopback that a test scripts; stops when dropped.
struct Upstream {
    address: SocketAddr,
    asked: Arc<[AtomicUsize; 2]>,
    seen: Arc<Mutex<Vec<Message>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Upstream {
    fn start(answering: impl Fn(&Message, bool) -> Vec<Message> + Send + Sync + 'static) -> Self {
        let (udp, tcp) = std::iter::repeat_with(|| {
            let udp = UdpSocket::bind(ANY_PORT).expect("binds");
            let tcp = TcpListener::bind(udp.local_addr().expect("an address"));
            tcp.map(|tcp| (udp, tcp))
        })
        .find_map(Result::ok)
        .expect("a port free for both");
        let (stop, asked) =
            (Arc::new(AtomicBool::new(false)), Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let address = udp.local_addr().expect("an address");
        let answering: Arc<Answering> = Arc::new(answering);
        let note = {
            let (asked, seen) = (asked.clone(), seen.clone());
            move |message: &Message, tcp: bool| {
                asked[usize::from(tcp)].fetch_add(1, Ordering::SeqCst);
                seen.lock().expect("no panic").push(message.clone());
            }
        };
        let threads = vec![
            std::thread::spawn({
                let (stop, answering, note) = (stop.clone(), answering.clone(), note.clone());
                move || serve_udp(&udp, &stop, &*answering, note)
            }),
            std::thread::spawn({
                let stop = stop.clone();
                move || serve_tcp(&tcp, &stop, &*answering, note)
            }),
        ];
        Self { address, asked, seen, stop, threads }
    }

    /// An upstream that gives every A question this address.
    fn giving(address: [u8; 4]) -> Self {
        Self::start(move |asked, _| vec![answer(asked, &[a_record(asked, address)])])
    }

    fn asked_udp(&self) -> usize {
        self.asked[0].load(Ordering::SeqCst)
    }

    fn asked_tcp(&self) -> usize {
        self.asked[1].load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Both threads wait in the kernel: one datagram and one connection wake them.
        let waker = UdpSocket::bind(ANY_PORT).expect("binds");
        waker.send_to(&[], self.address).expect("sends");
        drop(std::net::TcpStream::connect(self.address));
        self.threads.drain(..).for_each(|thread| thread.join().expect("no panic"));
    }
}

fn serve_udp(socket: &UdpSocket, stop: &AtomicBool, answering: &Answering, note: impl Fn(&Message, bool)) {
    let mut datagram = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut datagram).expect("receives");
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let asked = Message::from_vec(&datagram[..length]).expect("decodes");
        note(&asked, false);
        for message in answering(&asked, false) {
            socket.send_to(&message.to_vec().expect("encodes"), client).expect("sends");
        }
    }
}

fn serve_tcp(
    listener: &TcpListener,
    stop: &AtomicBool,
    answering: &Answering,
    note: impl Fn(&Message, bool),
) {
    loop {
        let (mut stream, _) = listener.accept().expect("accepts");
        if stop.load(Ordering::SeqCst) {
            return;
        }
        while let Ok(octets) = receive_tcp(&mut stream) {
            let asked = Message::from_vec(&octets).expect("decodes");
            note(&asked, true);
            for message in answering(&asked, true) {
                send_tcp(&mut stream, &message.to_vec().expect("encodes"));
            }
        }
    }
}

fn answer(asked: &Message, answers: &[Record]) -> Message {
    let mut message = Message::response(asked.metadata.id, asked.metadata.op_code);
    message.metadata = Metadata::response_from_request(&asked.metadata);
    message.metadata.recursion_available = true;
    message.add_queries(asked.queries.clone()).add_answers(answers.to_vec());
    message
}

fn a_record(asked: &Message, address: [u8; 4]) -> Record {
    Record::from_rdata(
        asked.queries[0].name().clone(),
        77,
        RData::A(std::net::Ipv4Addr::from(address).into()),
    )
}

fn forward_to(upstreams: &[SocketAddr]) -> ForwardSettings {
    let allow = vec!["127.0.0.0/8".parse().expect("a CIDR")];
    ForwardSettings { upstreams: upstreams.to_vec(), allow, ..ForwardSettings::default() }
}

/// An address of loopback that only one test uses, with a port that was free just now.
fn unused(host: u8) -> SocketAddr {
    let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, host], 0))).expect("binds");
    socket.local_addr().expect("an address")
}

/// An address where nobody listens: the kernel says so at once.
fn closed() -> SocketAddr {
    unused(78)
}

const OTHER: &str = "wWw.example.ORG.";

#[test]
fn other_names_are_answered_by_the_upstream_as_it_gives_them() {
    let upstream = Upstream::start(|asked, _| {
        let mut message = answer(asked, &[a_record(asked, [192, 0, 2, 1])]);
        message.metadata.authentic_data = true;
        message.add_authority(Record::from_rdata(
            Name::from_ascii("example.org.").expect("a name"),
            5,
            RData::NS(hickory_proto::rr::rdata::NS(Name::from_ascii("ns.example.org.").expect("a name"))),
        ));
        vec![message]
    });
    let server = Running::start(zone(), forward_to(&[upstream.address]));
    let asked = question_edns(OTHER, RecordType::A, 4096);
    let reply = server.udp(&asked);
    assert_eq!((reply.metadata.id, reply.metadata.response_code), (asked.metadata.id, ResponseCode::NoError));
    assert!(
        !reply.metadata.authoritative && reply.metadata.recursion_available && reply.metadata.authentic_data
    );
    assert_eq!(lines(&reply.answers), ["wWw.example.ORG. A 192.0.2.1"]);
    assert_eq!(reply.answers[0].ttl, 77);
    assert_eq!(lines(&reply.authorities), ["example.org. NS ns.example.org."]);
    assert_eq!(reply.edns.expect("an OPT").max_payload(), 1232);
    let seen = upstream.seen.lock().expect("no panic");
    assert_ne!(seen[0].metadata.id, asked.metadata.id, "the id is our own");
    assert!(seen[0].metadata.recursion_desired);
    assert_eq!(seen[0].queries, asked.queries);
    assert_eq!(server.count("dns_forwards", "ok"), 1);
}

#[test]
fn an_upstreams_response_code_is_handed_on() {
    let upstream = Upstream::start(|asked, _| {
        let mut message = answer(asked, &[]);
        message.metadata.response_code = ResponseCode::NXDomain;
        vec![message]
    });
    let server = Running::start(zone(), forward_to(&[upstream.address]));
    assert_eq!(server.udp(&question(OTHER, RecordType::A)).metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(upstream.asked_udp(), 1, "a code is an answer");
}

#[test]
fn a_source_that_is_not_allowed_is_refused_and_nobody_is_asked() {
    let upstream = Upstream::giving([192, 0, 2, 1]);
    let allow = vec!["10.0.0.0/8".parse().expect("a CIDR")];
    let server = Running::start(zone(), ForwardSettings { allow, ..forward_to(&[upstream.address]) });
    for reply in [server.udp(&question(OTHER, RecordType::A)), server.tcp(&question(OTHER, RecordType::A))] {
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    }
    assert_eq!(server.udp(&question("ent.dev.svc.cluster.local.", RecordType::A)).answers.len(), 1);
    assert_eq!((upstream.asked_udp(), upstream.asked_tcp()), (0, 0));
    assert_eq!(server.count("dns_forwards", "refused"), 2);
}

#[test]
fn without_an_upstream_other_names_are_refused() {
    let server = Running::start(zone(), forward_to(&[]));
    assert_eq!(server.udp(&question(OTHER, RecordType::A)).metadata.response_code, ResponseCode::Refused);
}

#[test]
fn names_of_the_cluster_are_never_forwarded() {
    let upstream = Upstream::giving([192, 0, 2, 1]);
    let server = Running::start(zone(), forward_to(&[upstream.address]));
    for name in [
        "nobody.dev.svc.cluster.local.",
        "cluster.local.",
        "x.y.z.cluster.local.",
        "99.0.96.10.in-addr.arpa.",
    ] {
        let reply = server.udp(&question(name, RecordType::A));
        assert!(reply.metadata.authoritative && reply.answers.is_empty(), "{name}");
    }
    assert_eq!(upstream.asked_udp(), 0);
}

#[test]
fn a_truncated_answer_is_fetched_again_over_tcp() {
    let upstream = Upstream::start(|asked, tcp| {
        let addresses = 0..if tcp { 40 } else { 1 };
        let records: Vec<Record> = addresses.map(|last| a_record(asked, [192, 0, 2, last])).collect();
        let mut message = answer(asked, &records);
        message.metadata.truncation = !tcp;
        vec![message]
    });
    let server = Running::start(zone(), forward_to(&[upstream.address]));
    let reply = server.udp(&question_edns(OTHER, RecordType::A, 1232));
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (40, false));
    assert_eq!((upstream.asked_udp(), upstream.asked_tcp()), (1, 1));
    // A client that takes 512 octets is told to come by TCP; that question goes by TCP all the way.
    let reply = server.udp(&question(OTHER, RecordType::A));
    assert!(reply.metadata.truncation && reply.answers.len() < 40);
    let reply = server.tcp(&question("by-tcp.example.org.", RecordType::A));
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (40, false));
    assert_eq!((upstream.asked_udp(), upstream.asked_tcp()), (2, 3));
}

#[test]
fn a_dead_upstream_is_skipped_and_the_one_that_answers_is_remembered() {
    let dead = Upstream::start(|_, _| vec![]);
    let alive = Upstream::giving([192, 0, 2, 2]);
    let server = Running::start(zone(), forward_to(&[closed(), dead.address, alive.address]));
    assert_eq!(server.udp(&question(OTHER, RecordType::A)).answers.len(), 1);
    let start = Instant::now();
    assert_eq!(server.udp(&question("second.example.org.", RecordType::A)).answers.len(), 1);
    assert!(start.elapsed() < Duration::from_secs(1), "the second question goes to the live one at once");
    assert_eq!((dead.asked_udp(), alive.asked_udp()), (1, 2));
    let text = server.metrics();
    for (address, code, count) in [(dead.address, "other", 1), (alive.address, "NOERROR", 2)] {
        let line = format!(
            "coredns_proxy_request_duration_seconds{{proxy_name=\"forward\",to=\"{address}\",rcode=\"{code}\"}} {count}"
        );
        assert!(text.contains(&line), "no {line} in {text:#?}");
    }
}

#[test]
fn when_no_upstream_answers_it_is_servfail_and_the_cluster_is_served_meanwhile() {
    let dead = Upstream::start(|_, _| vec![]);
    let server = Running::start(zone(), forward_to(&[dead.address]));
    let waiting = server.udp_socket();
    waiting.send(&question(OTHER, RecordType::A).to_vec().expect("encodes")).expect("sends");
    assert_eq!(server.udp(&question("ent.dev.svc.cluster.local.", RecordType::A)).answers.len(), 1);
    let reply = Message::from_vec(&dns_client::receive(&waiting).expect("a reply")).expect("decodes");
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(server.count("dns_forwards", "failed"), 1);
}

#[test]
fn a_forged_answer_is_ignored_until_the_real_one_comes() {
    let upstream = Upstream::start(|asked, _| {
        let forged = answer(asked, &[a_record(asked, [203, 0, 113, 66])]);
        let mut wrong_id = forged.clone();
        wrong_id.metadata.id = asked.metadata.id.wrapping_add(1);
        let mut wrong_question = forged.clone();
        wrong_question.queries[0].set_name(Name::from_ascii("other.example.org.").expect("a name"));
        let mut no_response = forged;
        no_response.metadata.message_type = MessageType::Query;
        let real = answer(asked, &[a_record(asked, [192, 0, 2, 1])]);
        vec![wrong_id, wrong_question, no_response, real]
    });
    let server = Running::start(zone(), forward_to(&[upstream.address]));
    let reply = server.udp(&question(OTHER, RecordType::A));
    assert_eq!(lines(&reply.answers), ["wWw.example.ORG. A 192.0.2.1"]);
}

#[test]
fn a_stub_domain_has_its_own_upstream() {
    let (general, corp, lab) = (
        Upstream::giving([192, 0, 2, 1]),
        Upstream::giving([192, 0, 2, 2]),
        Upstream::giving([192, 0, 2, 3]),
    );
    let stubs = vec![("corp.example".into(), corp.address), ("lab.corp.example.".into(), lab.address)];
    let server = Running::start(zone(), ForwardSettings { stubs, ..forward_to(&[general.address]) });
    let address = |name: &str| server.udp(&question(name, RecordType::A)).answers[0].data.to_string();
    assert_eq!(address("CORP.example."), "192.0.2.2");
    assert_eq!(address("www.corp.example."), "192.0.2.2");
    assert_eq!(address("x.lab.corp.example."), "192.0.2.3");
    assert_eq!(address("xcorp.example."), "192.0.2.1");
}

#[test]
fn s11_an_alias_that_leads_outside_is_chased_by_the_forwarder() {
    let upstream = Upstream::start(|asked, _| {
        let mut message = answer(asked, &[]);
        match asked.queries[0].query_type() {
            RecordType::A => message.answers.push(a_record(asked, [192, 0, 2, 1])),
            _ => message.metadata.response_code = ResponseCode::NXDomain,
        }
        vec![message]
    });
    let server = Running::start(zone(), forward_to(&[upstream.address]));
    let alias = "outside.dev.svc.cluster.local. CNAME www.example.org.";
    let reply = server.udp(&question("outside.dev.svc.cluster.local.", RecordType::A));
    assert_eq!(lines(&reply.answers), [alias, "www.example.org. A 192.0.2.1"]);
    assert!(reply.metadata.authoritative);
    let reply = server.udp(&question("outside.dev.svc.cluster.local.", RecordType::AAAA));
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "the alias exists, its target does not");
    assert_eq!(lines(&reply.answers), [alias]);

    let alone = Running::start(zone(), forward_to(&[]));
    let reply = alone.udp(&question("outside.dev.svc.cluster.local.", RecordType::A));
    assert_eq!(
        (reply.metadata.response_code, lines(&reply.answers)),
        (ResponseCode::NoError, vec![alias.to_owned()])
    );

    let deaf = Running::start(zone(), forward_to(&[closed()]));
    let reply = deaf.udp(&question("outside.dev.svc.cluster.local.", RecordType::A));
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "not a false NODATA");
}

#[test]
fn no_name_has_an_aaaa_where_that_is_switched_off() {
    let upstream = Upstream::giving([192, 0, 2, 1]);
    let settings = ZoneSettings { aaaa_nodata: true, ..settings() };
    let server = Running::start(zone_of(settings, events()), forward_to(&[upstream.address]));
    for name in [OTHER, "ent.dev.svc.cluster.local."] {
        let reply = server.udp(&question(name, RecordType::AAAA));
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 0), "{name}");
    }
    let reply = server.udp(&question("outside.dev.svc.cluster.local.", RecordType::AAAA));
    assert_eq!(lines(&reply.answers), ["outside.dev.svc.cluster.local. CNAME www.example.org."]);
    assert_eq!(upstream.asked_udp(), 0);
    assert_eq!(server.udp(&question(OTHER, RecordType::A)).answers.len(), 1);
    assert_eq!(server.udp(&question("ent.dev.svc.cluster.local.", RecordType::A)).answers.len(), 1);
}

#[test]
fn an_upstream_that_is_ourselves_is_an_error_that_names_it() {
    let own = unused(77);
    let start = |forward| Running::try_start(zone(), forward, vec![own]).err().expect("an error").to_string();
    assert_eq!(
        start(forward_to(&[own])),
        format!("upstream {own} is where we listen ourselves, or no address to ask")
    );
    assert!(start(forward_to(&["0.0.0.0:53".parse().expect("an address")])).contains("0.0.0.0:53"));
    let stub = |domain: &str| ForwardSettings { stubs: vec![(domain.into(), closed())], ..forward_to(&[]) };
    assert!(start(stub("Dev.svc.cluster.local")).contains("dev.svc.cluster.local."));
    assert!(start(stub("a..b")).contains("a..b"));
    // Nothing is left listening after an error.
    UdpSocket::bind(own).expect("the port is free");
}

#[test]
fn an_answer_is_asked_for_once_while_it_is_fresh_and_comes_back_in_each_clients_case() {
    let upstream = Upstream::giving([192, 0, 2, 1]);
    let server = Running::start(zone(), forward_to(&[upstream.address]));
    for name in [OTHER, "www.example.org.", "WWW.EXAMPLE.ORG."] {
        let reply = server.udp(&question(name, RecordType::A));
        assert_eq!(lines(&reply.answers), [format!("{name} A 192.0.2.1")]);
        assert!(!reply.metadata.authoritative && reply.answers[0].ttl <= 77);
    }
    assert_eq!(server.tcp(&question(OTHER, RecordType::A)).answers.len(), 1);
    assert_eq!(upstream.asked_udp() + upstream.asked_tcp(), 1);
    assert_eq!(server.count("coredns_cache_hits", "success"), 3);
    assert_eq!(server.count("coredns_cache_misses", ""), 1);
    assert_eq!(server.count("coredns_cache_entries", "success"), 1);
    assert_eq!(server.count("coredns_dns_responses", "cache"), 3);
    // Another type, and what the client asks for beside, are other questions.
    server.udp(&question(OTHER, RecordType::AAAA));
    server.udp(&question_edns(OTHER, RecordType::A, 1232));
    let mut unchecked = question(OTHER, RecordType::A);
    unchecked.metadata.checking_disabled = true;
    server.udp(&unchecked);
    assert_eq!(upstream.asked_udp(), 4);
}

#[test]
fn a_kept_answer_ages() {
    let upstream = Upstream::giving([192, 0, 2, 1]);
    let server = Running::start(zone(), forward_to(&[upstream.address]));
    let ttl = || server.udp(&question(OTHER, RecordType::A)).answers[0].ttl;
    assert_eq!(ttl(), 77);
    let start = Instant::now();
    while ttl() == 77 {
        assert!(start.elapsed() < Duration::from_secs(3), "a second takes one off");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!((ttl(), upstream.asked_udp()), (76, 1));
}

/// A denial by the zone `example.org`, which may be kept so many seconds.
fn denial(asked: &Message, code: ResponseCode, minimum: u32) -> Message {
    let mut message = answer(asked, &[]);
    message.metadata.response_code = code;
    let name = |text| Name::from_ascii(text).expect("a name");
    let soa = SOA::new(name("ns.example.org."), name("root.example.org."), 1, 1, 1, 1, minimum);
    message.add_authority(Record::from_rdata(name("example.org."), 3600, RData::SOA(soa)));
    message
}

#[test]
fn a_denial_is_kept_for_a_moment_and_one_without_soa_or_a_failure_is_not() {
    for (code, asked_twice) in
        [(ResponseCode::NXDomain, 1), (ResponseCode::NoError, 1), (ResponseCode::ServFail, 2)]
    {
        let upstream = Upstream::start(move |asked, _| vec![denial(asked, code, 60)]);
        let server = Running::start(zone(), forward_to(&[upstream.address]));
        for _ in 0..2 {
            let reply = server.udp(&question(OTHER, RecordType::A));
            assert_eq!((reply.metadata.response_code, reply.answers.len()), (code, 0));
        }
        assert_eq!(upstream.asked_udp(), asked_twice, "{code}");
        assert_eq!(server.count("coredns_cache_hits", "denial"), 2 - asked_twice as u64);
    }
    let upstream = Upstream::start(|asked, _| {
        let mut message = answer(asked, &[]);
        message.metadata.response_code = ResponseCode::NXDomain;
        vec![message]
    });
    let server = Running::start(zone(), forward_to(&[upstream.address]));
    (0..2).for_each(|_| drop(server.udp(&question(OTHER, RecordType::A))));
    assert_eq!(upstream.asked_udp(), 2);
}

#[test]
fn names_of_the_cluster_are_never_kept() {
    let server = Running::start(zone(), forward_to(&[closed()]));
    let name = "nobody.dev.svc.cluster.local.";
    let code = || server.udp(&question(name, RecordType::A)).metadata.response_code;
    assert_eq!(code(), ResponseCode::NXDomain);
    let mut more = events();
    more.push(dns_cluster::cluster_ip("dev/nobody", &["10.96.0.77"], &[]));
    server.zone.store(Arc::new(zone_of(settings(), more)));
    assert_eq!(code(), ResponseCode::NoError);
    server.zone.store(Arc::new(zone()));
    assert_eq!(code(), ResponseCode::NXDomain);
    assert_eq!(server.count("coredns_cache_entries", ""), 0);
}

#[test]
fn equal_questions_on_their_way_are_asked_once() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Mutex::new(released);
    let upstream = Upstream::start(move |asked, _| {
        released.lock().expect("no panic").recv().expect("the test goes on");
        vec![answer(asked, &[a_record(asked, [192, 0, 2, 1])])]
    });
    let server = Running::start(zone(), forward_to(&[upstream.address]));
    let clients: Vec<_> = (0..20).map(|_| server.udp_socket()).collect();
    for client in &clients {
        client.send(&question(OTHER, RecordType::A).to_vec().expect("encodes")).expect("sends");
    }
    server.await_count("dns_forward_coalesced", "", 19);
    release.send(()).expect("the upstream waits");
    for client in &clients {
        let reply = Message::from_vec(&dns_client::receive(client).expect("a reply")).expect("decodes");
        assert_eq!(lines(&reply.answers), ["wWw.example.ORG. A 192.0.2.1"]);
    }
    assert_eq!(upstream.asked_udp(), 1);
}

#[test]
fn an_answer_that_waits_holds_up_no_other_on_its_connection() {
    let dead = Upstream::start(|_, _| vec![]);
    let server = Running::start(zone(), forward_to(&[dead.address]));
    let mut stream = server.tcp_stream();
    let waiting = question(OTHER, RecordType::A);
    let quick = question("ent.dev.svc.cluster.local.", RecordType::A);
    send_tcp(&mut stream, &waiting.to_vec().expect("encodes"));
    send_tcp(&mut stream, &quick.to_vec().expect("encodes"));
    let mut receive = || Message::from_vec(&receive_tcp(&mut stream).expect("a reply")).expect("decodes");
    assert_eq!(receive().metadata.id, quick.metadata.id);
    let late = receive();
    assert_eq!(
        (late.metadata.id, late.metadata.response_code),
        (waiting.metadata.id, ResponseCode::ServFail)
    );
}

#[test]
fn an_upstream_that_leads_back_to_us_is_found_and_left_alone() {
    let back: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
    let to = back.clone();
    // It asks whom it is told to, as a resolver on this machine would that has us for its upstream.
    let circle = Upstream::start(move |asked, _| {
        let Some(to) = *to.lock().expect("no panic") else { return vec![] };
        let socket = UdpSocket::bind(ANY_PORT).expect("binds");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("sets");
        socket.send_to(&asked.to_vec().expect("encodes"), to).expect("sends");
        dns_client::receive(&socket)
            .ok()
            .and_then(|octets| Message::from_vec(&octets).ok())
            .into_iter()
            .collect()
    });
    let good = Upstream::giving([192, 0, 2, 2]);
    let listen = unused(79);
    *back.lock().expect("no panic") = Some(listen);
    let settings = ForwardSettings { probe_loops: true, ..forward_to(&[circle.address, good.address]) };
    let server = Running::try_start(zone(), settings, vec![listen]).expect("starts");
    server.await_count("dns_forward_loops", "", 1);
    let before = circle.asked_udp();
    let reply = server.udp(&question(OTHER, RecordType::A));
    assert_eq!(lines(&reply.answers), ["wWw.example.ORG. A 192.0.2.2"]);
    assert_eq!(circle.asked_udp(), before);
    assert_eq!(server.udp(&question("ent.dev.svc.cluster.local.", RecordType::A)).answers.len(), 1);
}
