//! What becomes of a question.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use hickory_proto::op::{Query as AskedQuery, ResponseCode};
use hickory_proto::rr::{self, DNSClass};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

use super::counters::Exchange;
use super::events::{Event, ForwardResult, Maker};
use super::forward::{Failure, Forwarder, Manner, Place, Source};
use super::query::HEADER_OCTETS;
use super::reply::{Reply, Spelling};
use super::writer::Writer;
use super::{Counters, Name, Outcome, Record, Type, Zone, resolve};

/// Answers one message after the other; shared by all sockets.
///
/// A plain question about a name of ours is answered from the zone's records as octets. Everything else goes through
/// hickory's decoder and encoder: what others are asked about, and what is odd.
pub(super) struct Responder {
    pub(super) zone: Arc<ArcSwap<Zone>>,
    pub(super) forwarder: Arc<Forwarder>,
    pub(super) counters: Arc<Counters>,
    /// Log a line for each answer.
    pub(super) log_queries: AtomicBool,
    /// Grows with each answer: where the next begins among equal records.
    turn: AtomicUsize,
    writer: Mutex<Writer>,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) tcp: bool,
}

/// What there is to send.
pub(super) enum Answer {
    /// What stands in the buffer.
    Ready,
    /// Nothing: the message is none that may be answered.
    Silence,
    /// What [`Responder::finish`] will give.
    Later(Box<Later>),
}

/// A question that somebody else has to be asked about.
pub(super) struct Later {
    request: Request,
    client: Client,
    began: Instant,
    place: Place,
    query: AskedQuery,
    /// Records that come before the answer's own: aliases that lead there.
    aliases: Vec<rr::Record>,
}

/// What is left to do after the zone has been asked.
enum Step {
    Reply(Reply, Maker),
    Ask { place: Place, query: AskedQuery, aliases: Vec<rr::Record> },
}

impl Responder {
    pub(super) fn new(
        zone: Arc<ArcSwap<Zone>>,
        forwarder: Arc<Forwarder>,
        counters: Arc<Counters>,
        log_queries: bool,
    ) -> Self {
        let (turn, writer) = (AtomicUsize::new(0), Mutex::default());
        Self { zone, forwarder, counters, log_queries: AtomicBool::new(log_queries), turn, writer }
    }

    /// Answers a message into `reply`, as far as that can be done without waiting.
    pub(super) fn answer(&self, message: &[u8], client: Client, reply: &mut Vec<u8>) -> Answer {
        let began = Instant::now();
        if let Some((qtype, code)) = self.answer_plain(message, client, reply) {
            self.note(message, client, began, Some(qtype), code, Maker::Kubernetes, reply.len());
            return Answer::Ready;
        }
        // QR: what answers responses can be made to talk to itself for ever.
        if message.len() < HEADER_OCTETS || message.get(2).is_none_or(|flags| flags & 0x80 != 0) {
            self.counters.count(Event::Ignored);
            return Answer::Silence;
        }
        self.answer_any(message, client, began, reply)
    }

