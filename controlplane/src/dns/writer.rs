//! Answers of our own as octets, without an intermediate form. Read RFC 1035 §4 and RFC 6891 §6 first.

use super::compression::Compression;
use super::query::{HEADER_OCTETS, Query};
use super::{Data, Name, Outcome, Owner, Record, Type, Zone, resolve};

/// Payload of a client that says nothing, and the least that one can say. Source: RFC 6891 §6.2.3.
pub(super) const MIN_PAYLOAD: u16 = 512;
/// The payload that we take over UDP and send at most, octets: what passes without fragments (DNS flag day 2020).
pub(super) const UDP_PAYLOAD: u16 = 1232;
/// Octets of an OPT record without options. Source: RFC 6891 §6.1.2.
pub(super) const OPT_OCTETS: u16 = 11;
/// Refresh, retry and expire of the SOA, seconds; there are no secondaries, so CoreDNS' values.
pub(super) const SOA_TIMERS: [i32; 3] = [7200, 1800, 86_400];

const QR_AA: u8 = 0x84;
const TC: u8 = 0x02;
const RD: u8 = 0x01;
const RA: u8 = 0x80;
const CD: u8 = 0x10;
/// A pointer to the question's name.
const QUESTION_NAME: [u8; 2] = [0xc0, HEADER_OCTETS as u8];
const CLASS_IN: [u8; 2] = [0, 1];

/// The sections of an answer with our authority.
struct Sections<'a> {
    /// The name of the zone, which comes back in the client's case wherever the question has it.
    origin: &'a Name,
    /// RCODE; those of our own fit the header.
    code: u8,
    answers: &'a [Record],
    /// Behind how many of the answers, not counting aliases, the first one is put: clients take the first.
    turn: usize,
    authority: Option<&'a Record>,
    additionals: &'a [Record],
}

/// Writes replies to plain questions about names of ours; one after the other, with the same memory.
pub struct Writer {
    compression: Compression,
    /// The question's name is in `compression`.
    question_noted: bool,
}

impl Default for Writer {
    fn default() -> Self {
        Self { compression: Compression::new(), question_noted: false }
    }
}

impl Writer {
    /// Answers a message into `reply` if it is a plain question that the zone decides, and returns its type and the
    /// code of the answer; `None` leaves it to others.
    ///
    /// `turn` says which of several records comes first. Pure but for the memory: costs the look-up and the octets of
    /// the answer, and one allocation for the list of its records.
    pub fn answer(
        &mut self,
        zone: &Zone,
        message: &[u8],
        tcp: bool,
        turn: usize,
        reply: &mut Vec<u8>,
    ) -> Option<(Type, u16)> {
        let mut name = [0; _];
        let query = Query::parse(message, &mut name)?;
        let outcome = resolve(zone, query.name(), query.qtype()).outcome;
        let (code, answers, additionals, authority) = match &outcome {
            Outcome::Answer { records, additionals } => (0, &records[..], &additionals[..], None),
            Outcome::NoData(soa) => (0, &[][..], &[][..], Some(soa)),
            Outcome::NxDomain(soa) => (3, &[][..], &[][..], Some(soa)),
            Outcome::Unsynced(soa) => (2, &[][..], &[][..], Some(soa)),
            Outcome::Chase { .. } | Outcome::Forward | Outcome::Refuse => return None,
        };
        let limit = match query.edns() {
            _ if tcp => u16::MAX,
            Some(edns) => edns.payload.clamp(MIN_PAYLOAD, UDP_PAYLOAD),
            None => MIN_PAYLOAD,
        };
        let sections = Sections { origin: zone.origin(), code, answers, turn, authority, additionals };
        self.write(reply, &query, &sections, limit);
        Some((query.qtype(), u16::from(code)))
    }

    /// Writes the reply to a question into `message`, cut to what a client takes.
    ///
    /// What does not fit goes: additional records first, all of them and without TC (RFC 2181 §9); then the last
    /// answers, with TC.
    fn write(&mut self, message: &mut Vec<u8>, query: &Query<'_>, sections: &Sections<'_>, limit: u16) {
        self.compression.begin();
        self.question_noted = false;
        message.clear();
        message.extend_from_slice(&[0; HEADER_OCTETS]);
        message.extend_from_slice(query.question);
        let edns = query.edns();
        let room = usize::from(limit - if edns.is_some() { OPT_OCTETS } else { 0 });

        let answers =
            self.write_all(message, query, sections, rotated(sections.answers, sections.turn), room);
        let mut truncated = answers < sections.answers.len();
        let mut authorities = 0;
        if !truncated {
            authorities = self.write_all(message, query, sections, sections.authority.into_iter(), room);
            truncated = authorities < sections.authority.iter().len();
        }
        let mut additionals = 0;
        if !truncated {
            let before = message.len();
            additionals = self.write_all(message, query, sections, sections.additionals.iter(), room);
            if additionals < sections.additionals.len() {
                message.truncate(before);
                additionals = 0;
            }
        }
        if let Some(edns) = edns {
            let [high, low] = UDP_PAYLOAD.to_be_bytes();
            let flags = if edns.dnssec_ok { 0x80 } else { 0 };
            message.extend_from_slice(&[0, 0, 41, high, low, 0, 0, flags, 0, 0, 0]);
            additionals += 1;
        }
        let [id_high, id_low, asked, more, ..] = *query.header;
        let flags = QR_AA | asked & RD | if truncated { TC } else { 0 };
        let mut header = [0; HEADER_OCTETS];
        let counts = [1, answers, authorities, additionals].map(|count| (count as u16).to_be_bytes());
        header[..4].copy_from_slice(&[id_high, id_low, flags, RA | more & CD | sections.code]);
        header[4..].copy_from_slice(counts.as_flattened());
        if let Some(place) = message.first_chunk_mut() {
            *place = header;
        }
    }

