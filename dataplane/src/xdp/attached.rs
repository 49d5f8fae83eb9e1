//! What a device is before the program is attached to it, asked of rtnetlink.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::net::Mac;
use crate::routes::DeviceIndex;

/// Nested attributes of `IFLA_XDP` that hold a program's id: the one in force, else by mode when several are.
///
/// Source: `include/uapi/linux/if_link.h`.
const PROGRAM_IDS: [u16; 4] = [4, 5, 6, 7];

/// Room for one answer: a link message with its statistics and device details.
const ANSWER_BYTES: usize = 32 * 1024;

/// A device as the kernel describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Link {
    /// Its own station address; `None` if it has none of Ethernet's form.
    pub(super) mac: Option<Mac>,
    /// The id of the XDP program on it, in whatever mode.
    pub(super) program: Option<u32>,
}

impl Link {
    /// Reads `device`.
    ///
    /// Fails with `ENODEV` if there is no such device in this thread's network namespace.
    pub(super) fn read(device: DeviceIndex) -> io::Result<Self> {
        let socket = open(libc::NETLINK_ROUTE)?;
        send(&socket, &request(device))?;
        let mut answer = vec![0; ANSWER_BYTES];
        let octets = receive(&socket, &mut answer)?;
        let attributes =
            attributes_in(answer.get(..octets).unwrap_or_default(), size_of::<libc::ifinfomsg>())?;
        let mac = attribute(attributes, libc::IFLA_ADDRESS);
        let xdp = attribute(attributes, libc::IFLA_XDP).unwrap_or_default();
        let ids = PROGRAM_IDS.iter().filter_map(|kind| attribute(xdp, *kind)?.first_chunk());
        Ok(Self {
            mac: mac.and_then(|octets| octets.try_into().ok()).map(Mac),
            program: ids.map(|id| u32::from_ne_bytes(*id)).find(|id| *id != 0),
        })
    }
}

/// Opens a netlink socket of a protocol.
pub(super) fn open(protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: makes a descriptor, touches no memory.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `RTM_GETLINK`: a `nlmsghdr` and an `ifinfomsg`.
fn request(device: DeviceIndex) -> Vec<u8> {
    let bytes = size_of::<libc::nlmsghdr>() + size_of::<libc::ifinfomsg>();
    let mut message = Vec::with_capacity(bytes);
    message.extend((bytes as u32).to_ne_bytes());
    message.extend(libc::RTM_GETLINK.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(device.0.to_ne_bytes());
    message.extend([0; 8]);
    message
}

pub(super) fn send(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    // SAFETY: the octets are live and as many as said; the kernel only reads them.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(super) fn receive(socket: &OwnedFd, answer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `answer.len()` octets into `answer`.
    let octets = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    usize::try_from(octets).map_err(|_| io::Error::last_os_error())
}

/// Returns the attributes of the message in an answer, behind its own header of so many octets.
pub(super) fn attributes_in(answer: &[u8], header_bytes: usize) -> io::Result<&[u8]> {
    let cut_short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let header = size_of::<libc::nlmsghdr>();
    let (length, rest) = answer.split_first_chunk().ok_or_else(cut_short)?;
    let kind = rest.first_chunk().map(|kind| u16::from_ne_bytes(*kind)).ok_or_else(cut_short)?;
    let message = answer.get(header..u32::from_ne_bytes(*length) as usize).ok_or_else(cut_short)?;
    if i32::from(kind) == libc::NLMSG_ERROR {
        let errno = message.first_chunk().map(|errno| i32::from_ne_bytes(*errno)).ok_or_else(cut_short)?;
        return Err(io::Error::from_raw_os_error(-errno));
    }
    message.get(header_bytes..).ok_or_else(cut_short)
}

/// Returns the value of the first attribute of `kind`.
pub(super) fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let ([length @ .., low, high], _) = attributes.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let this = u16::from_ne_bytes([*low, *high]) & libc::NLA_TYPE_MASK as u16;
        let value = attributes.get(4..length)?;
        if this == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_past_padding_and_none_in_a_cut_list() {
        let attributes = [5_u16, 1, 0xff, 0, 8, 43, 7, 0];
        let attributes: Vec<u8> = attributes.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(attribute(&attributes, 43), Some(&[7, 0, 0, 0][..]));
        for cut in 0..attributes.len() {
            assert_eq!(attribute(&attributes[..cut], 43), None);
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_named_by_the_kernel() {
        let error = Link::read(DeviceIndex(i32::MAX as u32)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
