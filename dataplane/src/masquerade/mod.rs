//! When a new flow takes an address of ours for its client's, and which address and port (design decision 8).
//!
//! A masqueraded flow is a flow like any other: its reply key leads to the gateway's own address and a port of the
//! range, and its compiled rewrite does the rest. The rooms: the policy here, [`PortSearch`] for the port.

mod port_search;

pub use port_search::{PortSearch, PortSearches};

use crate::flows::Key;
use crate::neighbours::NextHop;
use crate::net::{Address, Port};
use crate::routes::DeviceIndex;
use crate::snapshot::Snapshot;
use crate::verdict::DropReason;

/// Which new flows are masqueraded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Those whose replies would pass us by: to a next hop on the link that the client's packet came by, and those
    /// of a client that is itself the chosen backend. All others keep the client's address.
    #[default]
    Auto,
    /// All.
    Always,
    /// None.
    Never,
}

/// Ports from `first` to `last`, both included; never empty and never with port 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl Default for PortRange {
    /// Returns 61000-65535: above the ports that Linux gives its own connections (`ip_local_port_range`).
    fn default() -> Self {
        Self { first: 61_000, last: 65_535 }
    }
}

impl PortRange {
    /// Makes a range; `None` if `last` is before `first`, or `first` is 0, which no packet may have.
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || last < first { None } else { Some(Self { first, last }) }
    }

    /// Returns the lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Returns the highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Returns how many ports there are: 1 to 65,535.
    #[must_use]
    pub const fn size(self) -> u32 {
        self.last as u32 - self.first as u32 + 1
    }

    /// Returns the port at a place counted from the first, going round behind the last.
    const fn at(self, place: u32) -> Port {
        Port::new((self.first as u32 + place % self.size()) as u16)
    }

    /// Returns the place of a port, or `None` if it is not in the range.
    const fn place(self, port: Port) -> Option<u32> {
        let number = port.number();
        if number < self.first || number > self.last { None } else { Some((number - self.first) as u32) }
    }
}

/// The policy in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Masquerade {
    /// Which new flows are masqueraded.
    pub mode: Mode,
    /// The source ports they get.
    pub ports: PortRange,
}

/// Returns the address of ours that a new flow takes, or `None` if it keeps the client's.
///
/// With `keeps_client` only a client that is itself the backend gets one; `received_by` is the device that the request came by, `next_hop` where it goes; without one the kernel sends it on,
/// and then the replies come to the kernel too, so that an address of ours would keep them from the client for good.
///
/// # Errors
/// When the flow cannot do without an address of ours and there is none to take.
pub fn source<A: Address>(
    request: &Key<A>,
    backend: A,
    keeps_client: bool,
    received_by: DeviceIndex,
    next_hop: Option<NextHop>,
    snapshot: &Snapshot,
) -> Result<Option<A>, DropReason> {
    let is_hairpin = backend == request.source();
    let next_hop = next_hop.filter(|next_hop| match snapshot.masquerade.mode {
        Mode::Auto | Mode::Always if keeps_client => is_hairpin,
        Mode::Auto => is_hairpin || next_hop.device == received_by,
        Mode::Always => true,
        Mode::Never => false,
    });
    match next_hop {
        Some(next_hop) => own_address(next_hop, snapshot).map(Some).ok_or(DropReason::NoMasqueradeAddress),
        None if is_hairpin => Err(DropReason::Hairpin),
        None => Ok(None),
    }
}

/// Chooses the address as the kernel's masquerade does: of the device's primary addresses the first whose network has
/// the next hop, else the first.
///
/// Source: `net/netfilter/nf_nat_masquerade.c`, `nf_nat_masquerade_ipv4`; `net/ipv4/devinet.c`, `inet_select_addr`.
/// DEVIATION: no address of another device, since replies to it might come by a device that we do not serve.
fn own_address<A: Address>(next_hop: NextHop, snapshot: &Snapshot) -> Option<A> {
    let device = snapshot.device(next_hop.device)?;
    let on_link = device.addresses.iter().filter(|own| own.contains(next_hop.address));
    on_link.filter_map(|own| A::of(own.address)).next().or_else(|| device.address())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use crate::net::Mac;
    use crate::net::Prefix;
    use crate::services::Services;
    use crate::snapshot::Device;

    fn chosen(addresses: &[([u8; 4], u8)], next_hop: &str) -> Option<Ipv4Addr> {
        let own = |(address, length): &([u8; 4], u8)| Prefix { address: (*address).into(), length: *length };
        let device = Device {
            index: DeviceIndex(2),
            mac: Mac::default(),
            mtu: 1500,
            addresses: addresses.iter().map(own).collect(),
        };
        let snapshot = Snapshot { devices: Arc::new([device]), ..Snapshot::empty(Services::new([])) };
        let address = next_hop.parse().unwrap();
        own_address(NextHop { device: DeviceIndex(2), address }, &snapshot)
    }

    #[test]
    fn the_address_is_the_first_in_the_next_hops_network_else_the_first() {
        let addresses = [([10, 1, 0, 1], 24), ([10, 244, 0, 1], 24), ([10, 244, 0, 2], 24)];
        for (next_hop, expected) in [
            ("10.1.0.9", Some([10, 1, 0, 1])),
            ("10.244.0.9", Some([10, 244, 0, 1])),
            ("192.0.2.1", Some([10, 1, 0, 1])),
            ("fe80::1", Some([10, 1, 0, 1])),
        ] {
            assert_eq!(chosen(&addresses, next_hop), expected.map(Ipv4Addr::from), "{next_hop}");
        }
        assert_eq!(chosen(&[([192, 0, 2, 1], 0)], "8.8.8.8"), Some([192, 0, 2, 1].into()));
        assert_eq!(chosen(&[], "10.1.0.9"), None);
    }

    #[test]
    fn a_range_has_its_ends_and_nothing_else() {
        let range = PortRange::new(61_000, 61_002).unwrap();
        assert_eq!(range.size(), 3);
        assert_eq!(
            (0..4).map(|place| range.at(place).number()).collect::<Vec<_>>(),
            [61_000, 61_001, 61_002, 61_000]
        );
        let places = [60_999, 61_000, 61_002, 61_003].map(|port| range.place(Port::new(port)));
        assert_eq!(places, [None, Some(0), Some(2), None]);
        assert_eq!(PortRange::new(1, u16::MAX).unwrap().size(), 65_535);
        assert!(PortRange::new(0, 5).is_none() && PortRange::new(6, 5).is_none());
    }
}
