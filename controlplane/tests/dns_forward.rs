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
    ForwardSettings { upstreams: upstreams.to_vec(), stubs: vec![], allow }
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
    let reply = server.tcp(&question(OTHER, RecordType::A));
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
    assert_eq!(server.udp(&question(OTHER, RecordType::A)).answers.len(), 1);
    assert!(start.elapsed() < Duration::from_secs(1), "the second question goes to the live one at once");
    assert_eq!((dead.asked_udp(), alive.asked_udp()), (1, 2));
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
