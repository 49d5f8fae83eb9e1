//! Addresses in network order as types, so that byte order cannot be mixed up.

use core::fmt;
use core::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{Difference, Sum};

/// An IP address of one family; code that is the same for both families takes its type as a parameter.
pub trait Address:
    Copy + Eq + Ord + Hash + fmt::Debug + fmt::Display + Into<IpAddr> + Send + Sync + 'static
{
    /// Two addresses as words.
    type Pair: AsRef<[u64]> + AsMut<[u64]> + Copy + Default + Eq + Hash + fmt::Debug + Send + Sync;

    /// The address that stands for none.
    const UNSPECIFIED: Self;

    /// Returns the address if it is of this family.
    fn of(address: IpAddr) -> Option<Self>;

    /// Makes an address whose bits are these and otherwise zero.
    fn spread(octets: [u8; 4]) -> Self;

    /// Packs two addresses, that of the source first.
    fn pair(source: Self, destination: Self) -> Self::Pair;

    /// Unpacks what [`Address::pair`] made.
    fn unpair(pair: Self::Pair) -> (Self, Self);

    /// Adds the replacement of this address by another to the change of a sum that covers it.
    #[must_use]
    fn replaced(self, by: Self, difference: Difference) -> Difference;

    /// Adds the address to a sum that covers it.
    #[must_use]
    fn sum(self, sum: Sum) -> Sum;

    /// Says whether no packet on a link may have this source.
    ///
    /// Source: RFC 1122 §3.2.1.3, RFC 6890; RFC 4291 §2.5.2, §2.5.3, §2.7.
    fn is_martian_source(self) -> bool;

    /// Says whether no router may forward packets from it. Source: RFC 4291 §2.5.6.
    fn is_link_local(self) -> bool;

    /// Says whether packets to it go to more than one station: multicast, or the limited broadcast.
    fn is_many(self) -> bool;
}

impl Address for Ipv4Addr {
    type Pair = [u64; 1];

    const UNSPECIFIED: Self = Self::UNSPECIFIED;

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    #[inline]
    fn spread(octets: [u8; 4]) -> Self {
        octets.into()
    }

    #[inline]
    fn pair(source: Self, destination: Self) -> [u64; 1] {
        [u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits())]
    }

    #[inline]
    fn unpair([pair]: [u64; 1]) -> (Self, Self) {
        (Self::from_bits((pair >> 32) as u32), Self::from_bits(pair as u32))
    }

    #[inline]
    fn replaced(self, by: Self, difference: Difference) -> Difference {
        difference.octets(self.octets(), by.octets())
    }

    fn sum(self, sum: Sum) -> Sum {
        sum.octets(&self.octets())
    }

    #[inline]
    fn is_martian_source(self) -> bool {
        self.is_unspecified() || self.is_loopback() || self.is_multicast() || self.is_broadcast()
    }

    /// IPv4's 169.254/16 is in use for more than links, so it is left to the routes.
    #[inline]
    fn is_link_local(self) -> bool {
        false
    }

    fn is_many(self) -> bool {
        self.is_multicast() || self.is_broadcast()
    }
}

impl Address for Ipv6Addr {
    type Pair = [u64; 4];

    const UNSPECIFIED: Self = Self::UNSPECIFIED;

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }
    }

    #[inline]
    fn spread([a, b, c, d]: [u8; 4]) -> Self {
        Self::new(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), 0, 0, 0, 0, 0, 0)
    }

    #[inline]
    fn pair(source: Self, destination: Self) -> [u64; 4] {
        let halves = |address: Self| [(address.to_bits() >> 64) as u64, address.to_bits() as u64];
        let ([a, b], [c, d]) = (halves(source), halves(destination));
        [a, b, c, d]
    }

    #[inline]
    fn unpair([a, b, c, d]: [u64; 4]) -> (Self, Self) {
        let whole = |high, low| Self::from_bits(u128::from(high) << 64 | u128::from(low));
        (whole(a, b), whole(c, d))
    }

    #[inline]
    fn replaced(self, by: Self, difference: Difference) -> Difference {
        difference.octets(self.octets(), by.octets())
    }

    fn sum(self, sum: Sum) -> Sum {
        sum.octets(&self.octets())
    }

    /// An IPv4-mapped address stands for an IPv4 host inside one machine and never in a header (RFC 4038 §4.2).
    #[inline]
    fn is_martian_source(self) -> bool {
        self.is_unspecified() || self.is_loopback() || self.is_multicast() || self.to_ipv4_mapped().is_some()
    }

    #[inline]
    fn is_link_local(self) -> bool {
        self.is_unicast_link_local()
    }

    fn is_many(self) -> bool {
        self.is_multicast()
    }
}

/// An IEEE 802 address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A transport port in network order, as it stands in the header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct Port(pub [u8; 2]);

impl Port {
    /// Makes a port from the number people write.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be_bytes())
    }

    /// Returns the number people read.
    #[must_use]
    pub const fn number(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.number(), f)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.number(), f)
    }
}

/// The ports of a packet, or of one direction of a flow, as one word: that of the source first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Ports(pub u32);

impl Ports {
    /// Packs two ports.
    #[inline]
    #[must_use]
    pub const fn new(source: Port, destination: Port) -> Self {
        let ([a, b], [c, d]) = (source.0, destination.0);
        Self(u32::from_be_bytes([a, b, c, d]))
    }

    /// Returns the sender's.
    #[inline]
    #[must_use]
    pub const fn source(self) -> Port {
        Port::new((self.0 >> 16) as u16)
    }

    /// Returns the receiver's.
    #[inline]
    #[must_use]
    pub const fn destination(self) -> Port {
        Port::new(self.0 as u16)
    }

    /// Returns the ports of a packet that goes the other way.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self(self.0.rotate_left(16))
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.source(), self.destination())
    }
}

/// A transport protocol that a Service can have (Kubernetes `Protocol`).
///
/// The discriminant is the IP protocol number. Source: IANA protocol numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
    /// RFC 9260.
    Sctp = 132,
}

impl Protocol {
    /// Returns the protocol of an IP protocol number, or `None` if no Service can have it.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// Returns the IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}
