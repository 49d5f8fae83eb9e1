//! The box's own addresses.

use std::net::IpAddr;

use anyhow::Context as _;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tidegate_dataplane::routes::DeviceIndex;

use super::{Link, Netlink};

/// `lo` has this number in every namespace. Source: `LOOPBACK_IFINDEX`, include/net/flow.h.
const LOOPBACK_IFINDEX: u32 = 1;

/// What keeps an address from being the source of new packets. `Secondary` means temporary for IPv6.
const NO_SOURCE: AddressHeaderFlags = AddressHeaderFlags::Secondary
    .union(AddressHeaderFlags::Tentative)
    .union(AddressHeaderFlags::Dadfailed)
    .union(AddressHeaderFlags::Deprecated);

/// An address that a device has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LocalAddress {
    /// The device it is configured on.
    pub device: DeviceIndex,
    /// The address itself (`IFA_LOCAL`), never a point-to-point peer's.
    pub address: IpAddr,
    /// 0..=32 for IPv4, 0..=128 for IPv6.
    pub prefix_length: u8,
    /// Says whether packets of the box's own may bear it for long: of global scope, which unique local ones of IPv6
    /// (RFC 4193) are too, proved to be nobody else's on the link (RFC 4862 §5.4), still preferred, and neither
    /// secondary to one in its network nor temporary (RFC 8981).
    pub is_source: bool,
}

impl LocalAddress {
    fn parse(message: &AddressMessage) -> Option<Self> {
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        // IPv6 has IFA_LOCAL only on point-to-point links, where IFA_ADDRESS is the peer.
        let address = local.or_else(|| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        })?;
        let prefix_length = message.header.prefix_len;
        let is_source =
            message.header.scope == AddressScope::Universe && !message.header.flags.intersects(NO_SOURCE);
        Some(Self { device: DeviceIndex(message.header.index), address, prefix_length, is_source })
    }
}

impl Netlink {
    /// Reads all addresses of all devices, of both families.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub async fn addresses(&self) -> anyhow::Result<Vec<LocalAddress>> {
        let messages = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default())).await;
        let parse = |message| match message {
            RouteNetlinkMessage::NewAddress(message) => LocalAddress::parse(&message),
            _ => None,
        };
        Ok(messages.context("dump of the addresses")?.into_iter().filter_map(parse).collect())
    }

    /// Adds a host address (/32 or /128) to `lo`.
    ///
    /// # Errors
    /// When `lo` already has it, among others.
    pub async fn add_loopback_address(&self, address: IpAddr) -> anyhow::Result<()> {
        let message = host_address(LOOPBACK_IFINDEX, address, AddressScope::Universe);
        let added = self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL).await;
        added.with_context(|| format!("address {address}: cannot add it to lo"))
    }

    /// Removes a host address (/32 or /128) from `lo`; says whether it was there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_loopback_address(&self, address: IpAddr) -> anyhow::Result<bool> {
        let message = host_address(LOOPBACK_IFINDEX, address, AddressScope::Universe);
        match self.change(RouteNetlinkMessage::DelAddress(message), 0).await {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("address {address}: cannot remove it from lo")),
        }
    }

    /// Adds an address to a device that never becomes the source of a packet (`scope host`).
    ///
    /// # Errors
    /// When the device already has it, among others.
    pub async fn add_inner_address(&self, link: &Link, address: IpAddr) -> anyhow::Result<()> {
        let message = host_address(link.index.0, address, AddressScope::Host);
        let added = self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL).await;
        added.with_context(|| format!("device {}: cannot add address {address}", link.name))
    }
}

fn host_address(device: u32, address: IpAddr, scope: AddressScope) -> AddressMessage {
    let mut message = AddressMessage::default();
    (message.header.family, message.header.prefix_len) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.index = device;
    message.header.scope = scope;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}
