//! Compares all slots of a bucket at once, where the processor has lanes for that; else one after the other.
#![allow(unsafe_code)]

use core::sync::atomic::AtomicU64;

use super::memory::BUCKET_SLOTS;

/// Returns which words of a bucket have `wanted` in those bits of their high half that `mask` names; a bit each.
///
/// Each word is read once and relaxed; what they were at different moments may come together.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn matching(words: &[AtomicU64; BUCKET_SLOTS], mask: u32, wanted: u32) -> u32 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { x86_64::matching(words, mask, wanted) }
}

/// As above, on a processor that is not asked for its lanes.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(super) fn matching(words: &[AtomicU64; BUCKET_SLOTS], mask: u32, wanted: u32) -> u32 {
    one_by_one(words.iter().map(|word| word.load(core::sync::atomic::Ordering::Relaxed)), mask, wanted)
}

/// Returns which words have `wanted` where `mask` says, as [`matching`] does, of any words.
#[inline]
pub(super) fn one_by_one(words: impl DoubleEndedIterator<Item = u64>, mask: u32, wanted: u32) -> u32 {
    words.rev().fold(0, |bits, word| bits << 1 | u32::from((word >> 32) as u32 & mask == wanted))
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use core::arch::asm;
    use core::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_castps_si128, _mm_castsi128_ps, _mm_cmpeq_epi32, _mm_movemask_epi8,
        _mm_packs_epi16, _mm_packs_epi32, _mm_set1_epi32, _mm_shuffle_ps,
    };
    use core::sync::atomic::AtomicU64;

    use super::BUCKET_SLOTS;

    /// Lanes 1 and 3 of both operands: the high halves of four words.
    const HIGH_HALVES: i32 = 0b11_01_11_01;

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn matching(words: &[AtomicU64; BUCKET_SLOTS], mask: u32, wanted: u32) -> u32 {
        let [a, b, c, d] = load(words);
        let (mask, wanted) = (_mm_set1_epi32(mask.cast_signed()), _mm_set1_epi32(wanted.cast_signed()));
        let is_wanted = |first: __m128i, second: __m128i| {
            let halves = _mm_shuffle_ps::<HIGH_HALVES>(_mm_castsi128_ps(first), _mm_castsi128_ps(second));
            _mm_cmpeq_epi32(_mm_and_si128(_mm_castps_si128(halves), mask), wanted)
        };
        let lanes = _mm_packs_epi32(is_wanted(a, b), is_wanted(c, d));
        _mm_movemask_epi8(_mm_packs_epi16(lanes, lanes)).cast_unsigned() & 0xff
    }

    /// Reads the eight words, two at a time.
    #[inline]
    fn load(words: &[AtomicU64; BUCKET_SLOTS]) -> [__m128i; 4] {
        let (a, b, c, d);
        // SAFETY: reads the 64 octets that are borrowed, of any alignment, and nothing else. Other threads may write the
        // words meanwhile: then each half of a register holds what one of their atomic stores wrote, since an x86-64
        // processor reads eight aligned octets as one whole, also within a longer access. So this does what eight
        // relaxed atomic loads do, in some order. It is assembly because a vector load of the language would be a data race.
        unsafe {
            asm!(
                "movups {a}, [{words}]",
                "movups {b}, [{words} + 16]",
                "movups {c}, [{words} + 32]",
                "movups {d}, [{words} + 48]",
                words = in(reg) words.as_ptr(),
                a = out(xmm_reg) a,
                b = out(xmm_reg) b,
                c = out(xmm_reg) c,
                d = lateout(xmm_reg) d,
                options(nostack, preserves_flags, readonly),
            );
        }
        [a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering::Relaxed;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_at_once_gives_what_one_by_one_gives(
            words in any::<[u32; BUCKET_SLOTS]>(),
            lows in any::<[u32; BUCKET_SLOTS]>(),
            mask in prop_oneof![Just(u32::MAX), Just(!1), Just(1 << 31), any::<u32>()],
            pick in 0..=BUCKET_SLOTS,
            twin in 0..BUCKET_SLOTS,
        ) {
            let mut words = words;
            // Of a word that is there, or of one that is nowhere; and of two.
            let wanted = words.get(pick).copied().unwrap_or(0x1234_5678) & mask;
            words[twin] = wanted;
            let bucket: [AtomicU64; BUCKET_SLOTS] =
                core::array::from_fn(|n| AtomicU64::new(u64::from(words[n]) << 32 | u64::from(lows[n])));
            let expected: u32 =
                (0..BUCKET_SLOTS).map(|n| u32::from(words[n] & mask == wanted) << n).sum();
            prop_assert_eq!(matching(&bucket, mask, wanted), expected);
            prop_assert_eq!(one_by_one(bucket.iter().map(|word| word.load(Relaxed)), mask, wanted), expected);
        }
    }
}
