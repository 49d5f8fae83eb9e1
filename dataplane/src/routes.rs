//! The next hop of a destination, from a copy of the kernel's main routing table.
//!
//! The control thread builds a [`Routes`] from a netlink dump; workers look up only when a flow is new or the
//! generation of the tables changed.

use std::net::IpAddr;

/// The kernel's number of a network device (`ifindex`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DeviceIndex(pub u32);

/// Where a route leads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RouteKind {
    /// Out of a device, by `gateway` or, without one, straight to the destination on the link.
    Unicast {
        /// The device that packets leave by.
        device: DeviceIndex,
        /// The router on that link, if the destination is not on it.
        gateway: Option<IpAddr>,
    },
    /// To the box itself (`RTN_LOCAL`, `RTN_BROADCAST`, `RTN_ANYCAST`, multicast): the kernel's.
    Local,
    /// To nobody (`RTN_BLACKHOLE`, `RTN_UNREACHABLE`, `RTN_PROHIBIT`).
    Unreachable,
}

/// One route of the kernel's `local` or `main` table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Route {
    /// Network address; bits past `prefix_length` are zero.
    pub destination: IpAddr,
    /// 0..=32 for IPv4, 0..=128 for IPv6.
    pub prefix_length: u8,
    /// Lower wins among routes of one prefix (`RTA_PRIORITY`); the `local` table comes before all.
    pub metric: u32,
    /// Where it leads.
    pub kind: RouteKind,
}
