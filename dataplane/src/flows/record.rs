//! The words of one flow record: which fact stands in which bits.
//!
//! | IPv4 word | IPv6 word | content, high bits first |
//! |---|---|---|
//! | 0 | 0 | meta: generation 32, state 8, spare 8, status 8, spare 8 |
//! | 1 | 1 | seen: generation 32, second of the last packet 32 |
//! | 2 | 2 | request ports 16 + 16, reply ports 16 + 16 |
//! | 3 | 3 | account 24, protocol 8, IP difference 16, transport difference 16 |
//! | 4, 5 | 4, 5 | generation 16, next hop 48: of the request direction, of the reply direction |
//! | 6 | 6 to 9 | request source (client), request destination |
//! | 7 | 10 to 13 | reply source (backend), reply destination |
//! | | 14, 15 | spare, so that no record shares a cache line with another |

use core::sync::atomic::Ordering::{Acquire, Relaxed};

use super::memory::{Memory, Word};
use super::{Direction, Key, NewFlow, State};
use crate::net::{Address, Ports, Protocol};

/// Bits of a cached next hop that the table keeps.
pub const NEXT_HOP_BITS: u32 = 48;

/// Bits of an account that the table keeps.
const ACCOUNT_MASK: u32 = (1 << 24) - 1;

/// Words of a record before its addresses.
const FIXED_WORDS: usize = 6;

/// Returns the words of a pair of addresses.
const fn pair_words<A: Address>() -> usize {
    size_of::<A::Pair>() / size_of::<u64>()
}

/// Returns the words of a record: one cache line for IPv4, two for IPv6.
pub(super) const fn words<A: Address>() -> usize {
    (FIXED_WORDS + 2 * pair_words::<A>()).next_multiple_of(8)
}

/// Who may do what with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Status {
    /// In the queue of free records.
    Free = 0,
    /// One thread writes its words; no slot leads here.
    Claimed = 1,
    /// The words stand; the same thread publishes the keys.
    Building = 2,
    /// Found by look-ups; any thread may change its state or begin its removal.
    Live = 3,
    /// One thread takes its keys out.
    Dying = 4,
}

/// The first word of a record. It changes only by whole-word replacement, generation included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Meta(pub(super) u64);

impl Meta {
    pub(super) const fn new(generation: u32, status: Status, state: Option<State>) -> Self {
        let state = match state {
            Some(state) => state.number() as u64,
            None => 0,
        };
        Self((generation as u64) << 32 | state << 24 | (status as u64) << 8)
    }

    pub(super) const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Returns the state; `None` only where no flow is, or in memory that was tampered with.
    pub(super) const fn state(self) -> Option<State> {
        State::from_number((self.0 >> 24) as u8)
    }

    /// Returns the status. A number that is none counts as dying: never found, and dropped by the next start.
    pub(super) const fn status(self) -> Status {
        match (self.0 >> 8) as u8 {
            0 => Status::Free,
            1 => Status::Claimed,
            2 => Status::Building,
            3 => Status::Live,
            _ => Status::Dying,
        }
    }

    pub(super) const fn is_live(self, generation: u32) -> bool {
        self.generation() == generation && matches!(self.status(), Status::Live)
    }

    pub(super) const fn with_status(self, status: Status) -> Self {
        Self(self.0 & !(0xff << 8) | (status as u64) << 8)
    }

    pub(super) const fn with_state(self, state: State) -> Self {
        Self(self.0 & !(0xff << 24) | (state.number() as u64) << 24)
    }
}

/// Generation and second of a flow's last packet; the generation makes a late writer miss.
pub(super) const fn seen(generation: u32, second: u32) -> u64 {
    (generation as u64) << 32 | second as u64
}

/// Packs a next hop with the low bits of the flow's generation; `None` if it is too wide.
pub(super) const fn pack_next_hop(generation: u32, next_hop: u64) -> Option<u64> {
    if next_hop >> NEXT_HOP_BITS != 0 {
        return None;
    }
    Some((generation as u64) << NEXT_HOP_BITS | next_hop)
}

