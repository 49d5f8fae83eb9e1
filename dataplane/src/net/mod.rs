//! What is on the wire: one header per file, each a view over octets that exists only if its octets do.
//!
//! Reading order: [`ethernet`], [`ipv4`], [`ipv6`], [`header_chain`], [`tcp`], [`udp`], [`icmpv4`],
//! [`icmpv6`], [`sctp`], [`checksum`].

mod address;
pub mod checksum;
mod crc32c;
pub mod ethernet;
pub mod header_chain;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
mod prefix;
pub mod sctp;
pub mod tcp;
pub mod udp;

pub use address::{Address, Mac, Port, Ports, Protocol};
pub use prefix::Prefix;
