//! The five values that name one direction of a flow, and their keyed hash.

use core::fmt;
use core::hash::Hasher;
use core::net::Ipv4Addr;

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;

use super::index::Slot;
use crate::net::{Address, Port, Ports, Protocol};

/// What the header of every packet of one direction says: both ends and the protocol.
///
/// Addresses and ports are packed as words. Kept in the fields that people name, they would be written in small pieces
/// and read as words at once, for which a processor waits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key<A: Address = Ipv4Addr> {
    /// Source and destination address, source first.
    pub(super) addresses: A::Pair,
    /// Source and destination port, source first.
    pub(super) ports: Ports,
    /// Protocol of the ports.
    pub protocol: Protocol,
}

impl<A: Address> Key<A> {
    /// Makes the key of packets from one end, its address and port, to the other.
    #[inline]
    #[must_use]
    pub fn new(source: (A, Port), destination: (A, Port), protocol: Protocol) -> Self {
        let ((source, source_port), (destination, destination_port)) = (source, destination);
        Self::of(A::pair(source, destination), Ports::new(source_port, destination_port), protocol)
    }

    /// Makes the key of packets with these addresses, packed by [`Address::pair`], and ports.
    #[inline]
    #[must_use]
    pub const fn of(addresses: A::Pair, ports: Ports, protocol: Protocol) -> Self {
        Self { addresses, ports, protocol }
    }

    /// Returns both ports.
    #[inline]
    #[must_use]
    pub const fn ports(&self) -> Ports {
        self.ports
    }

    /// Returns the source address in the header.
    #[inline]
    #[must_use]
    pub fn source(&self) -> A {
        A::unpair(self.addresses).0
    }

    /// Returns the destination address in the header.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> A {
        A::unpair(self.addresses).1
    }

    /// Returns the source port in the header.
    #[inline]
    #[must_use]
    pub const fn source_port(&self) -> Port {
        self.ports.source()
    }

    /// Returns the destination port in the header.
    #[inline]
    #[must_use]
    pub const fn destination_port(&self) -> Port {
        self.ports.destination()
    }

    /// Returns the key of a packet that goes the other way between the same two ends.
    #[inline]
    #[must_use]
    pub fn reversed(self) -> Self {
        let (source, destination) = A::unpair(self.addresses);
        Self::of(A::pair(destination, source), self.ports.reversed(), self.protocol)
    }

    /// Returns the key with another source address.
    #[must_use]
    pub fn with_source(self, source: A) -> Self {
        Self { addresses: A::pair(source, self.destination()), ..self }
    }

    /// Returns the key with another destination address.
    #[must_use]
    pub fn with_destination(self, destination: A) -> Self {
        Self { addresses: A::pair(self.source(), destination), ..self }
    }

    /// Returns the key with another source port.
    #[must_use]
    pub fn with_source_port(self, port: Port) -> Self {
        Self { ports: Ports::new(port, self.destination_port()), ..self }
    }

    /// Returns the key with another destination port.
    #[must_use]
    pub fn with_destination_port(self, port: Port) -> Self {
        Self { ports: Ports::new(self.source_port(), port), ..self }
    }
}

impl<A: Address> fmt::Debug for Key<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, destination) = A::unpair(self.addresses);
        let [source_port, destination_port] = [self.source_port(), self.destination_port()];
        write!(f, "{} {source} {source_port} > {destination} {destination_port}", self.protocol)
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
    /// The first slot that has the hash's tag; empty if none has where it was sought.
    pub(super) slot: Slot,
}

impl Sought {
    /// Returns the hash.
    #[inline]
    #[must_use]
    pub const fn hash(self) -> KeyHash {
        self.hash
    }

    /// Says whether the index led nowhere as far as it was sought through.
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
        let ports = u64::from(key.protocol.number()) << 32 | u64::from(key.ports.0);
        let mut hasher = FoldHasher::with_seed(self.seed, &self.shared);
        // Two words a multiplication: where the addresses fill pairs of words, the ports are alone in the last.
        let addresses = key.addresses;
        let (pairs, last) = addresses.as_ref().as_chunks::<2>();
        for [first, second] in pairs {
            hasher.write_u128(u128::from(*first) << 64 | u128::from(*second));
        }
        let (high, low) = last.first().map_or((0, ports), |word| (ports, *word));
        hasher.write_u128(u128::from(high) << 64 | u128::from(low));
        KeyHash(hasher.finish())
    }
}
