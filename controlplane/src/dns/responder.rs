//! What becomes of a question.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use hickory_proto::op::{OpCode, Query, ResponseCode};
use hickory_proto::rr::{self, DNSClass};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};

use super::counters::ForwardResult;
use super::forward::{Failure, Forwarder, Manner, Route};
use super::reply::{Reply, Spelling};
use super::{Counters, Name, Outcome, Record, Type, Zone, resolve};

/// Answers one request at a time; shared by all sockets.
pub(super) struct Responder {
    pub(super) zone: Arc<ArcSwap<Zone>>,
    pub(super) forwarder: Forwarder,
    pub(super) counters: Arc<Counters>,
    /// Grows with each answer: where the next begins among equal records.
    pub(super) turn: AtomicUsize,
}

/// What is left to do after the zone has been asked.
enum Step<'h> {
    Reply(Reply),
    /// Ask the route, hand its answer on.
    Forward(&'h Route, Query),
    /// Ask the route about an alias' target, put its answer behind the aliases.
    Chase(&'h Route, Query, Vec<rr::Record>),
}

#[async_trait]
impl RequestHandler for Responder {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        handle: R,
    ) -> ResponseInfo {
        let qtype = request.queries.queries().first().map(|query| Type(query.query_type().into()));
        self.counters.count_request(qtype, request.protocol() != Protocol::Udp);
        let reply = match self.decide(request) {
            Step::Reply(reply) => reply,
            Step::Forward(route, query) => self.forward(route, &query, manner(request)).await,
            Step::Chase(route, query, aliases) => self.chase(route, &query, manner(request), aliases).await,
        };
        self.counters.count_response(reply.code.into());
        reply.send(request, handle).await
    }
}

impl Responder {
    /// Decides without waiting for anything.
    fn decide(&self, request: &Request) -> Step<'_> {
        let bare = |code| Step::Reply(Reply::bare(code));
        if request.metadata.op_code != OpCode::Query {
            return bare(ResponseCode::NotImp);
        }
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
            Step::Reply(Reply::authoritative(code, vec![]).with_authority(spelling.record(soa)))
        };
        match resolve(&zone, name.as_name_ref(), qtype).outcome {
            Outcome::Answer { records, additionals } => {
                let mut reply = Reply::authoritative(ResponseCode::NoError, spelling.records(&records))
                    .with_additionals(spelling.records(&additionals));
                reply.rotate(self.turn.fetch_add(1, Ordering::Relaxed));
                Step::Reply(reply)
            }
            Outcome::NoData(soa) => negative(ResponseCode::NoError, &soa),
            Outcome::NxDomain(soa) => negative(ResponseCode::NXDomain, &soa),
            Outcome::Unsynced(soa) => negative(ResponseCode::ServFail, &soa),
            Outcome::Refuse => bare(ResponseCode::Refused),
            Outcome::Forward => self.forward_step(request, &name, question.original()),
            Outcome::Chase { aliases, target } => {
                let query = Query::query(spelling.name(&target), question.query_type());
                self.chase_step(request, &target, query, spelling.records(&aliases))
            }
        }
    }

    fn forward_step(&self, request: &Request, name: &Name, query: &Query) -> Step<'_> {
        match self.forwarder.route(name, request.src().ip()) {
            Some(_) if self.withheld(query) => Step::Reply(Reply::bare(ResponseCode::NoError)),
            Some(route) => Step::Forward(route, query.clone()),
            None => {
                self.counters.count_forward(ForwardResult::Refused);
                Step::Reply(Reply::bare(ResponseCode::Refused))
            }
        }
    }

    /// Without somebody to ask, the aliases alone are the answer (S11).
    fn chase_step(
        &self,
        request: &Request,
        target: &Name,
        query: Query,
        aliases: Vec<rr::Record>,
    ) -> Step<'_> {
        match self.forwarder.route(target, request.src().ip()) {
            Some(route) if !self.withheld(&query) => Step::Chase(route, query, aliases),
            _ => Step::Reply(Reply::authoritative(ResponseCode::NoError, aliases)),
        }
    }

    fn withheld(&self, query: &Query) -> bool {
        self.zone.load().settings().aaaa_nodata && Type(query.query_type().into()) == Type::AAAA
    }

    async fn forward(&self, route: &Route, query: &Query, manner: Manner) -> Reply {
        let answer = self.forwarder.ask(route, query, manner).await;
        self.count(answer.as_ref().err());
        match answer {
            Ok(message) => Reply::from_upstream(message),
            Err(Failure::Busy) => Reply::bare(ResponseCode::Refused),
            Err(Failure::Unanswered) => Reply::bare(ResponseCode::ServFail),
        }
    }

    /// A target that does not exist leaves the aliases alone; one that nobody could tell about is a failure.
    ///
    /// DEVIATION: there CoreDNS answers NODATA, which clients may keep; SERVFAIL makes them ask again.
    async fn chase(
        &self,
        route: &Route,
        query: &Query,
        manner: Manner,
        mut aliases: Vec<rr::Record>,
    ) -> Reply {
        let answer = self.forwarder.ask(route, query, Manner { recursion_desired: true, ..manner }).await;
        self.count(answer.as_ref().err());
        match answer {
            Ok(message)
                if matches!(
                    message.metadata.response_code,
                    ResponseCode::NoError | ResponseCode::NXDomain
                ) =>
            {
                aliases.extend(message.answers);
                Reply::authoritative(ResponseCode::NoError, aliases)
            }
            _ => Reply::bare(ResponseCode::ServFail),
        }
    }

    fn count(&self, failure: Option<&Failure>) {
        self.counters.count_forward(match failure {
            None => ForwardResult::Ok,
            Some(Failure::Busy) => ForwardResult::Refused,
            Some(Failure::Unanswered) => ForwardResult::Failed,
        });
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
