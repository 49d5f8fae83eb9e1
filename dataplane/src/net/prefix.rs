//! A network as people write it, `10.96.0.0/16`.

use std::net::IpAddr;

/// A network address and the bits of it that count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Prefix {
    /// An address in the network.
    pub address: IpAddr,
    /// Leading bits that all its addresses share, 0..=32 or 0..=128.
    pub length: u8,
}

impl Prefix {
    /// Says whether an address is in the network; one of the other family never is.
    #[must_use]
    pub const fn contains(&self, address: IpAddr) -> bool {
        let shared_bits = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            _ => return false,
        };
        shared_bits >= self.length as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, length: u8, address: &str) -> bool {
        Prefix { address: network.parse().unwrap(), length }.contains(address.parse().unwrap())
    }

    #[test]
    fn a_prefix_contains_what_shares_its_leading_bits_and_nothing_of_the_other_family() {
        assert!(contains("10.96.0.0", 12, "10.111.255.255") && !contains("10.96.0.0", 12, "10.112.0.0"));
        assert!(contains("10.96.0.1", 32, "10.96.0.1") && !contains("10.96.0.1", 32, "10.96.0.0"));
        assert!(contains("fd00:96::", 112, "fd00:96::ffff") && !contains("fd00:96::", 112, "fd00:96::1:0"));
        assert!(contains("::", 0, "ff::1") && contains("0.0.0.0", 0, "255.0.0.1"));
        assert!(!contains("::", 0, "0.0.0.0") && !contains("0.0.0.0", 0, "::"));
    }
}
