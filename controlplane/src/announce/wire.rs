//! Packet sockets on one device: what asks for addresses comes in, what answers goes out.
//!
//! ARP and Neighbor Solicitations only: a filter in the kernel keeps all else out, since IPv6 packets of all kinds
//! pass there. Groups are joined by an ordinary socket, so that the kernel tells switches and the device of them.
#![allow(unsafe_code)]

use std::io::{self, Read};
use std::mem::size_of;
use std::net::Ipv6Addr;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tidegate_dataplane::net::ethernet::ETHERTYPE_IPV6;
use tidegate_dataplane::net::ipv6::PROTOCOL_ICMPV6;
use tidegate_dataplane::routes::DeviceIndex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::nd;

const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];

/// A packet socket for one kind of frame on one device; not blocking.
pub(super) struct PacketSocket(AsyncFd<Socket>);

impl PacketSocket {
    /// Hears ARP.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn arp(device: DeviceIndex) -> io::Result<Self> {
        Self::open(device, ETHERTYPE_ARP, &[])
    }

    /// Hears Neighbor Solicitations.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn solicitations(device: DeviceIndex) -> io::Result<Self> {
        // Offsets from the Ethernet header; an extension header before the solicitation makes it an invalid one.
        let filter = [
            load_octet(14 + 6),
            skip_unless(PROTOCOL_ICMPV6, 3),
            load_octet(14 + 40),
            skip_unless(nd::NEIGHBOR_SOLICITATION, 1),
            take(u32::MAX),
            take(0),
        ];
        Self::open(device, ETHERTYPE_IPV6, &filter)
    }

    fn open(device: DeviceIndex, ethertype: [u8; 2], filter: &[SockFilter]) -> io::Result<Self> {
        // Without a protocol nothing comes in before the filter is there.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        if !filter.is_empty() {
            socket.attach_filter(filter)?;
        }
        socket.bind(&link_address(device, ethertype)?)?;
        // SAFETY: the socket is moved in and never replaced, and it has the one descriptor for life.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self(socket.map_err(io::Error::from)?))
    }

    /// Waits for a frame and returns the octets of it that fit. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The device is gone or down.
    pub(super) async fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |mut socket| socket.read(frame)).await
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The device is gone or down, or has no room.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.get_ref().send(frame).map(|_| ())
    }
}

/// Makes a socket that is a member of groups, and says nothing else.
pub(super) fn group_member() -> io::Result<Socket> {
    Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))
}

/// Joins the group of an address on a device, or leaves it. That it is so already is no error.
pub(super) fn set_membership(member: &Socket, device: DeviceIndex, address: Ipv6Addr, is_member: bool) {
    let group = nd::solicited_node(address);
    let changed = if is_member {
        member.join_multicast_v6(&group, device.0)
    } else {
        member.leave_multicast_v6(&group, device.0)
    };
    if let Err(error) = changed
        && !matches!(error.raw_os_error(), Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL | libc::ENODEV))
    {
        tracing::warn!("--announce l2: group {group} on device {}: {error}", device.0);
    }
}

fn link_address(DeviceIndex(device): DeviceIndex, ethertype: [u8; 2]) -> io::Result<SockAddr> {
    let device = i32::try_from(device).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage holds every kind of socket address, and zeros are one of this kind.
    let address: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = u16::from_ne_bytes(ethertype);
    address.sll_ifindex = device;
    // SAFETY: the address is of the family that it names, and that is its length.
    Ok(unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) })
}

/// Source: `include/uapi/linux/filter.h`, classic BPF.
const fn load_octet(offset: u32) -> SockFilter {
    SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, offset)
}

const fn skip_unless(value: u8, instructions: u8) -> SockFilter {
    let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    SockFilter::new(code, 0, instructions, value as u32)
}

const fn take(octets: u32) -> SockFilter {
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, octets)
}
