//! The box's links as the packet path needs them: routes, next hops in use, devices, own addresses.
//!
//! Folds the kernel's events; says what is to be published. The kernel's tables are read anew on a change of their
//! kind, which costs their size, not the traffic's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tidegate_dataplane::neighbours::{NeighbourState, Neighbours, NextHop};
use tidegate_dataplane::net::Prefix;
use tidegate_dataplane::routes::{DeviceIndex, Routes};
use tidegate_dataplane::snapshot::Device;

use crate::frame_limit::{MULTI_BUFFER_MTU, SINGLE_FRAME_MTU, needs_chains};
use crate::netlink::{KernelEvent, Link, LocalAddress, Netlink};

/// What the kernel says of links, as far as we use it.
#[derive(Debug)]
pub struct Topology {
    /// By their numbers.
    served: BTreeMap<DeviceIndex, Served>,
    /// All of the box, as last read.
    links: Vec<Link>,
    routes: Arc<Routes>,
    devices: Arc<[Device]>,
    addresses: Vec<LocalAddress>,
    own_addresses: BTreeSet<IpAddr>,
    known: BTreeMap<NextHop, NeighbourState>,
    in_use: BTreeSet<NextHop>,
}

/// What an event asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changed {
    /// Routes, next hops in use or devices: publish them.
    pub links: bool,
    /// Own addresses: tell the XDP program.
    pub own_addresses: bool,
}

/// A device that is served.
#[derive(Debug)]
struct Served {
    name: String,
    /// The largest MTU that its program and sockets are for, whatever the device is set to later.
    limit: u32,
}

impl Served {
    fn of(link: &Link) -> Self {
        let limit = if needs_chains(link.mtu) { MULTI_BUFFER_MTU } else { SINGLE_FRAME_MTU };
        Self { name: link.name.clone(), limit }
    }
}

impl Topology {
    /// Reads all tables of the kernel.
    ///
    /// # Errors
    /// When the kernel refuses a dump.
    pub async fn read(netlink: &Netlink, served: &[Link]) -> anyhow::Result<Self> {
        let mut topology = Self::serving(served.iter().map(|link| (link.index, Served::of(link))));
        topology.devices = topology.devices_among(served);
        topology.apply(netlink, KernelEvent::Resync).await?;
        Ok(topology)
    }

    fn serving(served: impl IntoIterator<Item = (DeviceIndex, Served)>) -> Self {
        Self {
            served: served.into_iter().collect(),
            links: Vec::new(),
            routes: Arc::default(),
            devices: Arc::new([]),
            addresses: Vec::new(),
            own_addresses: BTreeSet::new(),
            known: BTreeMap::new(),
            in_use: BTreeSet::new(),
        }
    }

    /// Folds one event in.
    ///
    /// # Errors
    /// When the kernel refuses a dump.
    pub async fn apply(&mut self, netlink: &Netlink, event: KernelEvent) -> anyhow::Result<Changed> {
        let mut changed = Changed::default();
        match event {
            KernelEvent::Resync => {
                let all = netlink.neighbours().await?.into_iter();
                self.known = all.filter(|(next_hop, _)| self.served.contains_key(&next_hop.device)).collect();
                self.read_routes(netlink).await?;
                self.read_addresses(netlink).await?;
                self.read_devices(netlink).await?;
                changed = Changed { links: true, own_addresses: true };
            }
            KernelEvent::LinksChanged => changed.links = self.read_devices(netlink).await?,
            KernelEvent::RoutesChanged => changed.links = self.read_routes(netlink).await?,
            KernelEvent::AddressesChanged => {
                changed.own_addresses = self.read_addresses(netlink).await?;
                changed.links = self.read_devices(netlink).await?;
            }
            KernelEvent::NeighbourChanged(next_hop, state) => {
                changed.links = self.note_neighbour(next_hop, state);
            }
        }
        Ok(changed)
    }

    /// Begins to follow a device that came back.
    ///
    /// # Errors
    /// When the kernel refuses a dump.
    pub async fn adopt(&mut self, netlink: &Netlink, link: &Link) -> anyhow::Result<Changed> {
        self.served.insert(link.index, Served::of(link));
        self.apply(netlink, KernelEvent::Resync).await
    }

    /// Ends following a device that is gone, whose number may be another's next.
    pub fn forget(&mut self, device: DeviceIndex) {
        self.served.remove(&device);
        self.known.retain(|next_hop, _| next_hop.device != device);
        self.in_use.retain(|next_hop| next_hop.device != device);
    }

    /// Notes that a worker waits for a next hop; says whether it is known already, so that it is to be published.
    ///
    /// That it failed before is forgotten: the kernel is about to ask for it anew, and the packet waits for that.
    pub fn use_next_hop(&mut self, next_hop: NextHop) -> bool {
        let is_new = self.in_use.insert(next_hop);
        match self.known.get(&next_hop) {
            Some(NeighbourState::Failed) => {
                self.known.remove(&next_hop);
                !is_new
            }
            known => is_new && known.is_some(),
        }
    }

