//! The same backend for the same client on every gateway, and little movement when the set changes.
//!
//! Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4.

/// Seed of both hashes. Gateways agree on backends because this is a constant, never the flow table's key.
const SEED: u64 = 0x7469_6465_6761_7465;

/// Table entries per member; the paper's §5.3 shows that 100 keep the shares within one per cent.
const ENTRIES_PER_MEMBER: usize = 100;

/// A look-up table that maps a hash to the position of a member.
///
/// An entry is as narrow as the number of members allows: tables are most of what a great cluster takes of memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Maglev(Entries);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Entries {
    /// Two in an octet, the first in its low bits; and how many they are.
    Packed(Box<[u8]>, usize),
    Narrow(Box<[u8]>),
    Wide(Box<[u16]>),
    Widest(Box<[u32]>),
}

/// The position of a member, or none.
trait Entry: Copy + Eq {
    /// Marks an entry that no member has taken yet; no position.
    const VACANT: Self;

    fn of(position: usize) -> Self;
}

impl Entry for u8 {
    const VACANT: Self = Self::MAX;

    fn of(position: usize) -> Self {
        position as Self
    }
}

impl Entry for u16 {
    const VACANT: Self = Self::MAX;

    fn of(position: usize) -> Self {
        position as Self
    }
}

impl Entry for u32 {
    const VACANT: Self = Self::MAX;

    fn of(position: usize) -> Self {
        position as Self
    }
}

impl Maglev {
    /// Builds the table for members with these identities, sorted by the caller.
    ///
    /// Cost: about size × ln(size) steps; the control thread pays it.
    ///
    /// DEVIATION from a size of 100 × members: the members are rounded up to a power of two first. Tables of
    /// different sizes agree nowhere, and with a size for each number of members, taking one of ten away moved 88 %
    /// of the others' entries. With one size it moves 2.3 %; only a step over a power of two moves most.
    #[must_use]
    pub fn new(identities: &[u64]) -> Self {
        let shares: Vec<(u64, u16)> = identities.iter().map(|identity| (*identity, 1)).collect();
        Self::weighted(&shares)
    }

    /// Builds the table for members with these identities and weights, at least 1 each: a member takes as many entries
    /// in each round as it weighs (the paper's "heterogeneous backends" by turns).
    #[must_use]
    pub fn weighted(members: &[(u64, u16)]) -> Self {
        Self(match members.len() {
            2..=0x10 => {
                let entries = filled::<u8>(members);
                let pack = |pair: &[u8]| pair.iter().rev().fold(0, |octet, entry| octet << 4 | entry);
                Entries::Packed(entries.chunks(2).map(pack).collect(), entries.len())
            }
            ..=0xff => Entries::Narrow(filled(members)),
            0x100..=0xffff => Entries::Wide(filled(members)),
            _ => Entries::Widest(filled(members)),
        })
    }

    /// Returns the position of the member for `hash`, or `None` if there is no member.
    #[must_use]
    pub fn choose(&self, hash: u64) -> Option<usize> {
        let Entries::Packed(pairs, size) = &self.0 else { return self.choose_unpacked(hash) };
        let place = place(hash, *size);
        pairs.get(place / 2).map(|pair| usize::from(pair >> (place % 2 * 4) & 0xf))
    }

    /// Chooses by a table that is not packed: one of a single member, or of more than 16. Apart, so that what is inlined is
    /// short.
    #[inline(never)]
    fn choose_unpacked(&self, hash: u64) -> Option<usize> {
        match &self.0 {
            Entries::Packed(..) => None,
            Entries::Narrow(entries) => entries.get(place(hash, entries.len())).map(|own| usize::from(*own)),
            Entries::Wide(entries) => entries.get(place(hash, entries.len())).map(|own| usize::from(*own)),
            Entries::Widest(entries) => entries.get(place(hash, entries.len())).map(|own| *own as usize),
        }
    }
}

/// Spreads hashes evenly over so many places.
const fn place(hash: u64, size: usize) -> usize {
    ((hash as u128 * size as u128) >> 64) as usize
}

/// Makes the entries for members, fewer than can be told apart by them.
fn filled<E: Entry>(members: &[(u64, u16)]) -> Box<[E]> {
    if members.len() < 2 {
        return vec![E::of(0); members.len()].into();
    }
    let size = smallest_prime_from(members.len().next_power_of_two() * ENTRIES_PER_MEMBER);
    let mut preferences: Vec<(Preference, u16)> =
        members.iter().map(|(identity, weight)| (Preference::new(*identity, size), *weight)).collect();
    let mut entries = vec![E::VACANT; size];
    let mut vacant = size;
    'full: loop {
        for (member, (preference, weight)) in preferences.iter_mut().enumerate() {
            for _ in 0..*weight {
                if vacant == 0 {
                    break 'full;
                }
                preference.take_next(&mut entries, E::of(member));
                vacant -= 1;
            }
        }
    }
    entries.into()
}

/// One member's walk over the table: a permutation of all entries.
struct Preference {
    next: usize,
    skip: usize,
}

impl Preference {
    fn new(identity: u64, size: usize) -> Self {
        let size = size as u64;
        let offset = mix(identity ^ SEED) % size;
        let skip = mix(identity ^ !SEED) % (size - 1) + 1;
        Self { next: offset as usize, skip: skip as usize }
    }

