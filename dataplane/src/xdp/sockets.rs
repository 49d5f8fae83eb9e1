//! Maps of sockets, that is (address, port, protocol), each beside the map of the addresses that they have: the program
//! asks the second about fragments, which have no ports.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use aya::Ebpf;
use aya::maps::{HashMap as KernelHashMap, MapData, MapError};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::error::{Error, errno};
use super::steering::{map_error, take};
use crate::net::{Port, Protocol};

/// The values of a hash map that only says what is in it.
pub(super) const PRESENT: u8 = 1;

/// Makes an update fail with `EEXIST` if the key is there. Source: `include/uapi/linux/bpf.h`.
pub(super) const BPF_NOEXIST: u64 = 1;

/// Octets of `struct address` in `maps.bpf.h`.
pub(super) const ADDRESS_BYTES: usize = 16;
/// Octets of `struct endpoint` there.
pub(super) const ENDPOINT_BYTES: usize = ADDRESS_BYTES + 4;

/// An (address, port, protocol), laid out as `struct endpoint` in `maps.bpf.h`.
#[derive(Clone, Copy)]
pub(super) struct Socket {
    pub(super) address: IpAddr,
    pub(super) port: Port,
    pub(super) protocol: Protocol,
}

impl Socket {
    pub(super) fn key(&self) -> [u8; ENDPOINT_BYTES] {
        let Port([high, low]) = self.port;
        let mut key = [0; ENDPOINT_BYTES];
        if let Some((address, rest)) = key.split_first_chunk_mut() {
            *address = mapped(self.address).octets();
            rest.copy_from_slice(&[high, low, self.protocol.number(), 0]);
        }
        key
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Port(port) = self.port;
        let socket = SocketAddr::new(self.address, u16::from_be_bytes(port));
        write!(f, "{socket}/{}", self.protocol)
    }
}

/// The sockets of one kind. A change costs one or two system calls.
pub(super) struct SocketMaps {
    names: [&'static str; 2],
    sockets: KernelHashMap<MapData, [u8; ENDPOINT_BYTES], u8>,
    addresses: KernelHashMap<MapData, [u8; ADDRESS_BYTES], u8>,
    /// How many sockets each address has, so that it goes with the last; most have one, and those are not here.
    several_at: HashMap<Ipv6Addr, u32, RandomState>,
}

impl SocketMaps {
    /// Takes the maps of sockets and of their addresses out of the object.
    pub(super) fn take(ebpf: &mut Ebpf, names: [&'static str; 2]) -> Result<Self, Error> {
        let [sockets, addresses] = names;
        Ok(Self {
            names,
            sockets: take(ebpf, sockets)?,
            addresses: take(ebpf, addresses)?,
            several_at: HashMap::default(),
        })
    }

    /// Puts a socket in, and its address if it is the first there.
    pub(super) fn insert(&mut self, socket: Socket) -> Result<(), Error> {
        let ([sockets, addresses], address) = (self.names, mapped(socket.address));
        if !inserted(sockets, socket, self.sockets.insert(socket.key(), PRESENT, BPF_NOEXIST))? {
            return Ok(());
        }
        let result = self.addresses.insert(address.octets(), PRESENT, BPF_NOEXIST);
        match inserted(addresses, socket.address, result) {
            Ok(true) => Ok(()),
            Ok(false) => {
                *self.several_at.entry(address).or_insert(1) += 1;
                Ok(())
            }
            Err(error) => {
                let _was_just_inserted = self.sockets.remove(&socket.key());
                Err(error)
            }
        }
    }

    /// Takes a socket out, and its address with the last one there.
    pub(super) fn remove(&mut self, socket: Socket) -> Result<(), Error> {
        let ([sockets, addresses], address) = (self.names, mapped(socket.address));
        if !removed(sockets, socket, self.sockets.remove(&socket.key()))? {
            return Ok(());
        }
        match self.several_at.get_mut(&address) {
            Some(number) if *number > 2 => *number -= 1,
            Some(_) => drop(self.several_at.remove(&address)),
            None => drop(removed(addresses, socket.address, self.addresses.remove(&address.octets()))?),
        }
        Ok(())
    }
}

/// Returns an address as the maps have it: one of IPv4 as the IPv6 address that stands for it (RFC 4291 §2.5.5.2).
pub(super) fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Says whether the key is new.
pub(super) fn inserted(
    map: &'static str,
    key: impl fmt::Display,
    result: Result<(), MapError>,
) -> Result<bool, Error> {
    took_effect(map, key, result, libc::EEXIST)
}

/// Says whether the key was there.
pub(super) fn removed(
    map: &'static str,
    key: impl fmt::Display,
    result: Result<(), MapError>,
) -> Result<bool, Error> {
    took_effect(map, key, result, libc::ENOENT)
}

/// Says whether a change took effect, or the map was so before, which the kernel tells by an error of this number.
fn took_effect(
    map: &'static str,
    key: impl fmt::Display,
    result: Result<(), MapError>,
    was_so_before: libc::c_int,
) -> Result<bool, Error> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if errno(&error) == Some(was_so_before) => Ok(false),
        Err(error) => Err(map_error(map, key, error)),
    }
}
