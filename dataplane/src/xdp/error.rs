//! What can go wrong with the program and its maps.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::{ProgramError, XdpError};

use crate::routes::DeviceIndex;

/// Why the program could not be loaded, or an entry of its maps not be changed.
#[derive(Debug)]
pub enum Error {
    /// The object could not be loaded: no permission, a kernel without what it needs.
    Load(Box<EbpfError>),
    /// The kernel's verifier did not take the program.
    Verify(Box<ProgramError>),
    /// The program could not be detached, or not be run on a packet.
    Run(Box<ProgramError>),
    /// The object lacks a part it is known to have: it is not the one this was built with.
    Missing(&'static str),
    /// A map did not take a change.
    Map {
        /// The map's name.
        map: &'static str,
        /// The key, as people read it.
        key: String,
        /// What the kernel said.
        error: MapError,
    },
    /// The heartbeats could not be mapped.
    Heartbeats(io::Error),
    /// A number is outside of what the maps were made for.
    OutOfRange {
        /// What the number stands for.
        what: &'static str,
        /// The number.
        value: u32,
        /// The first number that is too great.
        limit: u32,
    },
    /// A VIP prefix of IPv6 has the addresses in it that stand for those of IPv4 in the maps.
    CoversIpv4 {
        /// The prefix.
        prefix: String,
    },
    /// The program is not attached to the device.
    NotAttached(DeviceIndex),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(error) => {
                let cause = last_cause(error.as_ref());
                write!(f, "XDP program: load: {cause}")?;
                match cause.downcast_ref().and_then(io::Error::raw_os_error) {
                    Some(libc::EPERM) => f.write_str(" (needs CAP_BPF and CAP_NET_ADMIN: run as root)"),
                    _ => Ok(()),
                }
            }
            Self::Verify(error) => write!(f, "XDP program: verify: {error}"),
            Self::Run(error) => write!(f, "XDP program: {}", last_cause(error.as_ref())),
            Self::Missing(part) => write!(f, "XDP program: the object has no {part}"),
            Self::Map { map, key, error } => {
                write!(f, "XDP map {map}, key {key}: {}", last_cause(error))?;
                match errno(error) {
                    Some(libc::E2BIG | libc::ENOSPC) => f.write_str(" (the map is full)"),
                    _ => Ok(()),
                }
            }
            Self::Heartbeats(error) => write!(f, "XDP map heartbeats: mmap: {error}"),
            Self::OutOfRange { what, value, limit } => {
                write!(f, "XDP program: {what} {value}: must be below {limit}")
            }
            Self::CoversIpv4 { prefix } => {
                write!(
                    f,
                    "XDP program: VIP prefix {prefix}: shares addresses with ::ffff:0:0/96, which is IPv4's"
                )
            }
            Self::NotAttached(DeviceIndex(device)) => {
                write!(f, "XDP program: not attached to device {device}")
            }
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Load(error) => Some(error.as_ref()),
            Self::Verify(error) | Self::Run(error) => Some(error.as_ref()),
            Self::Map { error, .. } => Some(error),
            Self::Heartbeats(error) => Some(error),
            Self::Missing(_) | Self::OutOfRange { .. } | Self::CoversIpv4 { .. } | Self::NotAttached(_) => {
                None
            }
        }
    }
}

/// Why the program could not be attached to a device.
#[derive(Debug)]
pub struct AttachError {
    /// The device.
    pub device: DeviceIndex,
    /// Its name, for people.
    pub name: String,
    /// The reason.
    pub failure: AttachFailure,
}

/// What stood in the way of attaching.
#[derive(Debug)]
pub enum AttachFailure {
    /// Another XDP program is on the device.
    OtherProgram {
        /// The kernel's id of that program, as `bpftool prog show id` takes it.
        id: u32,
    },
    /// The device is attached to already, by this process.
    Twice,
    /// As many devices as the maps have room for are attached to.
    TooManyDevices {
        /// How many that is.
        limit: u32,
    },
    /// The device has no RX queue, or more than the maps have room for.
    Queues {
        /// How many it has.
        queues: u32,
        /// The most that a device can have.
        limit: u32,
    },
    /// The device has no MAC, so its frames have no Ethernet header to decide by.
    NotEthernet,
    /// The kernel refused.
    Kernel(io::Error),
    /// The maps refused.
    Maps(Box<Error>),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "XDP program on device {}: ", self.name)?;
        match &self.failure {
            AttachFailure::OtherProgram { id } => write!(
                f,
                "another XDP program, id {id}, is on it: stop what attached it, or ip link set dev {} xdp off",
                self.name
            ),
            AttachFailure::Twice => f.write_str("attached already"),
            AttachFailure::TooManyDevices { limit } => write!(f, "more than {limit} devices"),
            AttachFailure::Queues { queues, limit } => {
                write!(f, "{queues} RX queues, not 1 to {limit}: see ethtool -L")
            }
            AttachFailure::NotEthernet => f.write_str("not an Ethernet device"),
            AttachFailure::Kernel(error) => {
                write!(f, "{error}")?;
                match error.raw_os_error() {
                    Some(libc::ERANGE) => f.write_str(" (the MTU is too great for native XDP: lower it)"),
                    Some(libc::EPERM) => f.write_str(" (needs CAP_NET_ADMIN and CAP_BPF: run as root)"),
                    Some(libc::ENODEV) => f.write_str(" (no such device in this network namespace)"),
                    _ => Ok(()),
                }
            }
            AttachFailure::Maps(error) => write!(f, "{error}"),
        }
    }
}

impl StdError for AttachError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.failure {
            AttachFailure::Kernel(error) => Some(error),
            AttachFailure::Maps(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}

/// Makes the error of a program that could not be verified.
pub(super) fn unverified(error: ProgramError) -> Error {
    Error::Verify(Box::new(error))
}

/// Makes the error of a program that could not be used.
pub(super) fn unusable(error: ProgramError) -> Error {
    Error::Run(Box::new(error))
}

/// Returns the kernel's number of a map's error.
pub(super) fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        MapError::IoError(error) => error.raw_os_error(),
        _ => None,
    }
}

/// Returns the kernel's error within a program's.
pub(super) fn kernel_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        ProgramError::IOError(error) => error,
        ProgramError::XdpError(XdpError::NetlinkError(error)) | ProgramError::NetlinkError(error) => {
            match error.raw_os_error() {
                Some(errno) => io::Error::from_raw_os_error(errno),
                None => io::Error::other(error),
            }
        }
        other => io::Error::other(other),
    }
}

/// Returns the innermost error, which says what the outer ones only locate.
fn last_cause<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last
}
