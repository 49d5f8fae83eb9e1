//! What a device's driver says that it can do with XDP, asked of the kernel's `netdev` family.
//!
//! Source: `Documentation/netlink/specs/netdev.yaml`, `include/uapi/linux/netdev.h`, `include/uapi/linux/genetlink.h`.

use std::io;

use super::attached::{attribute, attributes_in, open, receive, send};
use crate::routes::DeviceIndex;

/// The controller of generic netlink, which knows the numbers of the families.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// Octets of `struct genlmsghdr`.
const GENL_HEADER_BYTES: usize = 4;

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_BASIC: u64 = 1 << 0;
const NETDEV_XDP_ACT_RX_SG: u64 = 1 << 5;

/// Room for one answer; the controller lists a family's commands and groups.
const ANSWER_BYTES: usize = 8 * 1024;

/// What a driver can do with XDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DriverFeatures {
    /// Runs programs in the driver.
    pub native: bool,
    /// Gives such programs packets in several buffers.
    pub chains: bool,
}

impl DriverFeatures {
    /// Asks about a device; `None` if the kernel cannot be asked (before Linux 6.3).
    ///
    /// # Errors
    /// The kernel's: `ENODEV` if there is no such device in this thread's network namespace.
    pub fn read(device: DeviceIndex) -> io::Result<Option<Self>> {
        let name = (CTRL_ATTR_FAMILY_NAME, &b"netdev\0"[..]);
        let family = match ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, name, CTRL_ATTR_FAMILY_ID) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            answer => answer?.as_deref().and_then(|id| id.first_chunk().copied()).map(u16::from_ne_bytes),
        };
        let family = family.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let index = (NETDEV_A_DEV_IFINDEX, &device.0.to_ne_bytes()[..]);
        let bits = ask(family, NETDEV_CMD_DEV_GET, index, NETDEV_A_DEV_XDP_FEATURES)?;
        let bits = bits.as_deref().and_then(|bits| bits.first_chunk().copied()).map(u64::from_ne_bytes);
        Ok(bits.map(|bits| Self {
            native: bits & NETDEV_XDP_ACT_BASIC != 0,
            chains: bits & NETDEV_XDP_ACT_RX_SG != 0,
        }))
    }
}

/// Asks a family by a command with one attribute, and returns the attribute `wanted` of the answer.
fn ask(family: u16, command: u8, (kind, value): (u16, &[u8]), wanted: u16) -> io::Result<Option<Vec<u8>>> {
    let value_bytes = 4 + value.len();
    let bytes = 16 + GENL_HEADER_BYTES + value_bytes.next_multiple_of(4);
    let mut message = Vec::with_capacity(bytes);
    message.extend((bytes as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend((value_bytes as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(bytes, 0);
    let socket = open(libc::NETLINK_GENERIC)?;
    send(&socket, &message)?;
    let mut answer = vec![0; ANSWER_BYTES];
    let octets = receive(&socket, &mut answer)?;
    let attributes = attributes_in(answer.get(..octets).unwrap_or_default(), GENL_HEADER_BYTES)?;
    Ok(attribute(attributes, wanted).map(<[u8]>::to_vec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_runs_no_programs_in_its_driver() {
        match DriverFeatures::read(DeviceIndex(1)).unwrap() {
            Some(features) => assert_eq!(features, DriverFeatures { native: false, chains: false }),
            None => println!("skipped: this kernel cannot be asked"),
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_named_by_the_kernel() {
        match DriverFeatures::read(DeviceIndex(i32::MAX as u32)) {
            Ok(None) => println!("skipped: this kernel cannot be asked"),
            answer => assert_eq!(answer.unwrap_err().raw_os_error(), Some(libc::ENODEV)),
        }
    }
}
