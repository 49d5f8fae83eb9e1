//! What the program decides by: VIPs, endpoints, the box's own addresses, listeners; and its counters.
//!
//! All changes are idempotent: inserting what is there and removing what is not are no errors. A change costs one
//! or two system calls, whatever the number of entries.

use std::fmt;
use std::net::Ipv4Addr;

use aya::maps::MapError;
use aya::maps::lpm_trie::Key;

use super::counters::{Counters, NAMES};
use super::error::{Error, errno};
use super::steering::{PRESENT, Steering, map_error};
use crate::masquerade::PortRange;
use crate::net::{Port, Protocol};

/// The most VIP prefixes: service CIDRs and single addresses.
pub const MAX_VIP_PREFIXES: u32 = 65_536;
/// The most endpoints, and the most addresses they have.
pub const MAX_ENDPOINTS: u32 = 262_144;
/// The most addresses of the box itself.
pub const MAX_OWN_ADDRESSES: u32 = 4_096;
/// The most listeners.
pub const MAX_LISTENERS: u32 = 1_024;

/// Makes an update fail with `EEXIST` if the key is there. Source: `include/uapi/linux/bpf.h`.
const BPF_NOEXIST: u64 = 1;

/// An (address, port, protocol), laid out as `struct endpoint` in `steer.bpf.c`.
#[derive(Clone, Copy)]
struct Endpoint {
    address: Ipv4Addr,
    port: Port,
    protocol: Protocol,
}

impl Endpoint {
    fn key(&self) -> [u8; 8] {
        let [a, b, c, d] = self.address.octets();
        let Port([high, low]) = self.port;
        [a, b, c, d, high, low, self.protocol.number(), 0]
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.address, self.port, self.protocol)
    }
}

impl Steering {
    /// Has packets to `address`, or to all addresses that share its first `prefix_length` bits, taken.
    pub fn insert_vip(&mut self, address: Ipv4Addr, prefix_length: u8) -> Result<(), Error> {
        let (key, name) = prefix(address, prefix_length)?;
        self.vip_prefixes.insert(&key, PRESENT, 0).map_err(|error| map_error("vip_prefixes", name, error))
    }

    /// Ends what [`Self::insert_vip`] began, for exactly this prefix.
    pub fn remove_vip(&mut self, address: Ipv4Addr, prefix_length: u8) -> Result<(), Error> {
        let (key, name) = prefix(address, prefix_length)?;
        removed("vip_prefixes", name, self.vip_prefixes.remove(&key)).map(|_| ())
    }

    /// Has packets from this endpoint taken, and fragments without ports from its address.
    pub fn insert_endpoint(
        &mut self,
        address: Ipv4Addr,
        port: Port,
        protocol: Protocol,
    ) -> Result<(), Error> {
        let endpoint = Endpoint { address, port, protocol };
        let result = self.endpoints.insert(endpoint.key(), PRESENT, BPF_NOEXIST);
        if !inserted("endpoints", endpoint, result)? {
            return Ok(());
        }
        let result = self.endpoint_addrs.insert(address.octets(), PRESENT, BPF_NOEXIST);
        if let Err(error) = inserted("endpoint_addrs", address, result) {
            let _was_just_inserted = self.endpoints.remove(&endpoint.key());
            return Err(error);
        }
        *self.endpoints_at.entry(address).or_insert(0) += 1;
        Ok(())
    }

    /// Ends what [`Self::insert_endpoint`] began.
    pub fn remove_endpoint(
        &mut self,
        address: Ipv4Addr,
        port: Port,
        protocol: Protocol,
    ) -> Result<(), Error> {
        let endpoint = Endpoint { address, port, protocol };
        if !removed("endpoints", endpoint, self.endpoints.remove(&endpoint.key()))? {
            return Ok(());
        }
        match self.endpoints_at.get_mut(&address) {
            Some(others) if *others > 1 => *others -= 1,
            _ => {
                self.endpoints_at.remove(&address);
                removed("endpoint_addrs", address, self.endpoint_addrs.remove(&address.octets()))?;
            }
        }
        Ok(())
    }

    /// Has packets to this address passed: it is the box's own.
    pub fn insert_own_address(&mut self, address: Ipv4Addr) -> Result<(), Error> {
        let result = self.own_addresses.insert(address.octets(), PRESENT, BPF_NOEXIST);
        inserted("own_addresses", address, result).map(|_| ())
    }

    /// Ends what [`Self::insert_own_address`] began.
    pub fn remove_own_address(&mut self, address: Ipv4Addr) -> Result<(), Error> {
        removed("own_addresses", address, self.own_addresses.remove(&address.octets())).map(|_| ())
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
    pub fn insert_listener(
        &mut self,
        address: Ipv4Addr,
        port: Port,
        protocol: Protocol,
    ) -> Result<(), Error> {
        let listener = Endpoint { address, port, protocol };
        let result = self.listeners.insert(listener.key(), PRESENT, BPF_NOEXIST);
        inserted("listeners", listener, result).map(|_| ())
    }

    /// Ends what [`Self::insert_listener`] began.
    pub fn remove_listener(
        &mut self,
        address: Ipv4Addr,
        port: Port,
        protocol: Protocol,
    ) -> Result<(), Error> {
        let listener = Endpoint { address, port, protocol };
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
fn prefix(address: Ipv4Addr, length: u8) -> Result<(Key<[u8; 4]>, String), Error> {
    if length > 32 {
        return Err(Error::OutOfRange { what: "VIP prefix length", value: length.into(), limit: 33 });
    }
    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    let network = Ipv4Addr::from_bits(address.to_bits() & mask);
    Ok((Key::new(length.into(), network.octets()), format!("{network}/{length}")))
}

/// Says whether the key is new.
fn inserted(map: &'static str, key: impl fmt::Display, result: Result<(), MapError>) -> Result<bool, Error> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(map_error(map, key, error)),
    }
}

/// Says whether the key was there.
fn removed(map: &'static str, key: impl fmt::Display, result: Result<(), MapError>) -> Result<bool, Error> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(map_error(map, key, error)),
    }
}
