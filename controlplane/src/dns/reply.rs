//! From a verdict or an upstream's answer to a message on the wire, by hickory's encoder.

use std::iter;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{self, RData, rdata};
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use hickory_server::zone_handler::{MessageResponseBuilder, Queries};

use super::name::labels_of;
use super::writer::{MIN_PAYLOAD, OPT_OCTETS, SOA_TIMERS, UDP_PAYLOAD};
use super::{Data, Name, Owner, Record};

/// A response before it is encoded.
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    authoritative: bool,
    recursion_available: bool,
    authentic_data: bool,
    truncated: bool,
    pub(super) answers: Vec<rr::Record>,
    authorities: Vec<rr::Record>,
    additionals: Vec<rr::Record>,
}

impl Reply {
    /// Makes a reply of our own without records.
    pub(super) fn bare(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            recursion_available: true,
            authentic_data: false,
            truncated: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }

    /// Makes a reply with the authority of the zone.
    pub(super) fn authoritative(code: ResponseCode, answers: Vec<rr::Record>) -> Self {
        Self { authoritative: true, answers, ..Self::bare(code) }
    }

    pub(super) fn with_authority(self, soa: rr::Record) -> Self {
        Self { authorities: vec![soa], ..self }
    }

    pub(super) fn with_additionals(self, additionals: Vec<rr::Record>) -> Self {
        Self { additionals, ..self }
    }

    /// Hands on an upstream's answer with its flags and records as they are, but for its OPT and the case of the name
    /// that was asked: it may have been asked for by somebody else, who spelled it otherwise.
    pub(super) fn from_upstream(message: Message, asked: &rr::Name) -> Self {
        let mut answers = message.answers;
        answers
            .iter_mut()
            .filter(|record| record.name == *asked)
            .for_each(|record| record.name = asked.clone());
        Self {
            code: message.metadata.response_code,
            authoritative: message.metadata.authoritative,
            recursion_available: message.metadata.recursion_available,
            authentic_data: message.metadata.authentic_data,
            truncated: message.metadata.truncation,
            answers,
            authorities: message.authorities,
            additionals: message.additionals,
        }
    }

    /// Moves the first addresses behind the others, so that clients spread over them; aliases stay in front.
    pub(super) fn rotate(&mut self, turn: usize) {
        let aliases = self.answers.iter().take_while(|record| record.record_type() == rr::RecordType::CNAME);
        let start = aliases.count();
        if let Some(rotating @ [_, _, ..]) = self.answers.get_mut(start..) {
            let by = turn % rotating.len();
            rotating.rotate_left(by);
        }
    }

    /// Encodes the reply, cut to what the client can take; one that cannot be encoded becomes SERVFAIL.
    pub(super) fn encode(mut self, request: &Request, octets: &mut Vec<u8>) {
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        let limit = match (request.protocol(), &request.edns) {
            (Protocol::Udp, Some(asked)) => asked.max_payload().clamp(MIN_PAYLOAD, UDP_PAYLOAD),
            (Protocol::Udp, None) => MIN_PAYLOAD,
            _ => u16::MAX,
        };
        self.fit(&request.queries, if edns.is_some() { limit - OPT_OCTETS } else { limit });
        if self.emit(request, edns.as_ref(), limit, octets).is_err() {
            octets.clear();
            let _ = Self::bare(ResponseCode::ServFail).emit(request, edns.as_ref(), limit, octets);
        }
    }

    fn emit(
        &self,
        request: &Request,
        edns: Option<&Edns>,
        limit: u16,
        octets: &mut Vec<u8>,
    ) -> Result<(), hickory_proto::ProtoError> {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = self.code;
        metadata.authoritative = self.authoritative;
        metadata.recursion_available = self.recursion_available;
        metadata.authentic_data = self.authentic_data;
        metadata.truncation = self.truncated;
        let response = MessageResponseBuilder::new(&request.queries, edns).build(
            metadata,
            &self.answers,
            &self.authorities,
            iter::empty(),
            &self.additionals,
        );
        let mut encoder = BinEncoder::new(octets);
        encoder.set_max_size(limit);
        response.destructive_emit(&mut encoder).map(drop)
    }