    /// Appends records as long as they fit and says how many did.
    fn write_all<'r>(
        &mut self,
        message: &mut Vec<u8>,
        query: &Query<'_>,
        sections: &Sections<'_>,
        records: impl Iterator<Item = &'r Record>,
        room: usize,
    ) -> usize {
        let mut written = 0;
        for record in records {
            let before = message.len();
            self.write_record(message, query, sections.origin, record);
            if message.len() > room {
                message.truncate(before);
                break;
            }
            written += 1;
        }
        written
    }

    fn write_record(&mut self, message: &mut Vec<u8>, query: &Query<'_>, origin: &Name, record: &Record) {
        match &record.owner {
            Owner::Question => message.extend_from_slice(&QUESTION_NAME),
            Owner::Name(name) => self.write_name(message, query, origin, name.octets()),
        }
        message.extend_from_slice(&record.data.record_type().0.to_be_bytes());
        message.extend_from_slice(&CLASS_IN);
        message.extend_from_slice(&record.ttl.to_be_bytes());
        message.extend_from_slice(&[0, 0]);
        let start = message.len();
        match &record.data {
            Data::A(address) => message.extend_from_slice(&address.octets()),
            Data::Aaaa(address) => message.extend_from_slice(&address.octets()),
            Data::Ns(name) | Data::Cname(name) | Data::Ptr(name) => {
                self.write_name(message, query, origin, name.octets());
            }
            Data::Txt(text) => {
                // Our texts are short: one string of at most 255 octets.
                message.push(text.len() as u8);
                message.extend_from_slice(text.as_bytes());
            }
            Data::Srv { weight, port, target } => {
                message.extend_from_slice(&[0, 0]);
                message.extend_from_slice(&weight.to_be_bytes());
                message.extend_from_slice(&port.to_be_bytes());
                // DEVIATION: RFC 2782 wants targets spelled out; every resolver since RFC 3597 §4 reads pointers
                // there, CoreDNS sends them too, and 300 targets would not be had otherwise.
                self.write_name(message, query, origin, target.octets());
            }
            Data::Soa { server, mailbox, serial, minimum } => {
                self.write_name(message, query, origin, server.octets());
                self.write_name(message, query, origin, mailbox.octets());
                message.extend_from_slice(&serial.to_be_bytes());
                SOA_TIMERS.iter().for_each(|timer| message.extend_from_slice(&timer.to_be_bytes()));
                message.extend_from_slice(&minimum.to_be_bytes());
            }
        }
        let length = ((message.len() - start) as u16).to_be_bytes();
        if let Some(place) = message.get_mut(start - 2..start) {
            place.copy_from_slice(&length);
        }
    }

    /// Appends a name; what of it the question has is pointed at there.
    fn write_name(&mut self, message: &mut Vec<u8>, query: &Query<'_>, origin: &Name, name: &[u8]) {
        if !self.question_noted {
            self.question_noted = true;
            let at = own_spelling(query, origin);
            let suffix = query.name().octets().get(at..).unwrap_or_default();
            self.compression.note_name(message, suffix, HEADER_OCTETS + at);
        }
        self.compression.write_name(message, name);
    }
}

/// Returns from which octet on the question's name may be pointed at: the zone in any case, and labels before it as
/// far as the client spelled them as we do.
///
/// CoreDNS gives the zone back as it was asked, and the rest in lower case; so do we.
fn own_spelling(query: &Query<'_>, origin: &Name) -> usize {
    let (name, asked) = (query.name().octets(), query.question);
    let of_zone = match query.name().relative_to(origin) {
        Some(_) => name.len() - origin.octets().len(),
        None => name.len(),
    };
    let (mut at, mut from) = (0, 0);
    for label in query.name().labels() {
        if at >= of_zone {
            break;
        }
        let end = at + 1 + label.len();
        if asked.get(at..end) != name.get(at..end) {
            from = end;
        }
        at = end;
    }
    from
}

/// Aliases in front, then the others beginning at the turn.
fn rotated(records: &[Record], turn: usize) -> impl Iterator<Item = &Record> {
    let aliases = records.iter().take_while(|record| record.data.record_type() == Type::CNAME).count();
    let (aliases, others) = records.split_at(aliases);
    let (last, first) = others.split_at(turn % others.len().max(1));
    aliases.iter().chain(first).chain(last)
}
