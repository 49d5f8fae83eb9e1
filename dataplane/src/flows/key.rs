//! The five values that name one direction of a flow, and their keyed hash.

use core::hash::Hasher;
use core::net::Ipv4Addr;

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;

use super::index::Slot;
use crate::net::{Address, Port, Protocol};

/// What the header of every packet of one direction says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key<A = Ipv4Addr> {
    /// Source address in the header.
    pub source: A,
    /// Destination address in the header.
    pub destination: A,
    /// Source port in the header.
    pub source_port: Port,
    /// Destination port in the header.
    pub destination_port: Port,
    /// Protocol of the ports.
    pub protocol: Protocol,
}

impl<A: Copy> Key<A> {
    /// Returns the key of a packet that goes the other way between the same two ends.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }

    /// Returns source and destination port as one number, source first.
    pub(super) const fn ports(self) -> u32 {
        (self.source_port.number() as u32) << 16 | self.destination_port.number() as u32
    }
}

impl<A: Address> Key<A> {
    /// Returns source and destination address as words, source first.
    #[inline]
    pub(super) fn addresses(self) -> A::Pair {
        A::pair(self.source, self.destination)
    }

    /// Unpacks what [`Key::addresses`] and [`Key::ports`] made.
    #[inline]
    pub(super) fn unpack(addresses: A::Pair, ports: u32, protocol: Protocol) -> Self {
        let (source, destination) = A::unpair(addresses);
        Self {
            source,
            destination,
            source_port: Port::new((ports >> 16) as u16),
            destination_port: Port::new(ports as u16),
            protocol,
        }
    }
}

/// Which way a packet goes: with the first packet of its flow, or against it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// From the client to the Service.
    Request,
    /// From the backend to the client.
    Reply,
}

/// The hash of a key under the secret of one table; it decides both buckets and the tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeyHash(pub(super) u64);

impl KeyHash {
    /// Returns two numbers that the secret decides, each by itself.
    #[must_use]
    pub const fn halves(self) -> [u32; 2] {
        [(self.0 >> 32) as u32, self.0 as u32]
    }
}

/// A key's hash, and the slot that seemed to lead to it: a look-up begins there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sought {
    pub(super) hash: KeyHash,
    /// The first slot of both buckets that has the hash's tag; empty if none has.
    pub(super) slot: Slot,
}

impl Sought {
    /// Returns the hash.
    #[inline]
    #[must_use]
    pub const fn hash(self) -> KeyHash {
        self.hash
    }

    /// Says whether the index led nowhere, so that the key was in no flow.
    #[inline]
    #[must_use]
    pub const fn is_unknown(self) -> bool {
        self.slot.is_empty()
    }
}

impl From<KeyHash> for Sought {
    fn from(hash: KeyHash) -> Self {
        Self { hash, slot: Slot::EMPTY }
    }
}

/// Hashes keys with a 128-bit secret, so that crafted addresses and ports cannot aim at a bucket.
///
/// The secret is made with the table's memory and stays with it. Nothing stored depends on the hash beyond a
/// start, so another version of the hash may read the same file.
#[derive(Clone, Debug)]
pub(super) struct KeyHasher {
    seed: u64,
    shared: SharedSeed,
}

impl KeyHasher {
    pub(super) const fn new(secret: [u64; 2]) -> Self {
        let [seed, shared] = secret;
        Self { seed, shared: SharedSeed::from_u64(shared) }
    }

    /// Hashes a key: two multiplications for IPv4, four for IPv6.
    #[inline]
    pub(super) fn hash<A: Address>(&self, key: &Key<A>) -> KeyHash {
        let ports = u64::from(key.protocol.number()) << 32 | u64::from(key.ports());
        let mut hasher = FoldHasher::with_seed(self.seed, &self.shared);
        // Two words a multiplication: where the addresses fill pairs of words, the ports are alone in the last.
        let addresses = key.addresses();
        let (pairs, last) = addresses.as_ref().as_chunks::<2>();
        for [first, second] in pairs {
            hasher.write_u128(u128::from(*first) << 64 | u128::from(*second));
        }
        let (high, low) = last.first().map_or((0, ports), |word| (ports, *word));
        hasher.write_u128(u128::from(high) << 64 | u128::from(low));
        KeyHash(hasher.finish())
    }
}
