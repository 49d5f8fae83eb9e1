//! Routes of the `local` and `main` tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tidegate_dataplane::routes::{DeviceIndex, MultipathRoute, Path, Route, RouteKind, RouteTable};

use super::{Link, Netlink};

/// Why a route of the kernel is not taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Omission {
    /// Not for packets in general: a cached one, one whose next hop is dead, one of neither IP family.
    Irrelevant,
    /// It also looks at the type of service or the source address, which a [`Route`] cannot say.
    Conditional,
    /// It names a next-hop object and the kernel does not spell that out (`net.ipv4.nexthop_compat_mode=0`).
    NextHopObject,
}

impl Netlink {
    /// Reads the routes of the tables `local` and `main`, of both families, in the kernel's order.
    ///
    /// Routes that depend on the type of service or the source, or on a next-hop object that the kernel does not
    /// spell out, are left out with one log line each kind.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub async fn routes(&self) -> anyhow::Result<Vec<MultipathRoute>> {
        let mut routes = Vec::new();
        let (mut conditional, mut next_hop_objects) = (0, 0);
        for table in [RouteTable::Local, RouteTable::Main] {
            let mut question = RouteMessage::default();
            question.attributes.push(RouteAttribute::Table(number_of(table)));
            let answers = self.dump(RouteNetlinkMessage::GetRoute(question)).await;
            for answer in answers.with_context(|| format!("dump of the routes of table {table:?}"))? {
                let RouteNetlinkMessage::NewRoute(message) = answer else { continue };
                if table_of(&message) != Some(table) {
                    continue;
                }
                match parse(&message, table) {
                    Ok(route) => routes.push(route),
                    Err(Omission::Irrelevant) => {}
                    Err(Omission::Conditional) => conditional += 1,
                    Err(Omission::NextHopObject) => next_hop_objects += 1,
                }
            }
        }
        if conditional > 0 {
            tracing::warn!(
                routes = conditional,
                "routes that depend on TOS or source address are not followed"
            );
        }
        if next_hop_objects > 0 {
            tracing::warn!(
                routes = next_hop_objects,
                "routes by next-hop objects are not followed while net.ipv4.nexthop_compat_mode is 0"
            );
        }
        Ok(routes)
    }
}

impl Netlink {
    /// Removes the route of all IPv6 multicast by a device; says whether it was there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_multicast_route(&self, link: &Link) -> anyhow::Result<bool> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet6;
        message.header.destination_prefix_length = 8;
        message.header.kind = RouteType::Multicast;
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0))),
            RouteAttribute::Table(number_of(RouteTable::Local)),
            RouteAttribute::Oif(link.index.0),
        ];
        match self.change(RouteNetlinkMessage::DelRoute(message), 0).await {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(error) => Err(error)
                .with_context(|| format!("device {}: cannot remove the route of ff00::/8", link.name)),
        }
    }
}

fn number_of(table: RouteTable) -> u32 {
    match table {
        RouteTable::Local => u32::from(libc::RT_TABLE_LOCAL),
        RouteTable::Main => u32::from(libc::RT_TABLE_MAIN),
    }
}

/// Returns the table of a route, `None` if it is neither `local` nor `main`.
pub(super) fn table_of(message: &RouteMessage) -> Option<RouteTable> {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let number = attribute.unwrap_or_else(|| u32::from(message.header.table));
    [RouteTable::Local, RouteTable::Main].into_iter().find(|table| number_of(*table) == number)
}

fn parse(message: &RouteMessage, table: RouteTable) -> Result<MultipathRoute, Omission> {
    let header = &message.header;
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Err(Omission::Irrelevant),
    };
    if header.flags.intersects(RouteFlags::Dead | RouteFlags::Cloned) {
        return Err(Omission::Irrelevant);
    }
    if header.tos != 0 || header.source_prefix_length != 0 {
        return Err(Omission::Conditional);
    }
    let (kind, paths) = match header.kind {
        RouteType::Unicast => unicast(&message.attributes)?,
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => {
            (RouteKind::Local, Vec::new())
        }
        // A throw ends the search in `main`; behind it comes only the `default` table, which nobody fills.
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => {
            (RouteKind::Unreachable, Vec::new())
        }
        _ => return Err(Omission::Irrelevant),
    };
    let mut route = Route {
        table,
        destination: unspecified,
        prefix_length: header.destination_prefix_length,
        metric: 0,
        kind,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => route.destination = (*address).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                route.destination = (*address).into();
            }
            RouteAttribute::Priority(metric) => route.metric = *metric,
            _ => {}
        }
    }
    Ok(MultipathRoute { route, paths })
}

/// A unicast route names its next hop itself, or several in a list, of which the dead ones are left out.
fn unicast(attributes: &[RouteAttribute]) -> Result<(RouteKind, Vec<Path>), Omission> {
    let own_device = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(DeviceIndex(*index)),
        _ => None,
    });
    if let Some(device) = own_device {
        return Ok((RouteKind::Unicast { device, gateway: gateway(attributes) }, Vec::new()));
    }
    for attribute in attributes {
        let RouteAttribute::MultiPath(next_hops) = attribute else { continue };
        let live = next_hops.iter().filter(|next_hop| !next_hop.flags.contains(RouteNextHopFlags::Dead));
        let paths: Vec<Path> = live
            .map(|next_hop| Path {
                device: DeviceIndex(next_hop.interface_index),
                gateway: gateway(&next_hop.attributes),
                // Source: rtnetlink(7), `rtnh_hops`: the weight less one.
                weight: u16::from(next_hop.hops) + 1,
            })
            .collect();
        let Path { device, gateway, .. } = *paths.first().ok_or(Omission::Irrelevant)?;
        let is_one = paths.len() == 1;
        return Ok((RouteKind::Unicast { device, gateway }, if is_one { Vec::new() } else { paths }));
    }
    if attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::NhId(_))) {
        return Err(Omission::NextHopObject);
    }
    Err(Omission::Irrelevant)
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}
