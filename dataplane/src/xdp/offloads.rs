//! GRO and LRO of a device, which generic XDP cannot bear: joined packets fit no frame. And its RX queues.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Source: `include/uapi/linux/ethtool.h`.
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETH_FLAG_LRO: u32 = 1 << 15;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// Whether a device joins received packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offloads {
    /// In software (generic receive offload).
    pub gro: bool,
    /// In hardware (large receive offload).
    pub lro: bool,
}

/// What a device's offloads were before they were switched off. Nothing happens on drop.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "offloads that were on are to be switched on again"]
pub struct Restore {
    /// The device.
    pub name: String,
    /// As it was found.
    pub before: Offloads,
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

impl Offloads {
    /// Reads a device's offloads. Fails with the kernel's error (`ENODEV` for an unknown device).
    pub fn read(name: &str) -> io::Result<Self> {
        let gro = ethtool(name, ETHTOOL_GGRO, 0)? != 0;
        Ok(Self { gro, lro: ethtool(name, ETHTOOL_GFLAGS, 0)? & ETH_FLAG_LRO != 0 })
    }

    /// Switches off what is on, and returns how to get it back. Needs CAP_NET_ADMIN if anything is on.
    pub fn switch_off(name: &str) -> io::Result<Restore> {
        let before = Self::read(name)?;
        Self { gro: false, lro: false }.apply(name)?;
        Ok(Restore { name: name.to_owned(), before })
    }

    /// Makes a device's offloads these, touching only what differs.
    fn apply(self, name: &str) -> io::Result<()> {
        let now = Self::read(name)?;
        if self.lro != now.lro {
            let others = ethtool(name, ETHTOOL_GFLAGS, 0)? & !ETH_FLAG_LRO;
            ethtool(name, ETHTOOL_SFLAGS, others | if self.lro { ETH_FLAG_LRO } else { 0 })?;
        }
        if self.gro != now.gro {
            ethtool(name, ETHTOOL_SGRO, self.gro.into())?;
        }
        Ok(())
    }
}

impl Restore {
    /// Puts the offloads back as they were found.
    pub fn restore(&self) -> io::Result<()> {
        self.before.apply(&self.name)
    }
}

/// Says whether a device takes VLAN tags off received frames, so that the XDP program cannot see them.
pub fn strips_vlan_tags(name: &str) -> io::Result<bool> {
    Ok(ethtool(name, ETHTOOL_GFLAGS, 0)? & ETH_FLAG_RXVLAN != 0)
}

/// Counts a device's RX queues, as they are in use now.
///
/// Source: `Documentation/ABI/testing/sysfs-class-net-queues`. Reads /sys, which shows the network namespace it
/// was mounted in.
pub fn rx_queues(name: &str) -> io::Result<u32> {
    if name.is_empty() || name.contains('/') {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut queues = 0;
    for entry in fs::read_dir(format!("/sys/class/net/{name}/queues"))? {
        queues += u32::from(entry?.file_name().as_encoded_bytes().starts_with(b"rx-"));
    }
    Ok(queues)
}

/// Gives `command` with `data` to the driver and returns the data that comes back.
fn ethtool(name: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut value = EthtoolValue { command, data };
    // SAFETY: all-zero octets are a value of this C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() || name.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = open()?;
    // SAFETY: `request` names a device and points to `value`, both live; the commands used here read and write one
    // `ethtool_value`.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) } {
        0 => Ok(value.data),
        _ => Err(io::Error::last_os_error()),
    }
}

fn open() -> io::Result<OwnedFd> {
    // SAFETY: makes a descriptor, touches no memory.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_is_an_error() {
        assert_eq!(Offloads::read("no-such-device").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert_eq!(
            Offloads::read("a-name-too-long-for-linux").unwrap_err().raw_os_error(),
            Some(libc::ENODEV)
        );
        assert!(rx_queues("no-such-device").is_err());
        assert_eq!(rx_queues("../lo").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn loopback_has_one_queue() {
        assert_eq!(rx_queues("lo").unwrap(), 1);
    }
}