    /// Drops what does not fit: additional records first, without TC (RFC 2181 §9); then the last answers,
    /// with TC.
    ///
    /// The encoder would cut too, but put the OPT last and lose it (RFC 6891 §7).
    /// DEVIATION: it spells the first owner out, points later ones at it and not at the question,
    /// and compresses the first 120 names of a message only; a full datagram holds two or three addresses
    /// less for it.
    fn fit(&mut self, queries: &Queries, room: u16) {
        let records = || self.answers.iter().chain(&self.authorities).chain(&self.additionals);
        let bound =
            records().map(most_octets).try_fold(12 + queries.as_bytes().len(), |sum, size| Some(sum + size?));
        if bound.is_some_and(|bound| bound <= usize::from(room)) {
            return;
        }
        let mut octets = Vec::with_capacity(usize::from(room));
        let mut encoder = BinEncoder::new(&mut octets);
        encoder.set_max_size(room);
        let response = MessageResponseBuilder::new(queries, None).build(
            Metadata::new(0, MessageType::Response, OpCode::Query),
            &self.answers,
            &self.authorities,
            iter::empty(),
            &self.additionals,
        );
        // An encoder that fails altogether fails again when the reply is sent, and says so there.
        let Ok(written) = response.destructive_emit(&mut encoder) else { return };
        let counts = written.counts();
        let (answers, authorities) = (usize::from(counts.answers), usize::from(counts.authorities));
        if usize::from(counts.additionals) < self.additionals.len() {
            self.additionals.clear();
        }
        if answers < self.answers.len() {
            self.answers.truncate(answers);
            self.authorities.clear();
            self.truncated = true;
        } else if authorities < self.authorities.len() {
            self.authorities.truncate(authorities);
            self.truncated = true;
        }
    }
}

/// Returns how many octets a record takes at most; `None` for data that we do not make ourselves.
fn most_octets(record: &rr::Record) -> Option<usize> {
    let data = match &record.data {
        RData::A(_) => 4,
        RData::AAAA(_) => 16,
        RData::SRV(srv) => 6 + name_octets(&srv.target),
        RData::PTR(rdata::PTR(name)) | RData::CNAME(rdata::CNAME(name)) | RData::NS(rdata::NS(name)) => {
            name_octets(name)
        }
        RData::SOA(soa) => 20 + name_octets(&soa.mname) + name_octets(&soa.rname),
        _ => return None,
    };
    Some(name_octets(&record.name) + 10 + data)
}

fn name_octets(name: &rr::Name) -> usize {
    1 + name.iter().map(|label| 1 + label.len()).sum::<usize>()
}

/// Spells names for one question: its own as it was asked, and names of the zone in its case (S0).
///
/// Clients that randomise case (0x20) see theirs come back; so CoreDNS does it too.
pub(super) struct Spelling<'q> {
    asked: &'q rr::Name,
    octets: Vec<u8>,
    origin: &'q Name,
}

impl<'q> Spelling<'q> {
    pub(super) fn new(asked: &'q rr::Name, origin: &'q Name) -> Self {
        let mut octets = Vec::with_capacity(64);
        for label in asked {
            octets.push(label.len() as u8);
            octets.extend_from_slice(label);
        }
        octets.push(0);
        Self { asked, octets, origin }
    }

    /// Returns the question's name as a key.
    pub(super) fn key(&self) -> Option<Name> {
        Name::from_labels(labels_of(&self.octets))
    }

    pub(super) fn records(&self, records: &[Record]) -> Vec<rr::Record> {
        records.iter().map(|record| self.record(record)).collect()
    }

    pub(super) fn record(&self, record: &Record) -> rr::Record {
        let owner = match &record.owner {
            Owner::Question => self.asked.clone(),
            Owner::Name(name) => self.name(name),
        };
        let data = match &record.data {
            Data::A(address) => RData::A((*address).into()),
            Data::Aaaa(address) => RData::AAAA((*address).into()),
            Data::Ns(name) => RData::NS(rdata::NS(self.name(name))),
            Data::Cname(name) => RData::CNAME(rdata::CNAME(self.name(name))),
            Data::Ptr(name) => RData::PTR(rdata::PTR(self.name(name))),
            Data::Txt(text) => RData::TXT(rdata::TXT::from_bytes(vec![text.as_bytes()])),
            Data::Srv { weight, port, target } => {
                RData::SRV(rdata::SRV::new(0, *weight, *port, self.name(target)))
            }
            Data::Soa { server, mailbox, serial, minimum } => {
                let [refresh, retry, expire] = SOA_TIMERS;
                let (server, mailbox) = (self.name(server), self.name(mailbox));
                RData::SOA(rdata::SOA::new(server, mailbox, *serial, refresh, retry, expire, *minimum))
            }
        };
        rr::Record::from_rdata(owner, record.ttl, data)
    }

    /// Gives a name of the zone the case that the question has in the zone's part.
    pub(super) fn name(&self, name: &Name) -> rr::Name {
        let zone = self.origin.octets();
        let suffix = self.octets.len().checked_sub(zone.len()).and_then(|at| self.octets.get(at..));
        let suffix = suffix.filter(|suffix| suffix.eq_ignore_ascii_case(zone));
        let spelled = match (name.octets().strip_suffix(zone), suffix) {
            (Some(prefix), Some(suffix)) if name.is_within(self.origin) => [prefix, suffix].concat(),
            _ => name.octets().to_vec(),
        };
        // Labels of a Name are all valid: the fallback is never taken.
        rr::Name::from_labels(labels_of(&spelled)).unwrap_or_else(|_| rr::Name::root())
    }
}