    fn answer_plain(&self, message: &[u8], client: Client, reply: &mut Vec<u8>) -> Option<(Type, u16)> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.answer(&self.zone.load(), message, client.tcp, turn, reply)
    }

    /// Answers a message that is not plain, or not about a name of ours.
    fn answer_any(&self, message: &[u8], client: Client, began: Instant, reply: &mut Vec<u8>) -> Answer {
        let mut refuse = |code: ResponseCode| {
            reply.clear();
            reply.extend_from_slice(&bare_header(message, code));
            self.note(message, client, began, None, code.into(), Maker::Nobody, reply.len());
            Answer::Ready
        };
        let [_, _, flags, _, qd @ ..] = message else { return refuse(ResponseCode::FormErr) };
        if flags & 0x78 != 0 {
            return refuse(ResponseCode::NotImp);
        }
        if !qd.starts_with(&[0, 1]) || !is_spelled_out(message.get(HEADER_OCTETS..).unwrap_or_default()) {
            return refuse(ResponseCode::FormErr);
        }
        let protocol = if client.tcp { Protocol::Tcp } else { Protocol::Udp };
        let Ok(request) = Request::from_bytes(message.to_vec(), client.address, protocol) else {
            return refuse(ResponseCode::FormErr);
        };
        reply.clear();
        match self.decide(&request) {
            Step::Reply(answer, maker) => {
                let code = answer.code.into();
                answer.encode(&request, reply);
                self.note(message, client, began, asked_type(&request), code, maker, reply.len());
                Answer::Ready
            }
            Step::Ask { place, query, aliases } => {
                Answer::Later(Box::new(Later { request, client, began, place, query, aliases }))
            }
        }
    }

    /// Asks others and returns the reply.
    pub(super) async fn finish(&self, later: Later) -> Vec<u8> {
        let Later { request, client, began, place, query, aliases } = later;
        let answer = self.forwarder.ask(place, &query, manner(&request), &self.counters).await;
        self.counters.count_forward(match &answer {
            Ok(_) => ForwardResult::Ok,
            Err(Failure::Unanswered) => ForwardResult::Failed,
        });
        let maker = match &answer {
            Ok((_, Source::Cache)) => Maker::Cache,
            _ => Maker::Forward,
        };
        let answer = match answer {
            Ok((message, _)) if aliases.is_empty() => Reply::from_upstream(message, query.name()),
            // A target that does not exist leaves the aliases alone (S11).
            Ok((message, _))
                if matches!(
                    message.metadata.response_code,
                    ResponseCode::NoError | ResponseCode::NXDomain
                ) =>
            {
                let records = aliases.into_iter().chain(message.answers).collect();
                Reply::authoritative(ResponseCode::NoError, records)
            }
            // DEVIATION: an alias whose target nobody could tell about is NODATA for CoreDNS, which clients may keep;
            // SERVFAIL makes them ask again.
            _ => Reply::bare(ResponseCode::ServFail),
        };
        let (code, mut reply) = (answer.code.into(), Vec::new());
        answer.encode(&request, &mut reply);
        self.note(request.as_slice(), client, began, asked_type(&request), code, maker, reply.len());
        reply
    }

    /// Decides without waiting for anything.
    fn decide(&self, request: &Request) -> Step {
        let bare = |code| Step::Reply(Reply::bare(code), Maker::Nobody);
        let [question] = request.queries.queries() else { return bare(ResponseCode::FormErr) };
        if request.version() > 0 {
            return bare(ResponseCode::BADVERS);
        }
        if question.query_class() != DNSClass::IN {
            return bare(ResponseCode::Refused);
        }
        let zone = self.zone.load();
        let spelling = Spelling::new(question.original().name(), zone.origin());
        let Some(name) = spelling.key() else { return bare(ResponseCode::FormErr) };
        let qtype = Type(question.query_type().into());
        let negative = |code, soa: &Record| {
            let reply = Reply::authoritative(code, vec![]).with_authority(spelling.record(soa));
            Step::Reply(reply, Maker::Kubernetes)
        };
        match resolve(&zone, name.as_name_ref(), qtype).outcome {
            Outcome::Answer { records, additionals } => {
                let mut reply = Reply::authoritative(ResponseCode::NoError, spelling.records(&records))
                    .with_additionals(spelling.records(&additionals));
                reply.rotate(self.turn.fetch_add(1, Ordering::Relaxed));
                Step::Reply(reply, Maker::Kubernetes)
            }
            Outcome::NoData(soa) => negative(ResponseCode::NoError, &soa),
            Outcome::NxDomain(soa) => negative(ResponseCode::NXDomain, &soa),
            Outcome::Unsynced(soa) => negative(ResponseCode::ServFail, &soa),
            Outcome::Refuse => bare(ResponseCode::Refused),
            Outcome::Forward => {
                let withheld = zone.settings().aaaa_nodata && qtype == Type::AAAA;
                self.forward_step(request, &name, question.original(), withheld)
            }
            Outcome::Chase { aliases, target } => {
                let query = AskedQuery::query(spelling.name(&target), question.query_type());
                let withheld = zone.settings().aaaa_nodata && qtype == Type::AAAA;
                self.chase_step(request, &target, query, spelling.records(&aliases), withheld)
            }
        }
    }

    fn forward_step(&self, request: &Request, name: &Name, query: &AskedQuery, withheld: bool) -> Step {
        if self.forwarder.note_loop(name, &self.counters) {
            return Step::Reply(Reply::bare(ResponseCode::Refused), Maker::Nobody);
        }
        match self.forwarder.admit(name, request.src().ip()) {
            Some(_) if withheld => Step::Reply(Reply::bare(ResponseCode::NoError), Maker::Nobody),
            Some(place) => match place.or_busy(&self.counters) {
                Some(place) => Step::Ask { place, query: query.clone(), aliases: Vec::new() },
                None => self.refuse(),
            },
            None => self.refuse(),
        }
    }

    fn refuse(&self) -> Step {
        self.counters.count_forward(ForwardResult::Refused);
        Step::Reply(Reply::bare(ResponseCode::Refused), Maker::Nobody)
    }

    /// Without somebody to ask, the aliases alone are the answer (S11).
    fn chase_step(
        &self,
        request: &Request,
        target: &Name,
        query: AskedQuery,
        aliases: Vec<rr::Record>,
        withheld: bool,
    ) -> Step {
        match self.forwarder.admit(target, request.src().ip()) {
            Some(place) if !withheld => match place.or_busy(&self.counters) {
                Some(place) => Step::Ask { place, query, aliases },
                None => self.refuse(),
            },
            _ => Step::Reply(Reply::authoritative(ResponseCode::NoError, aliases), Maker::Kubernetes),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one place where all that is counted comes together")]
    fn note(
        &self,
        message: &[u8],
        client: Client,
        began: Instant,
        qtype: Option<Type>,
        code: u16,
        maker: Maker,
        answered_octets: usize,
    ) {
        let exchange = Exchange {
            qtype,
            tcp: client.tcp,
            client: client.address.ip(),
            asked_octets: message.len(),
            began,
            code,
            maker,
            answered_octets,
        };
        self.counters.count_exchange(&exchange);
        if self.log_queries.load(Ordering::Relaxed) {
            log(message, &exchange, client);
        }
    }
}

/// Writes the line of the query log.
fn log(message: &[u8], exchange: &Exchange, client: Client) {
    let octets = message.get(HEADER_OCTETS..).unwrap_or_default();
    let name = Name::from_labels(super::name::labels_of(octets));
    let name = name.map_or_else(|| "?".to_owned(), |name| name.to_string());
    let qtype = exchange.qtype.map_or_else(|| "?".to_owned(), |qtype| qtype.to_string());
    let transport = if client.tcp { "tcp" } else { "udp" };
    tracing::info!(
        target: "tidegate::dns::query",
        "{} {transport} {qtype} {name} {} octets -> {} {} octets in {:?}",
        client.address,
        exchange.asked_octets,
        ResponseCode::from((exchange.code >> 4) as u8, (exchange.code & 15) as u8),
        exchange.answered_octets,
        exchange.began.elapsed(),
    );
}

fn asked_type(request: &Request) -> Option<Type> {
    request.queries.queries().first().map(|query| Type(query.query_type().into()))
}

/// Makes a header alone, for a message that is not looked into or cannot be read: with its id, OPCODE and RD.
fn bare_header(message: &[u8], code: ResponseCode) -> [u8; HEADER_OCTETS] {
    let at = |place: usize| message.get(place).copied().unwrap_or(0);
    let mut header = [0; HEADER_OCTETS];
    header[..4].copy_from_slice(&[at(0), at(1), 0x80 | at(2) & 0x79, code.low()]);
    header
}

/// Says whether a name has no pointers. In a question they could point only into the header, and the reply's header is
/// another one.
fn is_spelled_out(mut octets: &[u8]) -> bool {
    loop {
        match octets.split_first() {
            Some((0, _)) => return true,
            Some((&length @ 1..=63, rest)) => match rest.get(usize::from(length)..) {
                Some(rest) => octets = rest,
                None => return false,
            },
            _ => return false,
        }
    }
}

fn manner(request: &Request) -> Manner {
    Manner {
        recursion_desired: request.metadata.recursion_desired,
        checking_disabled: request.metadata.checking_disabled,
        edns_dnssec_ok: request.edns.as_ref().map(|edns| edns.flags().dnssec_ok),
        tcp: request.protocol() != Protocol::Udp,
    }
}