    /// Takes the next hops that failed out of use and returns them, so that the kernel need not go on asking for
    /// them; a worker that wants one says so again.
    pub fn forget_failed(&mut self) -> Vec<NextHop> {
        let has_failed = |hop: &&NextHop| self.known.get(*hop) == Some(&NeighbourState::Failed);
        let failed: Vec<NextHop> = self.in_use.iter().filter(has_failed).copied().collect();
        for next_hop in &failed {
            self.in_use.remove(next_hop);
        }
        failed
    }

    fn note_neighbour(&mut self, next_hop: NextHop, state: Option<NeighbourState>) -> bool {
        if !self.served.contains_key(&next_hop.device) {
            return false;
        }
        let before = match state {
            Some(state) => self.known.insert(next_hop, state),
            None => self.known.remove(&next_hop),
        };
        before != state && self.in_use.contains(&next_hop)
    }

    async fn read_routes(&mut self, netlink: &Netlink) -> anyhow::Result<bool> {
        let routes = Routes::new(netlink.routes().await?);
        let changed = *self.routes != routes;
        self.routes = Arc::new(routes);
        Ok(changed)
    }

    async fn read_devices(&mut self, netlink: &Netlink) -> anyhow::Result<bool> {
        self.links = netlink.links().await?;
        let devices = self.devices_among(&self.links);
        let changed = self.devices != devices;
        if changed {
            self.log_differences(&devices);
        }
        self.devices = devices;
        Ok(changed)
    }

    fn devices_among(&self, links: &[Link]) -> Arc<[Device]> {
        let up = links.iter().filter(|link| link.up);
        up.filter_map(|link| {
            let served = self.served.get(&link.index)?;
            Some(Device {
                index: link.index,
                mac: link.mac,
                mtu: link.mtu.min(served.limit) as usize,
                addresses: source_addresses(&self.addresses, link.index),
            })
        })
        .collect()
    }

    fn log_differences(&self, now: &[Device]) {
        for (index, Served { name, limit }) in &self.served {
            let find = |devices: &[Device]| devices.iter().find(|device| device.index == *index).cloned();
            match (find(&self.devices), find(now)) {
                // Of one that is gone more is to be said than this.
                (Some(_), None) if self.links.iter().any(|link| link.index == *index) => {
                    tracing::error!("device {name}: down");
                }
                (before, Some(after)) if before.as_ref() != Some(&after) => {
                    tracing::info!("device {name}: up, MAC {}, MTU {}", after.mac, after.mtu);
                    let mtu = self.links.iter().find(|link| link.index == *index).map_or(0, |link| link.mtu);
                    if mtu > *limit {
                        tracing::warn!(
                            "device {name}: its MTU is now {mtu}, but {limit} is the most it is served with; a start \
                             anew looks whether it can have more"
                        );
                    }
                }
                _ => {}
            }
        }
    }

    async fn read_addresses(&mut self, netlink: &Netlink) -> anyhow::Result<bool> {
        self.addresses = netlink.addresses().await?;
        let own_addresses = self.addresses.iter().map(|local| local.address).collect();
        let changed = self.own_addresses != own_addresses;
        self.own_addresses = own_addresses;
        Ok(changed)
    }

    /// Returns the kernel's routes.
    #[must_use]
    pub fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// Returns the next hops in use with what is known of them.
    #[must_use]
    pub fn neighbours(&self) -> Arc<Neighbours> {
        let known = self.in_use.iter().filter_map(|hop| self.known.get(hop).map(|state| (*hop, *state)));
        Arc::new(Neighbours::new(known))
    }

    /// Returns the served devices that are up.
    #[must_use]
    pub fn devices(&self) -> &Arc<[Device]> {
        &self.devices
    }

    /// Returns all devices of the box, as last read.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Returns the box's own addresses.
    #[must_use]
    pub fn own_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.own_addresses
    }
}

