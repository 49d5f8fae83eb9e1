//! The index: from a key's hash to the records that may have the key, in two cache lines at most.
//!
//! A key may stand in either of two buckets, mostly the first, wherever a slot is empty when it is published, and never moves. A slot is
//! written by the thread that owns its record at that moment and by no other, so a slot's value is unique while it
//! stands.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::memory::{BUCKET_SLOTS, Memory, Word};
use super::{Direction, KeyHash};

/// A slot's content: occupied 1, tag 30, direction 1, record 32; zero is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot(u64);

impl Slot {
    pub(super) const EMPTY: Self = Self(0);
    const OCCUPIED: u64 = 1 << 63;
    const REPLY: u64 = 1 << 32;

    pub(super) const fn new(hash: KeyHash, direction: Direction, record: u32) -> Self {
        let direction = match direction {
            Direction::Request => 0,
            Direction::Reply => Self::REPLY,
        };
        Self(Self::tag(hash) | direction | record as u64)
    }

    /// Returns occupied bit and tag in their places: the low bits of both halves, since the high bits choose buckets.
    const fn tag(hash: KeyHash) -> u64 {
        let tag = (hash.0 >> 32 & 0x7fff) << 15 | hash.0 & 0x7fff;
        Self::OCCUPIED | tag << 33
    }

    /// Says whether the slot may lead to a key of this hash.
    #[inline]
    pub(super) const fn matches(self, hash: KeyHash) -> bool {
        self.0 ^ Self::tag(hash) < 1 << 33
    }

    pub(super) const fn direction(self) -> Direction {
        if self.0 & Self::REPLY == 0 { Direction::Request } else { Direction::Reply }
    }

    pub(super) const fn record(self) -> u32 {
        self.0 as u32
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 & Self::OCCUPIED == 0
    }
}

/// The high half of a slot without its direction: occupied bit and tag.
const TAG_HALF: u32 = !1;
/// The high half's bit that only an empty slot lacks.
const OCCUPIED_HALF: u32 = (Slot::OCCUPIED >> 32) as u32;

/// Half of a bucket's slots.
const HALF: u32 = BUCKET_SLOTS as u32 / 2;

/// Returns the bucket of a hash that most keys are in.
#[inline]
pub(super) const fn first_bucket(hash: KeyHash, count: u32) -> u32 {
    (((hash.0 & 0xffff_ffff) * count as u64) >> 32) as u32
}

/// Returns the two buckets of a hash; they differ.
#[inline]
pub(super) const fn buckets(hash: KeyHash, count: u32) -> [u32; 2] {
    let first = first_bucket(hash, count);
    let second = (((hash.0 >> 32) * count as u64) >> 32) as u32;
    if first != second {
        return [first, second];
    }
    [first, if first + 1 == count { 0 } else { first + 1 }]
}

/// Returns both buckets of a hash; they are there.
#[inline]
fn both<M: Memory>(memory: &M, hash: KeyHash) -> Option<[&[M::Word; BUCKET_SLOTS]; 2]> {
    let [first, second] = buckets(hash, memory.buckets());
    Some([memory.bucket(first)?, memory.bucket(second)?])
}

/// Returns the first slot of a bucket that may lead to a key of this hash, or an empty one.
#[inline]
pub(super) fn slot_in<M: Memory>(memory: &M, bucket: u32, hash: KeyHash) -> Slot {
    let Some(bucket) = memory.bucket(bucket) else { return Slot::EMPTY };
    let place = matching::<M>(bucket, hash).trailing_zeros() as usize;
    bucket.get(place).map_or(Slot::EMPTY, read)
}

/// Returns the slots of a bucket that may lead to a key of this hash, as bits.
#[inline]
fn matching<M: Memory>(bucket: &[M::Word; BUCKET_SLOTS], hash: KeyHash) -> u32 {
    M::Word::matching(bucket, TAG_HALF, (Slot::tag(hash) >> 32) as u32)
}

/// Reads a slot.
#[inline]
pub(super) fn read<W: Word>(word: &W) -> Slot {
    Slot(word.load(Acquire))
}

