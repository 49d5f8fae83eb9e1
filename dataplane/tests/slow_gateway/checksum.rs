//! Numbers in network order, and sums computed in full.

pub fn word(octets: &[u8], at: usize) -> u16 {
    u16::from(octets[at]) << 8 | u16::from(octets[at + 1])
}

pub fn set_word(octets: &mut [u8], at: usize, word: u16) {
    octets[at] = (word >> 8) as u8;
    octets[at + 1] = word as u8;
}

pub fn long(octets: &[u8], at: usize) -> u32 {
    u32::from(word(octets, at)) << 16 | u32::from(word(octets, at + 2))
}

/// The sum of RFC 1071 as a number from 0 to 65,534, where zero stands for both zeros of ones' complement.
pub fn sum(octets: &[u8]) -> u32 {
    let mut sum = 0_u64;
    for pair in octets.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    (sum % 65_535) as u32
}

/// The word that brings a sum of `rest` to `total`.
pub fn missing(total: u32, rest: u32) -> u16 {
    ((total + 65_535 - rest) % 65_535) as u16
}
