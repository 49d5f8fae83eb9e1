//! What upstreams answered, for a while.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};

use super::Name;

/// Answers and denials that are kept, each; CoreDNS' number.
const CAPACITY: usize = 9984;
/// Longest that an answer is kept: `cache 30` of kubeadm's Corefile.
const MAX_ANSWER: Duration = Duration::from_secs(30);
/// Longest that a denial is kept: what was missing a moment ago is often being made.
const MAX_DENIAL: Duration = Duration::from_secs(5);

/// What makes two questions the same to an upstream.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    pub(super) name: Name,
    pub(super) qtype: u16,
    pub(super) recursion_desired: bool,
    pub(super) checking_disabled: bool,
    pub(super) edns_dnssec_ok: Option<bool>,
}

/// Whether an answer says that there is something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Success,
    Denial,
}

struct Entry {
    message: Message,
    stored: Instant,
    expires: Instant,
    /// Which of the turns in the queue is this entry's.
    turn: u64,
}

/// One kind's entries: a map, and the order in which they came.
#[derive(Default)]
struct Shelf {
    entries: HashMap<Key, Entry>,
    order: VecDeque<(u64, Key)>,
}

/// Keeps answers by their question; the oldest go first when there is no room. `now` is an argument.
pub(super) struct Cache {
    shelves: [Shelf; 2],
    turn: u64,
    capacity: usize,
}

impl Cache {
    pub(super) fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    fn with_capacity(capacity: usize) -> Self {
        Self { shelves: Default::default(), turn: 0, capacity }
    }

    /// Finds an answer, with its TTLs as much lower as it is old.
    pub(super) fn lookup(&self, key: &Key, now: Instant) -> Option<(Message, Kind)> {
        let found = [Kind::Success, Kind::Denial].into_iter().find_map(|kind| {
            let entry = self.shelves.get(kind as usize)?.entries.get(key)?;
            (now < entry.expires).then_some((entry, kind))
        });
        let (entry, kind) = found?;
        let mut message = entry.message.clone();
        let age = now.saturating_duration_since(entry.stored).as_secs() as u32;
        for record in records_mut(&mut message) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some((message, kind))
    }

    /// Keeps an answer if it may be kept, and returns how many others had to go.
    pub(super) fn insert(&mut self, key: Key, message: &Message, now: Instant) -> usize {
        let Some((kind, lifetime)) = lifetime(message) else { return 0 };
        self.turn += 1;
        let (turn, capacity) = (self.turn, self.capacity);
        let [success, denial] = &mut self.shelves;
        let (shelf, other) = if kind == Kind::Success { (success, denial) } else { (denial, success) };
        other.entries.remove(&key);
        let entry = Entry { message: message.clone(), stored: now, expires: now + lifetime, turn };
        shelf.order.push_back((turn, key.clone()));
        shelf.entries.insert(key, entry);
        shelf.make_room(capacity)
    }

    /// Returns how many entries of a kind there are, those that have expired included.
    pub(super) fn len(&self, kind: Kind) -> usize {
        self.shelves.get(kind as usize).map_or(0, |shelf| shelf.entries.len())
    }
}

impl Shelf {
    fn make_room(&mut self, capacity: usize) -> usize {
        let mut evicted = 0;
        while self.entries.len() > capacity {
            let Some((turn, key)) = self.order.pop_front() else { break };
            if self.entries.get(&key).is_some_and(|entry| entry.turn == turn) {
                self.entries.remove(&key);
                evicted += 1;
            }
        }
        // An entry that was renewed has left its earlier turns behind.
        if self.order.len() > 2 * capacity {
            let entries = &self.entries;
            self.order.retain(|(turn, key)| entries.get(key).is_some_and(|entry| entry.turn == *turn));
        }
        evicted
    }
}

/// Returns what a message says and how long it may be kept; `None` if it may not.
///
/// Source: RFC 2308 §5 for denials, whose SOA has to be there; RFC 2181 §8 for the range of a TTL.
fn lifetime(message: &Message) -> Option<(Kind, Duration)> {
    if message.metadata.truncation || message.queries.first().is_none_or(|q| is_meta(q.query_type())) {
        return None;
    }
    let asked = message.queries.first()?.query_type();
    let says = |record: &Record| record.record_type() == asked;
    let (kind, ttl, limit) = match message.metadata.response_code {
        ResponseCode::NoError if message.answers.iter().any(says) => {
            let ttl = message.answers.iter().chain(&message.authorities).chain(&message.additionals);
            (Kind::Success, ttl.map(|record| record.ttl).min()?, MAX_ANSWER)
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let soa = message.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            });
            let aliases = message.answers.iter().map(|record| record.ttl).min().unwrap_or(u32::MAX);
            (Kind::Denial, soa?.min(aliases), MAX_DENIAL)
        }
        _ => return None,
    };
    let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
    (ttl > 0).then(|| (kind, Duration::from_secs(ttl.into()).min(limit)))
}

