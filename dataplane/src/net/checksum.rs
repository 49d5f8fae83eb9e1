//! The Internet checksum, and its change by difference. Read RFC 1071 and RFC 1624 first.

use super::Address;

/// The change of a ones' complement sum when octets it covers change.
///
/// A flow computes it once; each packet then costs one addition per checksum, whatever its length.
/// Source: RFC 1624 §3, equation 3: `HC' = ~(~HC + ~m + m')`; the difference is the `~m + m'` part. The words are in the
/// order of the processor, which the sum does not depend on (RFC 1071 §2 (B)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Difference(pub u16);

impl Difference {
    /// The difference that changes nothing.
    pub const NONE: Self = Self(0);

    /// Adds the replacement of one 16-bit word by another.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: [u8; 2], new: [u8; 2]) -> Self {
        let sum = self.0 as u32 + !u16::from_ne_bytes(old) as u32 + u16::from_ne_bytes(new) as u32;
        Self(fold(sum))
    }

    /// Adds the replacement of some octets by as many others; an even number of them.
    #[must_use]
    pub fn octets<const N: usize>(self, old: [u8; N], new: [u8; N]) -> Self {
        let (old, new) = (old.as_chunks::<2>().0, new.as_chunks::<2>().0);
        old.iter().zip(new).fold(self, |difference, (old, new)| difference.word(*old, *new))
    }

    /// Adds another change.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(fold(self.0 as u32 + other.0 as u32))
    }

    /// Returns the difference that undoes this one: in ones' complement, the complement.
    #[must_use]
    pub const fn inverse(self) -> Self {
        Self(!self.0)
    }

    /// Returns `checksum` as it is after the change.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        let sum = !u16::from_ne_bytes(checksum) as u32 + self.0 as u32;
        (!fold(sum)).to_ne_bytes()
    }
}

#[inline]
const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// A running ones' complement sum over octets (RFC 1071); for packets that we make ourselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds octets; all but the last addition must have an even length.
    #[must_use]
    pub fn octets(self, octets: &[u8]) -> Self {
        // Two words at a time: 2^16 is 1 in ones' complement, so their sum is that of the number they make.
        let (pairs, rest) = octets.as_chunks::<4>();
        let mut sum = self.0;
        for pair in pairs {
            sum += u64::from(u32::from_be_bytes(*pair));
        }
        let (words, rest) = rest.as_chunks::<2>();
        for word in words {
            sum += u64::from(u16::from_be_bytes(*word));
        }
        if let [last] = rest {
            sum += u64::from(*last) << 8;
        }
        Self(sum)
    }

    /// Returns the sum as one word.
    #[must_use]
    pub const fn word(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (sum as u16).to_be_bytes()
    }

    /// Returns the checksum field: the complement of the folded sum.
    #[must_use]
    pub const fn checksum(self) -> [u8; 2] {
        let [high, low] = self.word();
        [!high, !low]
    }
}

/// Says whether octets, their checksum among them, sum up to ones only: then it is right. An even number of octets.
///
/// Source: RFC 1071 §1 (3), and §2 (B): the sum is the same, its octets swapped, in the other order.
#[inline]
#[must_use]
pub fn is_all_ones(octets: &[u8]) -> bool {
    let (words, rest) = octets.as_chunks::<8>();
    let (pairs, rest) = rest.as_chunks::<4>();
    let sum = words.iter().fold(0, |sum, word| add(sum, u64::from_ne_bytes(*word)));
    let sum = pairs.iter().fold(sum, |sum, pair| add(sum, u64::from(u32::from_ne_bytes(*pair))));
    let sum = rest.as_chunks().0.iter().fold(sum, |sum, word| add(sum, u64::from(u16::from_ne_bytes(*word))));
    // What is folded to 16 bits leaves the same rest, and to all ones only if there is none.
    sum != 0 && sum % 0xffff == 0
}

/// Adds in ones' complement of 64 bits, in which a carry comes in again at the other end.
#[inline]
const fn add(sum: u64, word: u64) -> u64 {
    let (sum, carry) = sum.overflowing_add(word);
    sum + carry as u64
}

/// Sums the pseudo-header of TCP, UDP and `ICMPv6`; `length` is that of the upper layer, header and data.
///
/// Both families' have the same terms, and a sum does not tell where they stand.
/// Source: RFC 9293 §3.1, RFC 768; RFC 8200 §8.1.
#[must_use]
pub fn pseudo_header<A: Address>(source: A, destination: A, protocol: u8, length: u16) -> Sum {
    destination.sum(source.sum(Sum::default())).octets(&[0, protocol]).octets(&length.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_difference_gives_what_a_full_sum_gives(
            mut octets in proptest::collection::vec(any::<u8>(), 20..64),
            new in any::<[u8; 4]>(),
        ) {
            octets.truncate(octets.len() & !1);
            octets[0] = 0x45;
            let before = Sum::default().octets(&octets).checksum();
            let old: [u8; 4] = octets[4..8].try_into().unwrap();
            octets[4..8].copy_from_slice(&new);
            let after = Sum::default().octets(&octets).checksum();
            let difference = Difference::NONE.octets(old, new);
            prop_assert_eq!(difference.apply(before), after);
            prop_assert_eq!(difference.inverse().apply(after), before);
        }
    }

    proptest! {
        #[test]
        fn a_right_checksum_makes_all_ones_and_any_other_does_not(
            mut octets in proptest::collection::vec(any::<u8>(), 2..80),
            wrong in 1..=0xfffe_u16,
        ) {
            octets.truncate(octets.len() & !1);
            octets[..2].fill(0);
            let sum = Sum::default().octets(&octets).checksum();
            octets[..2].copy_from_slice(&sum);
            prop_assert!(is_all_ones(&octets) || sum == [0xff, 0xff] && octets.iter().skip(2).all(|octet| *octet == 0));
            let other = u16::from_be_bytes(sum).wrapping_add(wrong);
            // Both zeros of ones' complement are zero.
            prop_assume!(other % 0xffff != u16::from_be_bytes(sum) % 0xffff);
            octets[..2].copy_from_slice(&other.to_be_bytes());
            prop_assert!(!is_all_ones(&octets));
        }
    }

    #[test]
    fn the_sum_of_rfc_1071_section_3_is_reproduced() {
        let sum = Sum::default().octets(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).checksum();
        assert_eq!(sum, (!0xddf2u16).to_be_bytes());
    }

    #[test]
    fn the_example_of_rfc_1624_section_4_is_reproduced() {
        let difference = Difference::NONE.word([0x55, 0x55], [0x32, 0x85]);
        assert_eq!(difference.apply([0xdd, 0x2f]), [0x00, 0x00]);
    }
}
