//! Messages that no client of ours sends, by the thousand: nothing may panic, and what is answered must be sound.
//!
//! The corpus in `tests/dns_corpus` is replayed as it is, then mutated: as often as `PROPTEST_CASES` says for other
//! property tests (`tools/test --long` says ten times as often), or for `TIDEGATE_FUZZ_SECONDS`. A message that breaks
//! something is printed in the form of the corpus, so that it can be put there.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, MessageType};

use super::forward::{ForwardSettings, Forwarder};
use super::query::Query;
use super::responder::{Answer, Client, Responder};
use super::{Counters, Type, Zone, ZoneSettings};
use crate::cluster::{
    Cluster, Dirty, Endpoint, EndpointSlice, Event, ObjectName, Service, ServiceKind, ServicePort, SlicePort,
};
use tidegate_dataplane::net::Protocol;

/// Mutated messages for each case of a property test.
const MUTATIONS_PER_CASE: u64 = 200;
const CASES: u64 = 256;

/// A small generator of numbers that do not repeat (xorshift64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next() % limit.max(1)
    }

    /// Changes a message in one to four places, the way that breaks parsers: lengths, counts, pointers, cuts, splices.
    fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut message = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(message.len());
            match self.below(8) {
                0 => message.truncate(at),
                1 => message.insert(at.min(message.len()), self.next() as u8),
                2 if !message.is_empty() => drop(message.remove(at)),
                3 if !message.is_empty() => message[at] ^= 1 << self.below(8),
                4 if !message.is_empty() => message[at] = [0, 1, 63, 64, 0xc0, 0xff][self.below(6)],
                5 if message.len() > 12 => message[self.below(12)] = self.next() as u8,
                6 => {
                    let other = &corpus[self.below(corpus.len())];
                    message.truncate(at);
                    message.extend_from_slice(&other[self.below(other.len())..]);
                }
                _ => (0..self.below(40)).for_each(|_| message.push(self.next() as u8)),
            }
        }
        message
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dns_corpus");
    let mut files: Vec<_> =
        std::fs::read_dir(directory).expect("the corpus").map(|f| f.expect("a file").path()).collect();
    files.sort();
    files.iter().map(|file| from_hex(&std::fs::read_to_string(file).expect("text"))).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).expect("digits"), 16).expect("digits");
    digits.chunks(2).map(pair).collect()
}

fn to_hex(message: &[u8]) -> String {
    message.iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}

/// A Service with ClusterIPs and a headless one whose answers do not fit a datagram.
fn responder() -> Arc<Responder> {
    let name = |name: &str| ObjectName::new("dev", name);
    let ports = vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }];
    let service = |own: &str, kind| {
        let service = Service {
            name: name(own),
            kind,
            ports: ports.clone(),
            foreign_proxy: false,
            traffic: crate::traffic::Traffic::default(),
        };
        Event::ServiceApplied(Arc::new(service))
    };
    let endpoint = |last: u8| Endpoint::ready_at([10, 1, 0, last].into());
    let slice = EndpointSlice {
        name: name("web-1"),
        service: name("web"),
        endpoints: (0..200).map(endpoint).collect(),
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80 }],
    };
    let (mut cluster, mut dirty) = (Cluster::default(), Dirty::default());
    for event in [
        service("ent", ServiceKind::ClusterIp(vec![[10, 96, 0, 11].into()])),
        service("web", ServiceKind::Headless),
        service("outside", ServiceKind::ExternalName("www.example.org".into())),
        Event::SliceApplied(Arc::new(slice)),
    ] {
        cluster.apply(event, &mut dirty);
    }
    let mut zone = Zone::new(ZoneSettings::default()).expect("a zone").updated(&cluster, &dirty);
    zone.set_synced();
    let forwarder = Forwarder::new(ForwardSettings::default(), &[], zone.origin()).expect("a forwarder");
    let zone = Arc::new(ArcSwap::from_pointee(zone));
    Arc::new(Responder::new(zone, Arc::new(forwarder), Arc::new(Counters::default()), false))
}

/// Puts a message to the parser and to the whole server, and looks at what they say.
fn check(responder: &Responder, message: &[u8]) {
    let mut buffer = [0; _];
    if let Some(query) = Query::parse(message, &mut buffer) {
        // Options are nothing to us, whatever is in them; hickory insists on their content.
        let mut plain = message[..12 + query.question.len()].to_vec();
        if query.edns().is_some() {
            let opt = plain.len();
            plain.extend_from_slice(&message[opt..opt + 9]);
            plain.extend_from_slice(&[0, 0]);
        }
        let decoded = Message::from_vec(&plain).expect("hickory reads what we read");
        let [question] = &decoded.queries[..] else { panic!("one question") };
        assert_eq!(Type(question.query_type().into()), query.qtype());
        let labels: Vec<&[u8]> = question.name().iter().collect();
        let own = query.name().to_name();
        let own: Vec<&[u8]> = own.labels().collect();
        assert!(labels.len() == own.len());
        assert!(labels.iter().zip(own).all(|(theirs, ours)| theirs.eq_ignore_ascii_case(ours)));
        let theirs = decoded.edns.as_ref().map(|edns| (edns.max_payload(), edns.flags().dnssec_ok));
        // hickory raises a payload that is too low when it reads it, we when we use it.
        let ours = query.edns().map(|edns| (edns.payload.max(512), edns.dnssec_ok));
        assert_eq!(theirs.map(|(payload, dnssec_ok)| (payload.max(512), dnssec_ok)), ours);
    }
    let mut reply = Vec::new();
    for tcp in [false, true] {
        let client = Client { address: SocketAddr::from(([127, 0, 0, 1], 4096)), tcp };
        match responder.answer(message, client, &mut reply) {
            Answer::Ready => {
                assert!(reply.len() <= if tcp { 65_535 } else { 1232 }, "{} octets", reply.len());
                assert_eq!(reply.get(..2), message.get(..2), "the id");
                let reply = Message::from_vec(&reply).expect("a sound reply");
                assert_eq!(reply.metadata.message_type, MessageType::Response);
            }
            Answer::Silence => assert!(message.len() < 12 || message[2] & 0x80 != 0),
            Answer::Later(_) => panic!("nobody may ask others"),
        }
    }
}

/// Says which message it was before a panic goes on.
struct Culprit<'m>(&'m [u8]);

impl Drop for Culprit<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the message: {}", to_hex(self.0));
        }
    }
}

#[test]
fn the_corpus_is_answered_soundly() {
    let (responder, corpus) = (responder(), corpus());
    assert!(corpus.len() >= 20, "{} messages", corpus.len());
    for message in &corpus {
        let _culprit = Culprit(message);
        check(&responder, message);
    }
}

#[test]
fn mutations_of_the_corpus_are_answered_soundly() {
    let (responder, corpus) = (responder(), corpus());
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let until = number("TIDEGATE_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let seed = number("TIDEGATE_FUZZ_SEED").unwrap_or(0x7469_6465_6761_7465);
    let count = number("PROPTEST_CASES").unwrap_or(CASES) * MUTATIONS_PER_CASE;
    let (mut noise, mut done) = (Noise(seed.max(1)), 0_u64);
    while until.map_or(done < count, |until| Instant::now() < until) {
        let message = noise.mutate(&corpus);
        let _culprit = Culprit(&message);
        check(&responder, &message);
        done += 1;
    }
    println!("dns: {done} messages");
}