/// Returns what a device may masquerade with, in the kernel's order.
fn source_addresses(all: &[LocalAddress], device: DeviceIndex) -> Arc<[Prefix]> {
    let own = all.iter().filter(|local| local.device == device && local.is_source);
    own.map(|local| Prefix { address: local.address, length: local.prefix_length }).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use tidegate_dataplane::net::Mac;

    use super::*;

    const SERVED: DeviceIndex = DeviceIndex(2);
    const NOT_SERVED: DeviceIndex = DeviceIndex(3);

    fn serving() -> Topology {
        Topology::serving([(SERVED, Served { name: "pods0".to_owned(), limit: SINGLE_FRAME_MTU })])
    }

    fn next_hop(device: DeviceIndex, host: u8) -> NextHop {
        NextHop { device, address: Ipv4Addr::new(10, 244, 0, host).into() }
    }

    const fn reachable(octet: u8) -> Option<NeighbourState> {
        Some(NeighbourState::Reachable(Mac([2, 0, 0, 0, 0, octet])))
    }

    #[test]
    fn a_device_has_its_own_addresses_of_both_families_that_may_be_a_source() {
        let local = |device, address: &str, prefix_length, is_source| LocalAddress {
            device: DeviceIndex(device),
            address: address.parse().unwrap(),
            prefix_length,
            is_source,
        };
        let addresses = [
            local(1, "10.9.0.1", 24, true),
            local(2, "10.1.0.5", 24, false),
            local(2, "10.1.0.1", 24, true),
            local(2, "10.1.0.9", 24, true),
            local(2, "fe80::1", 64, false),
            local(2, "fd01::1", 64, true),
        ];
        let of = |device| {
            let own = source_addresses(&addresses, DeviceIndex(device));
            own.iter().map(|own| (own.address.to_string(), own.length)).collect::<Vec<_>>()
        };
        let expected = [("10.1.0.1", 24), ("10.1.0.9", 24), ("fd01::1", 64)];
        assert_eq!(of(2), expected.map(|(address, length)| (address.to_owned(), length)));
        assert_eq!(of(3), []);
    }

    #[test]
    fn a_neighbour_is_published_only_if_a_worker_uses_it() {
        let mut topology = serving();
        let (used, unused) = (next_hop(SERVED, 1), next_hop(SERVED, 2));
        assert!(!topology.use_next_hop(used), "nothing is known of it yet");
        assert!(!topology.note_neighbour(unused, reachable(2)));
        assert!(topology.note_neighbour(used, reachable(1)));
        assert_eq!(topology.neighbours().lookup(&used), reachable(1));
        assert_eq!(topology.neighbours().lookup(&unused), None);
        assert!(topology.use_next_hop(unused), "it is known already");
        assert!(!topology.use_next_hop(unused), "it was published with the first use");
        assert_eq!(topology.neighbours().lookup(&unused), reachable(2));
    }

    #[test]
    fn the_same_state_told_again_is_not_published_again() {
        let mut topology = serving();
        let used = next_hop(SERVED, 1);
        topology.use_next_hop(used);
        let states = [
            Some(NeighbourState::Unresolved),
            reachable(1),
            reachable(9),
            Some(NeighbourState::Failed),
            None,
        ];
        for state in states {
            assert!(topology.note_neighbour(used, state), "{state:?}");
            assert!(!topology.note_neighbour(used, state), "{state:?} again");
            assert_eq!(topology.neighbours().lookup(&used), state);
        }
    }

    #[test]
    fn a_next_hop_that_the_kernel_forgot_is_published_when_it_is_known_again() {
        let mut topology = serving();
        let used = next_hop(SERVED, 1);
        topology.use_next_hop(used);
        topology.note_neighbour(used, reachable(1));
        assert!(topology.note_neighbour(used, None));
        assert!(!topology.use_next_hop(used), "asked for again, and not known");
        assert!(topology.note_neighbour(used, reachable(1)));
    }

    #[test]
    fn a_next_hop_that_failed_is_given_up_and_asked_for_anew_when_it_is_wanted() {
        let mut topology = serving();
        let used = next_hop(SERVED, 1);
        topology.use_next_hop(used);
        assert!(topology.note_neighbour(used, Some(NeighbourState::Failed)));
        assert_eq!(topology.forget_failed(), [used]);
        assert_eq!(topology.forget_failed(), []);
        assert!(
            !topology.use_next_hop(used),
            "its old failure is not published to the packet that waits now"
        );
        assert!(topology.note_neighbour(used, reachable(1)));
        assert_eq!(topology.forget_failed(), []);
    }

    fn step() -> impl Strategy<Value = (bool, NextHop, Option<NeighbourState>)> {
        let next_hop = (prop_oneof![Just(SERVED), Just(NOT_SERVED)], 1..4u8)
            .prop_map(|(device, host)| next_hop(device, host));
        let state = prop_oneof![
            (0..3u8).prop_map(reachable),
            Just(Some(NeighbourState::Unresolved)),
            Just(Some(NeighbourState::Failed)),
            Just(None),
        ];
        (proptest::bool::weighted(0.3), next_hop, state)
    }

    proptest! {
        /// The model keeps all that was told but failures of what is wanted anew, and publishes whenever the part in use differs.
        #[test]
        fn workers_see_every_difference_and_nothing_else(steps in proptest::collection::vec(step(), 0..60)) {
            let mut topology = serving();
            let (mut told, mut used) = (BTreeMap::new(), BTreeSet::new());
            let mut published = Neighbours::default();
            for (is_use, next_hop, state) in steps {
                let publishes = if is_use {
                    used.insert(next_hop);
                    if told.get(&next_hop) == Some(&Some(NeighbourState::Failed)) {
                        told.insert(next_hop, None);
                    }
                    topology.use_next_hop(next_hop)
                } else {
                    told.insert(next_hop, state);
                    topology.note_neighbour(next_hop, state)
                };
                let wanted = Neighbours::new(told.iter().filter_map(|(next_hop, state)| {
                    let seen = next_hop.device == SERVED && used.contains(next_hop);
                    state.filter(|_| seen).map(|state| (*next_hop, state))
                }));
                prop_assert_eq!(publishes, wanted != published);
                prop_assert_eq!(&*topology.neighbours(), &wanted);
                published = wanted;
            }
        }
    }
}
