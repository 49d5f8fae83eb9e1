//! Resource records as plain values.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Name;

/// A TYPE or QTYPE. Source: RFC 1035 §3.2.2, IANA DNS parameters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Type(pub u16);

impl Type {
    /// RFC 1035.
    pub const A: Self = Self(1);
    /// RFC 1035.
    pub const NS: Self = Self(2);
    /// RFC 1035.
    pub const CNAME: Self = Self(5);
    /// RFC 1035.
    pub const SOA: Self = Self(6);
    /// RFC 1035.
    pub const PTR: Self = Self(12);
    /// RFC 1035.
    pub const TXT: Self = Self(16);
    /// RFC 3596.
    pub const AAAA: Self = Self(28);
    /// RFC 2782.
    pub const SRV: Self = Self(33);
    /// RFC 1995.
    pub const IXFR: Self = Self(251);
    /// RFC 5936.
    pub const AXFR: Self = Self(252);

    /// Types that people know by name.
    pub(super) const NAMED: [(Self, &'static str); 14] = [
        (Self::A, "A"),
        (Self::AAAA, "AAAA"),
        (Self::CNAME, "CNAME"),
        (Self::SRV, "SRV"),
        (Self::PTR, "PTR"),
        (Self::TXT, "TXT"),
        (Self::SOA, "SOA"),
        (Self::NS, "NS"),
        (Self(15), "MX"),
        (Self(35), "NAPTR"),
        (Self(43), "DS"),
        (Self(48), "DNSKEY"),
        (Self(65), "HTTPS"),
        (Self(255), "ANY"),
    ];

    /// Reads a type's name, or `TYPE` and its number (RFC 3597 §5).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_uppercase();
        let named = Self::NAMED.iter().find(|(_, name)| *name == text).map(|(own, _)| *own);
        named.or_else(|| text.strip_prefix("TYPE")?.parse().ok().map(Self))
    }

    /// Says whether this asks for addresses.
    #[must_use]
    pub fn is_address(self) -> bool {
        self == Self::A || self == Self::AAAA
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMED.iter().find(|(own, _)| own == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

/// Whose record it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The name that was asked, as it was spelled.
    Question,
    /// Another name.
    Name(Name),
}

/// A record of class IN.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Whose record it is.
    pub owner: Owner,
    /// Seconds.
    pub ttl: u32,
    /// Type and data.
    pub data: Data,
}

/// What a record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Data {
    /// RFC 1035 §3.4.1.
    A(Ipv4Addr),
    /// RFC 3596 §2.2.
    Aaaa(Ipv6Addr),
    /// RFC 1035 §3.3.11.
    Ns(Name),
    /// RFC 1035 §3.3.1.
    Cname(Name),
    /// RFC 1035 §3.3.12.
    Ptr(Name),
    /// RFC 1035 §3.3.14.
    Txt(&'static str),
    /// RFC 2782; the priority is always 0.
    Srv {
        /// 1..=100.
        weight: u16,
        /// Where the service listens.
        port: u16,
        /// Whose addresses to use.
        target: Name,
    },
    /// RFC 1035 §3.3.13; refresh, retry and expire are constants of the zone.
    Soa {
        /// MNAME.
        server: Name,
        /// RNAME.
        mailbox: Name,
        /// Grows with every change.
        serial: u32,
        /// Seconds for which a negative answer may be kept (RFC 2308 §4).
        minimum: u32,
    },
}

impl Data {
    /// Returns the type of such data.
    #[must_use]
    pub fn record_type(&self) -> Type {
        match self {
            Self::A(_) => Type::A,
            Self::Aaaa(_) => Type::AAAA,
            Self::Ns(_) => Type::NS,
            Self::Cname(_) => Type::CNAME,
            Self::Ptr(_) => Type::PTR,
            Self::Txt(_) => Type::TXT,
            Self::Srv { .. } => Type::SRV,
            Self::Soa { .. } => Type::SOA,
        }
    }
}

impl From<IpAddr> for Data {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::A(address),
            IpAddr::V6(address) => Self::Aaaa(address),
        }
    }
}