/// Says whether a next hop word was written for this generation.
pub(super) const fn is_next_hop_of(generation: u32, word: u64) -> bool {
    word >> NEXT_HOP_BITS == generation as u64 & 0xffff
}

/// Returns the next hop that was cached for this generation, else zero.
const fn unpack_next_hop(generation: u32, word: u64) -> u64 {
    if is_next_hop_of(generation, word) { word & ((1 << NEXT_HOP_BITS) - 1) } else { 0 }
}

/// The words of a record by name.
pub(super) struct Record<'a, W> {
    pub(super) meta: &'a W,
    pub(super) seen: &'a W,
    ports: &'a W,
    rewrite: &'a W,
    request_next_hop: &'a W,
    reply_next_hop: &'a W,
    request_addresses: &'a [W],
    reply_addresses: &'a [W],
}

impl<'a, W: Word> Record<'a, W> {
    /// Views a record of a memory; `None` for a number beyond its last.
    #[inline]
    pub(super) fn of<M: Memory<Word = W>>(memory: &'a M, number: u32) -> Option<Self> {
        let (fixed, addresses) = memory.record(number)?.split_first_chunk::<FIXED_WORDS>()?;
        let [meta, seen, ports, rewrite, request_next_hop, reply_next_hop] = fixed;
        let (request_addresses, rest) = addresses.split_at_checked(pair_words::<M::Address>())?;
        let (reply_addresses, _) = rest.split_at_checked(pair_words::<M::Address>())?;
        Some(Self {
            meta,
            seen,
            ports,
            rewrite,
            request_next_hop,
            reply_next_hop,
            request_addresses,
            reply_addresses,
        })
    }

    #[inline]
    pub(super) fn meta(&self) -> Meta {
        Meta(self.meta.load(Acquire))
    }

    #[inline]
    pub(super) const fn next_hop(&self, direction: Direction) -> &'a W {
        match direction {
            Direction::Request => self.request_next_hop,
            Direction::Reply => self.reply_next_hop,
        }
    }

    /// Writes all words but the first. The record must be claimed by the caller.
    pub(super) fn write<A: Address>(&self, new: &NewFlow<A>, generation: u32, second: u32) {
        let ports = u64::from(new.request.ports().0) << 32 | u64::from(new.reply.ports().0);
        let rewrite = u64::from(new.account & ACCOUNT_MASK) << 40
            | u64::from(new.request.protocol.number()) << 32
            | u64::from(new.ip_difference) << 16
            | u64::from(new.transport_difference);
        self.seen.store(seen(generation, second), Relaxed);
        self.ports.store(ports, Relaxed);
        self.rewrite.store(rewrite, Relaxed);
        store(self.request_addresses, new.request.addresses);
        store(self.reply_addresses, new.reply.addresses);
        self.forget_next_hops(generation);
    }

    /// Empties the caches of both next hops: their values mean something only to the process that wrote them.
    pub(super) fn forget_next_hops(&self, generation: u32) {
        self.request_next_hop.store(u64::from(generation) << NEXT_HOP_BITS, Relaxed);
        self.reply_next_hop.store(u64::from(generation) << NEXT_HOP_BITS, Relaxed);
    }

    /// Replaces the account. Only for a start, before any worker uses the table.
    pub(super) fn set_account(&self, account: u32) {
        let rewrite = self.rewrite.load(Relaxed) & (u64::MAX >> 24);
        self.rewrite.store(rewrite | u64::from(account & ACCOUNT_MASK) << 40, Relaxed);
    }

    /// Reads the words that stay the same while the flow lives; `None` if the protocol is none.
    #[inline(always)]
    pub(super) fn contents<A: Address>(&self) -> Option<Contents<A>> {
        let rewrite = self.rewrite.load(Relaxed);
        Some(Contents {
            request_addresses: load(self.request_addresses),
            reply_addresses: load(self.reply_addresses),
            ports: self.ports.load(Relaxed),
            protocol: Protocol::from_number((rewrite >> 32) as u8)?,
            ip_difference: (rewrite >> 16) as u16,
            transport_difference: rewrite as u16,
            account: (rewrite >> 40) as u32,
        })
    }

    /// Returns the next hop cached for a direction, or zero.
    #[inline]
    pub(super) fn cached_next_hop(&self, direction: Direction, generation: u32) -> u64 {
        unpack_next_hop(generation, self.next_hop(direction).load(Relaxed))
    }
}

