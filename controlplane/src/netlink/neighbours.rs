//! Neighbours: who has which hardware address on a link, and which of them the kernel keeps resolved for us.
//!
//! A next hop in use is a *managed* neighbour: the kernel asks for it, and asks again before it goes stale,
//! without traffic of ours (net/core/neighbour.c, `neigh_managed_work`; Linux 5.16). Ours carry
//! [`NEIGHBOUR_PROTOCOL`], which the kernel keeps and dumps. What binds the requests here was seen on Linux
//! 6.18 and stands in `neigh_add` and `__neigh_update`:
//! - asking for a managed entry takes the hardware address from a permanent one, and the mark from an
//!   externally learned one: so entries that are somebody's configuration are left alone;
//! - a request with `NTF_USE` and without `NTF_EXT_MANAGED` ends the management and keeps the entry and its
//!   state: so nothing that the kernel had learnt is lost;
//! - a device that goes down or loses its carrier loses its entries, managed ones too.

use std::io;
use std::net::IpAddr;

use anyhow::Context as _;
use rtnetlink::packet_core::NLM_F_CREATE;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState as Nud,
};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tidegate_dataplane::neighbours::{NeighbourState, NextHop};
use tidegate_dataplane::net::Mac;
use tidegate_dataplane::routes::DeviceIndex;

use super::Netlink;

/// The `NDA_PROTOCOL` of neighbours that this program manages: `T`, a number that iproute2 assigns to nobody.
pub const NEIGHBOUR_PROTOCOL: u8 = b'T';

impl Netlink {
    /// Reads all neighbours of both families that have an Ethernet address or may get one.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub async fn neighbours(&self) -> anyhow::Result<Vec<(NextHop, NeighbourState)>> {
        let entry = |message: &NeighbourMessage| Some((next_hop(message)?, state(message)?));
        Ok(self.neighbour_messages().await?.iter().filter_map(entry).collect())
    }

    /// Makes the kernel resolve a next hop now, and keep it resolved.
    ///
    /// Asked again for one that failed, it probes at once. An entry that is permanent, externally learned or
    /// managed by another program is left as it is. The answer comes as
    /// [`super::KernelEvent::NeighbourChanged`]; a next hop that vanishes (event with `None`) has to be asked
    /// for again.
    ///
    /// # Errors
    /// When the device does not exist. One that is down is no error: ask again when it is up.
    pub async fn resolve(&self, next_hop: NextHop) -> anyhow::Result<()> {
        let resolve = async {
            if self.neighbour(next_hop).await?.is_some_and(|message| is_anothers(&message)) {
                return Ok(());
            }
            let mut message = message_for(next_hop);
            message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(NEIGHBOUR_PROTOCOL)));
            message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
            self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE).await
        };
        resolve.await.with_context(|| format!("next hop {}: cannot have it resolved", named(next_hop)))
    }

    /// Ends the management of a next hop that [`Netlink::resolve`] asked for; it stays known until the kernel
    /// forgets it.
    ///
    /// # Errors
    /// When the kernel refuses; that it is gone, or not ours, is no error.
    pub async fn release(&self, next_hop: NextHop) -> anyhow::Result<()> {
        let release = async {
            match self.neighbour(next_hop).await? {
                Some(message) if is_ours(&message) => self.unmanage(next_hop).await,
                _ => Ok(()),
            }
        };
        release.await.with_context(|| format!("next hop {}: cannot release it", named(next_hop)))
    }

    /// Ends the management of every neighbour that carries our mark, whichever run of this program made it;
    /// returns how many those were.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn release_ours(&self) -> anyhow::Result<usize> {
        let messages = self.neighbour_messages().await?;
        let ours = messages.iter().filter(|message| is_ours(message)).filter_map(next_hop);
        let mut released = 0;
        for next_hop in ours {
            let unmanaged = self.unmanage(next_hop).await;
            unmanaged.with_context(|| format!("next hop {}: cannot release it", named(next_hop)))?;
            released += 1;
        }
        Ok(released)
    }

    /// The mark cannot be taken off (a protocol of 0 means no change), so it becomes the kernel's own.
    async fn unmanage(&self, next_hop: NextHop) -> io::Result<()> {
        let mut message = message_for(next_hop);
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Kernel));
        match self.change(RouteNetlinkMessage::NewNeighbour(message), 0).await {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
            done => done,
        }
    }

    async fn neighbour(&self, next_hop: NextHop) -> io::Result<Option<NeighbourMessage>> {
        match self.object(RouteNetlinkMessage::GetNeighbour(message_for(next_hop))).await? {
            Some(RouteNetlinkMessage::NewNeighbour(message)) => Ok(Some(message)),
            _ => Ok(None),
        }
    }

    async fn neighbour_messages(&self) -> anyhow::Result<Vec<NeighbourMessage>> {
        let messages = self.dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default())).await;
        let parse = |message| match message {
            RouteNetlinkMessage::NewNeighbour(message) => Some(message),
            _ => None,
        };
        Ok(messages.context("dump of the neighbours")?.into_iter().filter_map(parse).collect())
    }
}

fn message_for(next_hop: NextHop) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = next_hop.device.0;
    let (family, address) = match next_hop.address {
        IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
    };
    message.header.family = family;
    message.attributes.push(NeighbourAttribute::Destination(address));
    message
}

/// `None` for entries of a bridge's forwarding table and the like.
pub(super) fn next_hop(message: &NeighbourMessage) -> Option<NextHop> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    Some(NextHop { device: DeviceIndex(message.header.ifindex), address })
}

/// `None` if it is usable to the kernel but has no Ethernet address (a tunnel's end).
pub(super) fn state(message: &NeighbourMessage) -> Option<NeighbourState> {
    match message.header.state {
        Nud::Reachable | Nud::Stale | Nud::Delay | Nud::Probe | Nud::Permanent | Nud::Noarp => {
            message.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(octets) => {
                    Some(NeighbourState::Reachable(Mac(octets.as_slice().try_into().ok()?)))
                }
                _ => None,
            })
        }
        Nud::Failed => Some(NeighbourState::Failed),
        _ => Some(NeighbourState::Unresolved),
    }
}

fn is_managed(message: &NeighbourMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        NeighbourAttribute::ExtFlags(flags) => flags.contains(NeighbourExtFlags::Managed),
        _ => false,
    })
}

fn is_ours(message: &NeighbourMessage) -> bool {
    is_managed(message)
        && message.attributes.iter().any(|attribute| match attribute {
            NeighbourAttribute::Protocol(protocol) => u8::from(*protocol) == NEIGHBOUR_PROTOCOL,
            _ => false,
        })
}

/// Says whether an entry is somebody's configuration, not what the kernel learnt.
fn is_anothers(message: &NeighbourMessage) -> bool {
    let fixed = matches!(message.header.state, Nud::Permanent | Nud::Noarp);
    let learned_elsewhere = message.header.flags.contains(NeighbourFlags::ExtLearned);
    fixed || learned_elsewhere || (is_managed(message) && !is_ours(message))
}

/// The device by number: it may be gone by the time an error is told.
fn named(next_hop: NextHop) -> String {
    format!("{} on device number {}", next_hop.address, next_hop.device.0)
}
