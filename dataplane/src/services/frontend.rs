//! By what clients call a Service (K15 to K18).

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::{Port, Protocol};

/// By what clients call a Service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Frontend {
    /// A ClusterIP: all ports of the address are the Service's.
    Address(IpAddr),
    /// One port of an external or load-balancer address; of the unspecified address, that port of every node address
    /// of its family (NodePort). Other ports are not the Service's.
    Socket(IpAddr, Protocol, Port),
}

impl Frontend {
    /// Returns the NodePort frontend of a family, which `of` is an address of.
    #[must_use]
    pub const fn node_port(of: IpAddr, protocol: Protocol, port: Port) -> Self {
        Self::Socket(unspecified(of), protocol, port)
    }

    /// Returns its address; unspecified for a NodePort.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        match self {
            Self::Address(address) | Self::Socket(address, ..) => *address,
        }
    }
}

impl From<IpAddr> for Frontend {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Socket(address, protocol, port) if address.is_unspecified() => {
                write!(f, "node port {port}/{protocol}")
            }
            Self::Socket(address, protocol, port) => {
                write!(f, "{}/{protocol}", SocketAddr::new(*address, port.number()))
            }
        }
    }
}

/// Returns the unspecified address of the same family.
pub(super) const fn unspecified(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}