    /// Takes this member's most preferred entry that is still vacant; one is, or the caller has stopped.
    fn take_next<E: Entry>(&mut self, entries: &mut [E], member: E) {
        let size = entries.len();
        for _ in 0..size {
            let place = self.next;
            self.next += self.skip;
            if self.next >= size {
                self.next -= size;
            }
            if let Some(entry) = entries.get_mut(place)
                && *entry == E::VACANT
            {
                *entry = member;
                return;
            }
        }
    }
}

/// Hashes the addresses and ports of a new flow for the choice of its backend.
#[must_use]
pub fn choice_hash(addresses: &[u64], ports_and_protocol: u64) -> u64 {
    mix(addresses.iter().fold(SEED, |hash, word| mix(hash ^ word)) ^ ports_and_protocol)
}

/// Spreads every input bit over the output (the finaliser of SplitMix64, Steele et al., OOPSLA 2014).
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn smallest_prime_from(start: usize) -> usize {
    (start..).find(|n| is_prime(*n)).unwrap_or(start)
}

fn is_prime(n: usize) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The members of all entries in order.
    fn positions(table: &Maglev) -> Vec<usize> {
        match &table.0 {
            Entries::Packed(pairs, size) => {
                let both = pairs.iter().flat_map(|pair| [pair & 0xf, pair >> 4]);
                both.take(*size).map(usize::from).collect()
            }
            Entries::Narrow(entries) => entries.iter().map(|member| usize::from(*member)).collect(),
            Entries::Wide(entries) => entries.iter().map(|member| usize::from(*member)).collect(),
            Entries::Widest(entries) => entries.iter().map(|member| *member as usize).collect(),
        }
    }

    fn shares(table: &Maglev, members: usize) -> Vec<usize> {
        let mut shares = vec![0; members];
        for member in positions(table) {
            shares[member] += 1;
        }
        shares
    }

    /// The table as the paper's pseudocode makes it, by permutations that are written out.
    fn as_the_paper_says(identities: &[u64]) -> Vec<usize> {
        let size = smallest_prime_from(identities.len().next_power_of_two() * ENTRIES_PER_MEMBER) as u64;
        let permutation = |identity: &u64| -> Vec<u64> {
            let offset = mix(identity ^ SEED) % size;
            let skip = mix(identity ^ !SEED) % (size - 1) + 1;
            (0..size).map(|step| (offset + step * skip) % size).collect()
        };
        let mut permutations: Vec<_> = identities.iter().map(|one| permutation(one).into_iter()).collect();
        let mut entries = vec![None; size as usize];
        for turn in (0..identities.len()).cycle() {
            if entries.iter().all(Option::is_some) {
                break;
            }
            let place = permutations[turn].find(|place| entries[*place as usize].is_none()).unwrap();
            entries[place as usize] = Some(turn);
        }
        entries.into_iter().flatten().collect()
    }

    #[test]
    fn tables_of_every_width_are_as_the_paper_says() {
        for members in [2, 10, 16, 17, 255, 256, 300] {
            let identities: Vec<u64> = (0..members).map(mix).collect();
            let table = Maglev::new(&identities);
            assert_eq!(matches!(table.0, Entries::Packed(..)), members < 17, "{members}");
            assert_eq!(matches!(table.0, Entries::Narrow(_)), (17..256).contains(&members), "{members}");
            assert_eq!(positions(&table), as_the_paper_says(&identities), "{members}");
        }
    }

    proptest! {
        #[test]
        fn every_member_has_an_equal_share_of_a_full_table(
            identities in proptest::collection::btree_set(any::<u64>(), 1..40),
        ) {
            let identities: Vec<u64> = identities.into_iter().collect();
            let table = Maglev::new(&identities);
            let shares = shares(&table, identities.len());
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert!(most - least <= 1);
            prop_assert_eq!(shares.iter().sum::<usize>(), positions(&table).len());
        }
    }

    #[test]
    fn removing_one_of_ten_members_moves_few_entries_of_the_others() {
        let before: Vec<u64> = (0..10).collect();
        let after: Vec<u64> = (0..10).filter(|n| *n != 4).collect();
        let (old, new) = (Maglev::new(&before), Maglev::new(&after));
        let hashes: Vec<u64> = (0..20_000).map(mix).collect();
        let stayed = hashes.iter().filter(|h| before[old.choose(**h).unwrap()] != 4);
        let moved = stayed
            .clone()
            .filter(|h| before[old.choose(**h).unwrap()] != after[new.choose(**h).unwrap()])
            .count();
        let share = moved as f64 / stayed.count() as f64;
        assert!(share < 0.05, "{share}");
    }

    #[test]
    fn a_choice_is_the_entry_that_the_hash_falls_on_in_every_width() {
        for members in [1, 2, 16, 17, 256] {
            let identities: Vec<u64> = (0..members).map(mix).collect();
            let table = Maglev::new(&identities);
            let positions = positions(&table);
            for hash in (0..1000).map(mix).chain([0, u64::MAX]) {
                let place = (u128::from(hash) * positions.len() as u128) >> 64;
                assert_eq!(table.choose(hash), Some(positions[place as usize]), "{members}: {hash}");
            }
        }
    }

    #[test]
    fn no_member_means_no_choice() {
        assert_eq!(Maglev::new(&[]).choose(7), None);
    }
}