/// Returns the slots of both buckets that may lead to a key of this hash, as bits; mostly one or none.
///
/// All sixteen are compared before the first is followed: which of them matches is then no branch to guess.
#[inline]
pub(super) fn places<M: Memory>(memory: &M, hash: KeyHash) -> u32 {
    let Some([first, second]) = both(memory, hash) else { return 0 };
    matching::<M>(first, hash) | matching::<M>(second, hash) << BUCKET_SLOTS
}

/// Returns which slots of a bucket are empty, as bits.
fn empty_slots<M: Memory>(bucket: Option<&[M::Word; BUCKET_SLOTS]>) -> u32 {
    bucket.map_or(0, |words| M::Word::matching(words, OCCUPIED_HALF, 0))
}

/// Returns the slots at these places of the buckets of a hash.
#[inline]
pub(super) fn at_places<M: Memory>(memory: &M, hash: KeyHash, places: u32) -> impl Iterator<Item = &M::Word> {
    let both = both(memory, hash);
    let mut bits = places;
    core::iter::from_fn(move || {
        let place = bits.trailing_zeros() as usize;
        bits &= bits.wrapping_sub(1);
        both.as_ref()?.get(place / BUCKET_SLOTS)?.get(place % BUCKET_SLOTS)
    })
}

/// Puts a slot into its first bucket if that is half empty, else into the emptier one. Says whether there was room.
///
/// So nine of ten keys are in their first bucket when the table is full, and more before; and buckets fill nearly as evenly
/// as if the emptier one were always taken.
pub(super) fn publish<M: Memory>(memory: &M, hash: KeyHash, slot: Slot) -> bool {
    let [first, second] = buckets(hash, memory.buckets()).map(|number| memory.bucket(number));
    let empty_first = empty_slots::<M>(first);
    let empty_second = empty_slots::<M>(second);
    let room = empty_first.count_ones();
    let goes_second = room < HALF && empty_second.count_ones() > room;
    let [first, second] = [(first, empty_first), (second, empty_second)];
    let order = if goes_second { [second, first] } else { [first, second] };
    // One that is taken meanwhile is passed over; one that is left meanwhile is not seen.
    order.into_iter().any(|(bucket, mut empty)| {
        while empty != 0 {
            let word = bucket.and_then(|words| words.get(empty.trailing_zeros() as usize));
            if word.is_some_and(|word| word.replace(Slot::EMPTY.0, slot.0, Release)) {
                return true;
            }
            empty &= empty - 1;
        }
        false
    })
}

/// Takes a slot out of both buckets of its hash, wherever it is.
pub(super) fn clear<M: Memory>(memory: &M, hash: KeyHash, slot: Slot) {
    for word in buckets(hash, memory.buckets()).into_iter().filter_map(|n| memory.bucket(n)).flatten() {
        if word.load(Relaxed) == slot.0 {
            word.store(Slot::EMPTY.0, Release);
        }
    }
}

/// Empties every slot. Only for a start, before any thread uses the table.
pub(super) fn clear_all<M: Memory>(memory: &M) {
    for word in (0..memory.buckets()).filter_map(|number| memory.bucket(number)).flatten() {
        word.store(Slot::EMPTY.0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_gives_back_what_it_was_made_of() {
        for direction in [Direction::Request, Direction::Reply] {
            let hash = KeyHash(0x0123_4567_89ab_cdef);
            let slot = Slot::new(hash, direction, u32::MAX);
            assert_eq!((slot.direction(), slot.record()), (direction, u32::MAX));
            assert!(slot.matches(hash) && !slot.matches(KeyHash(hash.0 ^ 1)));
            assert!(!slot.matches(KeyHash(hash.0 ^ 1 << 32)));
        }
        assert!(!Slot::EMPTY.matches(KeyHash(0)));
        assert_ne!(Slot::new(KeyHash(0), Direction::Request, 0), Slot::EMPTY);
    }

    #[test]
    fn the_two_buckets_of_a_hash_differ_and_exist() {
        for count in [2, 3, 7, 1 << 20] {
            for hash in [0, u64::MAX, 1 << 63, 0xffff_ffff, 0x1234_5678_1234_5678] {
                let [first, second] = buckets(KeyHash(hash), count);
                assert!(first != second && first < count && second < count, "{hash:x} of {count}");
            }
        }
    }
}
