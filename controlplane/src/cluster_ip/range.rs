//! The places of a CIDR, and how a hash picks one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use ipnet::IpNet;

use crate::cluster::ObjectName;

/// Returns the hash of a name: FNV-1a with 64 bits, so the same in every build and run.
pub(super) fn hash(name: &ObjectName) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.to_string().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// Picks the first free address from the place that the hash points to.
///
/// The lower part of the CIDR is used only when the upper is full, so that people can state addresses there.
/// Source: KEP-3070. Costs at most one look per address that is not free.
pub(super) fn pick(cidr: &IpNet, hash: u64, free: &dyn Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let usable = usable(cidr);
    let middle = (usable.start + reserve(cidr)).min(usable.end);
    [middle..usable.end, usable.start..middle].into_iter().find_map(|part| probe(cidr, part, hash, free))
}

fn probe(cidr: &IpNet, part: Range<u128>, hash: u64, free: &dyn Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let length = part.end - part.start;
    if length == 0 {
        return None;
    }
    let first = part.start + u128::from(hash) % length;
    (first..part.end).chain(part.start..first).map(|offset| at(cidr, offset)).find(free)
}

/// Returns the offsets that hosts can have: without the network and broadcast address, or for IPv6 without
/// the routers' anycast address (RFC 4291 §2.6.1). A CIDR of one or two addresses has none of them (RFC
/// 3021).
fn usable(cidr: &IpNet) -> Range<u128> {
    let bits = cidr.max_prefix_len() - cidr.prefix_len();
    let size = 1_u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX);
    match cidr {
        _ if bits <= 1 => 0..size,
        IpNet::V4(_) => 1..size - 1,
        IpNet::V6(_) => 1..size,
    }
}

/// Returns how many places are left to people. Source: KEP-3070, `min(max(16, size / 16), 256)`.
fn reserve(cidr: &IpNet) -> u128 {
    let bits = cidr.max_prefix_len() - cidr.prefix_len();
    match 1_u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX) {
        size if size <= 16 => 0,
        size => (size / 16).clamp(16, 256),
    }
}

fn at(cidr: &IpNet, offset: u128) -> IpAddr {
    match cidr {
        IpNet::V4(v4) => {
            let low = u32::try_from(offset & u128::from(u32::MAX)).unwrap_or_default();
            Ipv4Addr::from(u32::from(v4.network()).wrapping_add(low)).into()
        }
        IpNet::V6(v6) => Ipv6Addr::from(u128::from(v6.network()).wrapping_add(offset)).into(),
    }
}
