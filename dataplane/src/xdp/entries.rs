//! What the program decides by: VIPs, endpoints, the box's own addresses, listeners; and its counters.
//!
//! All changes are idempotent: inserting what is there and removing what is not are no errors. A change costs one
//! or two system calls, whatever the number of entries.

use std::net::{IpAddr, Ipv6Addr};

use aya::maps::lpm_trie::Key;

use super::counters::{Counters, NAMES};
use super::error::Error;
use super::sockets::{ADDRESS_BYTES, BPF_NOEXIST, PRESENT, Socket, inserted, mapped, removed};
use super::steering::{Steering, map_error};
use crate::masquerade::PortRange;
use crate::net::{Port, Protocol};

/// The most VIP prefixes, service CIDRs and single addresses, unless [`Room`] says otherwise.
pub const MAX_VIP_PREFIXES: u32 = 65_536;
/// The most endpoints, and the most addresses they have, unless [`Room`] says otherwise.
pub const MAX_ENDPOINTS: u32 = 262_144;
/// The most addresses of the box itself.
pub const MAX_OWN_ADDRESSES: u32 = 4_096;
/// The most listeners.
pub const MAX_LISTENERS: u32 = 1_024;

/// The most sockets of Services at own addresses.
pub const MAX_SERVED_SOCKETS: u32 = 65_536;

/// How much the maps hold. The kernel keeps 16 octets for each endpoint that there is room for, twice, rounded up to a
/// power of two; an entry itself, of whichever map, takes its memory when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// VIP prefixes: service CIDRs and single addresses.
    pub vip_prefixes: u32,
    /// Endpoints, and addresses that they have.
    pub endpoints: u32,
}

impl Default for Room {
    fn default() -> Self {
        Self { vip_prefixes: MAX_VIP_PREFIXES, endpoints: MAX_ENDPOINTS }
    }
}

/// The first of the IPv6 addresses that stand for IPv4 ones, `::ffff:0.0.0.0`.
const IPV4_MAPPED: u128 = 0xffff_0000_0000;

impl Steering {
    /// Has packets to `address`, or to all addresses that share its first `prefix_length` bits, taken.
    pub fn insert_vip(&mut self, address: IpAddr, prefix_length: u8) -> Result<(), Error> {
        let (key, name) = prefix(address, prefix_length)?;
        self.vip_prefixes.insert(&key, PRESENT, 0).map_err(|error| map_error("vip_prefixes", name, error))
    }

    /// Ends what [`Self::insert_vip`] began, for exactly this prefix.
    pub fn remove_vip(&mut self, address: IpAddr, prefix_length: u8) -> Result<(), Error> {
        let (key, name) = prefix(address, prefix_length)?;
        removed("vip_prefixes", name, self.vip_prefixes.remove(&key)).map(|_| ())
    }

    /// Has packets from this endpoint taken, and fragments without ports from its address.
    pub fn insert_endpoint(&mut self, address: IpAddr, port: Port, protocol: Protocol) -> Result<(), Error> {
        self.endpoints.insert(Socket { address, port, protocol })
    }

    /// Ends what [`Self::insert_endpoint`] began.
    pub fn remove_endpoint(&mut self, address: IpAddr, port: Port, protocol: Protocol) -> Result<(), Error> {
        self.endpoints.remove(Socket { address, port, protocol })
    }

    /// Has packets to this socket taken although its address is the box's own, and fragments without ports to its
    /// address.
    pub fn insert_served(&mut self, address: IpAddr, port: Port, protocol: Protocol) -> Result<(), Error> {
        self.served.insert(Socket { address, port, protocol })
    }

    /// Ends what [`Self::insert_served`] began.
    pub fn remove_served(&mut self, address: IpAddr, port: Port, protocol: Protocol) -> Result<(), Error> {
        self.served.remove(Socket { address, port, protocol })
    }

    /// Has packets to this address passed: it is the box's own.
    pub fn insert_own_address(&mut self, address: IpAddr) -> Result<(), Error> {
        let result = self.own_addresses.insert(mapped(address).octets(), PRESENT, BPF_NOEXIST);
        inserted("own_addresses", address, result).map(|_| ())
    }

    /// Ends what [`Self::insert_own_address`] began.
    pub fn remove_own_address(&mut self, address: IpAddr) -> Result<(), Error> {
        removed("own_addresses", address, self.own_addresses.remove(&mapped(address).octets())).map(|_| ())
    }

    /// Has packets from an endpoint to one of these ports of an own address taken; until then, or with `None`, none.
    pub fn set_masquerade_ports(&mut self, ports: Option<PortRange>) -> Result<(), Error> {
        let (first, last) = ports.map_or((0, 0), |ports| (ports.first(), ports.last()));
        let ([a, b], [c, d]) = (first.to_ne_bytes(), last.to_ne_bytes());
        let value = u32::from_ne_bytes([a, b, c, d]);
        let name = format!("{first}-{last}");
        self.masquerade_ports.set(0, value, 0).map_err(|error| map_error("masquerade_ports", name, error))
    }

    /// Has packets to a kernel socket of ours passed, before any other rule.
    ///
    /// Later fragments have no port: those pass only if the address is also an own one.
    pub fn insert_listener(&mut self, address: IpAddr, port: Port, protocol: Protocol) -> Result<(), Error> {
        let listener = Socket { address, port, protocol };
        let result = self.listeners.insert(listener.key(), PRESENT, BPF_NOEXIST);
        inserted("listeners", listener, result).map(|_| ())
    }

    /// Ends what [`Self::insert_listener`] began.
    pub fn remove_listener(&mut self, address: IpAddr, port: Port, protocol: Protocol) -> Result<(), Error> {
        let listener = Socket { address, port, protocol };
        removed("listeners", listener, self.listeners.remove(&listener.key())).map(|_| ())
    }

    /// Reads the counters: one system call each.
    pub fn counters(&self) -> Result<Counters, Error> {
        let mut counters = NAMES.map(|name| (name, 0));
        for (reason, (name, packets)) in (0..).zip(&mut counters) {
            let per_cpu = self.counters.get(&reason, 0);
            let per_cpu = per_cpu.map_err(|error| map_error("counters", *name, error))?;
            *packets = per_cpu.iter().sum();
        }
        Ok(counters)
    }
}

/// Makes the key of a prefix, its host bits cleared.
fn prefix(address: IpAddr, length: u8) -> Result<(Key<[u8; ADDRESS_BYTES]>, String), Error> {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    if length > bits {
        let limit = u32::from(bits) + 1;
        return Err(Error::OutOfRange { what: "VIP prefix length", value: length.into(), limit });
    }
    let shared = 128 - bits + length;
    let mask = u128::MAX.checked_shl(128 - u32::from(shared)).unwrap_or(0);
    let network = mapped(address).to_bits() & mask;
    let name = format!("{}/{length}", Ipv6Addr::from_bits(network).to_canonical());
    if address.is_ipv6() && length <= 96 && network == IPV4_MAPPED & mask {
        return Err(Error::CoversIpv4 { prefix: name });
    }
    Ok((Key::new(shared.into(), network.to_be_bytes()), name))
}