/// QTYPEs and meta types, whose answers are no record set. Source: RFC 6895 §3.1.
fn is_meta(qtype: RecordType) -> bool {
    (128..=255).contains(&u16::from(qtype))
}

fn records_mut(message: &mut Message) -> impl Iterator<Item = &mut Record> {
    message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{MessageType, OpCode, Query};
    use hickory_proto::rr::{self, rdata};

    use super::*;

    fn key(name: &str) -> Key {
        Key {
            name: Name::parse(name).expect("a name"),
            qtype: 1,
            recursion_desired: true,
            checking_disabled: false,
            edns_dnssec_ok: None,
        }
    }

    fn message(code: ResponseCode, qtype: RecordType) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        message.add_query(Query::query(rr::Name::root(), qtype));
        message
    }

    fn answer(ttl: u32) -> Message {
        let mut message = message(ResponseCode::NoError, RecordType::A);
        let data = RData::A(rdata::A::new(192, 0, 2, 1));
        message.add_answer(Record::from_rdata(rr::Name::root(), ttl, data));
        message
    }

    fn denial(code: ResponseCode, ttl: u32, minimum: u32) -> Message {
        let mut message = message(code, RecordType::A);
        let root = rr::Name::root;
        let soa = RData::SOA(rdata::SOA::new(root(), root(), 1, 1, 1, 1, minimum));
        message.add_authority(Record::from_rdata(root(), ttl, soa));
        message
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn an_answer_ages_and_ends_with_its_ttl() {
        let (mut cache, start) = (Cache::new(), Instant::now());
        cache.insert(key("a"), &answer(10), start);
        let ttl = |seconds| cache.lookup(&key("a"), after(start, seconds)).map(|(m, _)| m.answers[0].ttl);
        assert_eq!((ttl(0), ttl(4), ttl(9), ttl(10)), (Some(10), Some(6), Some(1), None));
        assert!(cache.lookup(&key("b"), start).is_none());
    }

    #[test]
    fn an_answer_is_kept_30_s_and_a_denial_5_s_at_most() {
        let (mut cache, start) = (Cache::new(), Instant::now());
        cache.insert(key("a"), &answer(3600), start);
        cache.insert(key("n"), &denial(ResponseCode::NXDomain, 3600, 3600), start);
        cache.insert(key("d"), &denial(ResponseCode::NoError, 3600, 2), start);
        let there = |name, seconds| cache.lookup(&key(name), after(start, seconds)).is_some();
        assert!(there("a", 29) && !there("a", 30));
        assert!(there("n", 4) && !there("n", 5));
        assert!(there("d", 1) && !there("d", 2));
        assert_eq!((cache.len(Kind::Success), cache.len(Kind::Denial)), (1, 2));
    }

    #[test]
    fn what_may_not_be_kept_is_not() {
        let mut truncated = answer(10);
        truncated.metadata.truncation = true;
        let mut any = message(ResponseCode::NoError, RecordType::ANY);
        any.answers = answer(10).answers;
        let bad = [
            truncated,
            any,
            answer(0),
            answer(u32::MAX),
            message(ResponseCode::NXDomain, RecordType::A),
            message(ResponseCode::ServFail, RecordType::A),
            message(ResponseCode::Refused, RecordType::A),
        ];
        for message in bad {
            assert_eq!(lifetime(&message), None, "{message:?}");
        }
    }

    #[test]
    fn an_answer_takes_the_place_of_a_denial_and_the_other_way_round() {
        let (mut cache, start) = (Cache::new(), Instant::now());
        for turn in 0..4 {
            let (message, kind) = match turn % 2 {
                0 => (denial(ResponseCode::NXDomain, 5, 5), Kind::Denial),
                _ => (answer(10), Kind::Success),
            };
            cache.insert(key("a"), &message, start);
            assert_eq!(cache.lookup(&key("a"), start).map(|(_, kind)| kind), Some(kind));
            assert_eq!(cache.len(Kind::Success) + cache.len(Kind::Denial), 1);
        }
    }

    #[test]
    fn the_oldest_go_when_there_is_no_room_and_renewing_costs_no_room() {
        let (mut cache, start) = (Cache::with_capacity(3), Instant::now());
        assert_eq!(cache.insert(key("a"), &answer(10), start), 0);
        for _ in 0..100 {
            assert_eq!(cache.insert(key("b"), &answer(10), start), 0);
        }
        assert!(cache.lookup(&key("a"), start).is_some());
        assert_eq!(cache.insert(key("c"), &answer(10), start), 0);
        assert_eq!(cache.insert(key("d"), &answer(10), start), 1);
        let there: Vec<&str> = ["a", "b", "c", "d"]
            .into_iter()
            .filter(|name| cache.lookup(&key(name), start).is_some())
            .collect();
        assert_eq!(there, ["b", "c", "d"]);
        assert!(cache.shelves[0].order.len() <= 6);
    }
}
