//! Which octets of a datagram have come: no octet twice, and no two opinions about where it ends.

use super::fragment::{BLOCK_BYTES, Fragment};
use crate::verdict::DropReason;

/// Blocks of a datagram at most: 65,535 octets in blocks of 8.
const BLOCKS_MAX: usize = 8192;
const WORDS: usize = BLOCKS_MAX / u64::BITS as usize;

/// The blocks of one datagram that have come, one bit each.
///
/// A bit map and not a list of holes (RFC 815): a list has a length that the sender decides.
#[derive(Clone, Debug)]
pub(super) struct Received {
    blocks: [u64; WORDS],
    count: u16,
    /// Behind the last octet that has come.
    reach: u16,
    /// Where the datagram ends; known once its last fragment has come.
    end: Option<u16>,
}

impl Default for Received {
    fn default() -> Self {
        Self { blocks: [0; WORDS], count: 0, reach: 0, end: None }
    }
}

impl Received {
    /// Takes note of a fragment.
    ///
    /// # Errors
    /// Notes nothing if the fragment is wrong: [`DropReason::FragmentDuplicate`] if all its octets have come,
    /// [`DropReason::FragmentOverlap`] if some have, [`DropReason::FragmentContradiction`] if it says otherwise
    /// where the datagram ends. The last two condemn the datagram.
    pub(super) fn insert(&mut self, fragment: &Fragment) -> Result<(), DropReason> {
        let first = usize::from(fragment.start) / BLOCK_BYTES;
        let last = usize::from(fragment.end - 1) / BLOCK_BYTES;
        let blocks = (last - first + 1) as u16;
        let present: u16 =
            self.words(first, last).map(|(word, mask)| (*word & mask).count_ones() as u16).sum();
        if present == blocks && self.agrees(fragment) {
            return Err(DropReason::FragmentDuplicate);
        }
        if present > 0 {
            return Err(DropReason::FragmentOverlap);
        }
        if !self.agrees(fragment) {
            return Err(DropReason::FragmentContradiction);
        }
        self.words(first, last).for_each(|(word, mask)| *word |= mask);
        self.count += blocks;
        self.reach = self.reach.max(fragment.end);
        if !fragment.more {
            self.end = Some(fragment.end);
        }
        Ok(())
    }

    /// Says whether every octet of the datagram has come.
    pub(super) fn is_complete(&self) -> bool {
        self.end.is_some_and(|end| usize::from(self.count) == usize::from(end).div_ceil(BLOCK_BYTES))
    }

    /// Says whether a fragment fits what is known of the datagram's end.
    fn agrees(&self, fragment: &Fragment) -> bool {
        match (self.end, fragment.more) {
            (Some(end), true) => fragment.end < end,
            (Some(end), false) => fragment.end == end,
            (None, true) => true,
            (None, false) => fragment.end >= self.reach,
        }
    }

    /// Iterates over the words that hold the blocks `first..=last`, each with the mask of those in it.
    fn words(&mut self, first: usize, last: usize) -> impl Iterator<Item = (&mut u64, u64)> {
        const BITS: usize = u64::BITS as usize;
        let words = self.blocks.get_mut(first / BITS..=last / BITS).unwrap_or_default();
        words.iter_mut().zip(first / BITS..).map(move |(word, number)| {
            let low = first.saturating_sub(number * BITS);
            let high = (last - number * BITS).min(BITS - 1);
            (word, u64::MAX << low & u64::MAX >> (BITS - 1 - high))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fragments::DatagramId;

    fn fragment(start: u16, end: u16, more: bool) -> Fragment {
        let any = std::net::Ipv4Addr::UNSPECIFIED;
        let datagram = DatagramId {
            source: any.into(),
            destination: any.into(),
            protocol: 17,
            identification: [0, 0, 0, 1],
        };
        Fragment { datagram, start, end, more }
    }

    /// The same rules on one flag per octet and a list of all fragments.
    #[derive(Default)]
    struct Slow {
        taken: Vec<Fragment>,
    }

    impl Slow {
        fn insert(&mut self, new: &Fragment) -> Result<(), DropReason> {
            let blocks = |fragment: &Fragment| {
                (fragment.start / 8..fragment.end.div_ceil(8)).collect::<std::collections::BTreeSet<_>>()
            };
            let come: std::collections::BTreeSet<_> = self.taken.iter().flat_map(blocks).collect();
            let end = self.taken.iter().find(|fragment| !fragment.more).map(|fragment| fragment.end);
            let reach = self.taken.iter().map(|fragment| fragment.end).max().unwrap_or(0);
            let fits = match end {
                Some(end) => {
                    if new.more {
                        new.end < end
                    } else {
                        new.end == end
                    }
                }
                None => new.more || new.end >= reach,
            };
            let wanted = blocks(new);
            if wanted.is_subset(&come) && fits {
                return Err(DropReason::FragmentDuplicate);
            }
            if !wanted.is_disjoint(&come) {
                return Err(DropReason::FragmentOverlap);
            }
            if !fits {
                return Err(DropReason::FragmentContradiction);
            }
            self.taken.push(*new);
            Ok(())
        }

        fn is_complete(&self) -> bool {
            let bytes: usize =
                self.taken.iter().map(|fragment| usize::from(fragment.end - fragment.start)).sum();
            self.taken.iter().any(|fragment| !fragment.more && usize::from(fragment.end) == bytes)
        }
    }

    proptest! {
        #[test]
        fn a_bit_map_says_what_a_list_of_all_fragments_says(
            fragments in proptest::collection::vec((0..40u16, 1..80u16, any::<bool>(), any::<bool>()), 1..40),
            far in any::<bool>(),
        ) {
            let mut received = Received::default();
            let mut slow = Slow::default();
            for (start, length, more, whole) in fragments {
                let start = start * 8 + if far { 65_000 } else { 0 };
                let length = if more || whole { length * 8 % 160 + 8 } else { length };
                let new = fragment(start, start + length, more);
                prop_assert_eq!(received.insert(&new), slow.insert(&new));
                prop_assert_eq!(received.is_complete(), slow.is_complete());
            }
        }
    }

    #[test]
    fn the_longest_datagram_there_is_fits() {
        let mut received = Received::default();
        received.insert(&fragment(0, 65_512, true)).unwrap();
        assert!(!received.is_complete());
        received.insert(&fragment(65_512, 65_515, false)).unwrap();
        assert!(received.is_complete());
    }
}