#[inline]
fn load<P: AsMut<[u64]> + Default>(words: &[impl Word]) -> P {
    let mut pair = P::default();
    for (value, word) in pair.as_mut().iter_mut().zip(words) {
        *value = word.load(Relaxed);
    }
    pair
}

fn store<P: AsRef<[u64]>>(words: &[impl Word], pair: P) {
    for (value, word) in pair.as_ref().iter().zip(words) {
        word.store(*value, Relaxed);
    }
}

/// The facts of a flow that do not change while it lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Contents<A: Address> {
    request_addresses: A::Pair,
    reply_addresses: A::Pair,
    ports: u64,
    protocol: Protocol,
    ip_difference: u16,
    transport_difference: u16,
    pub(super) account: u32,
}

impl<A: Address> Contents<A> {
    #[inline]
    pub(super) const fn key(&self, direction: Direction) -> Key<A> {
        let (addresses, ports) = match direction {
            Direction::Request => (self.request_addresses, (self.ports >> 32) as u32),
            Direction::Reply => (self.reply_addresses, self.ports as u32),
        };
        Key::of(addresses, Ports(ports), self.protocol)
    }

    /// Returns the fields that a packet of this direction leaves with: a reply's, reversed, and the other way round.
    #[inline]
    pub(super) fn leaves_as(&self, direction: Direction) -> Key<A> {
        match direction {
            Direction::Request => self.key(Direction::Reply).reversed(),
            Direction::Reply => self.key(Direction::Request).reversed(),
        }
    }

    /// Returns the differences of the IP and the transport checksum; what undoes a difference is its complement.
    #[inline]
    pub(super) const fn differences(&self, direction: Direction) -> (u16, u16) {
        match direction {
            Direction::Request => (self.ip_difference, self.transport_difference),
            Direction::Reply => (!self.ip_difference, !self.transport_difference),
        }
    }
}

/// What one reading of a record gave.
pub(super) enum Glimpse<A: Address> {
    /// No flow, or one that is not yet or no longer in the index by right.
    Absent,
    /// The record went to another flow while it was read.
    Torn,
    /// Words of one and the same flow, building or live when the reading began.
    Whole(Meta, Contents<A>),
}

/// Reads a record without a lock.
///
/// The words of a generation stand unchanged from building until the generation ends, and [`Status::Free`] of the next
/// generation is written before any of them changes. So equal generations before and after the words prove them whole.
#[inline(always)]
pub(super) fn glimpse<M: Memory>(memory: &M, record: &Record<'_, M::Word>) -> Glimpse<M::Address> {
    let meta = record.meta();
    if !matches!(meta.status(), Status::Building | Status::Live) {
        return Glimpse::Absent;
    }
    let contents = record.contents();
    memory.fence(Acquire);
    if Meta(record.meta.load(Relaxed)).generation() != meta.generation() {
        return Glimpse::Torn;
    }
    contents.map_or(Glimpse::Absent, |contents| Glimpse::Whole(meta, contents))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_holds_generation_state_and_status_apart() {
        let meta = Meta::new(0xdead_beef, Status::Live, Some(State::UdpStream));
        let changed = meta.with_state(State::Close).with_status(Status::Dying);
        assert_eq!((meta.generation(), meta.state()), (0xdead_beef, Some(State::UdpStream)));
        assert_eq!(meta.status(), Status::Live);
        assert_eq!((changed.generation(), changed.state()), (0xdead_beef, Some(State::Close)));
        assert_eq!(changed.status(), Status::Dying);
    }

    #[test]
    fn a_next_hop_is_read_only_by_the_generation_that_wrote_it() {
        let widest = (1 << NEXT_HOP_BITS) - 1;
        let word = pack_next_hop(0x0007_0003, widest).unwrap();
        assert_eq!(unpack_next_hop(0x0007_0003, word), widest);
        assert_eq!(unpack_next_hop(0x0007_0004, word), 0);
        assert_eq!(pack_next_hop(3, widest + 1), None);
    }
}
