//! The box's links as the packet path needs them: routes, next hops in use, devices, own addresses.
//!
//! Folds the kernel's events; says what is to be published. The kernel's tables are read anew on a change of their
//! kind, which costs their size, not the traffic's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tidegate_dataplane::neighbours::{NeighbourState, Neighbours, NextHop};
use tidegate_dataplane::routes::{DeviceIndex, Routes};
use tidegate_dataplane::snapshot::{Device, OwnAddress};

use crate::netlink::{KernelEvent, Link, LocalAddress, Netlink};

/// What the kernel says of links, as far as we use it.
#[derive(Debug)]
pub struct Topology {
    served: BTreeSet<DeviceIndex>,
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

impl Topology {
    /// Reads all tables of the kernel.
    ///
    /// # Errors
    /// When the kernel refuses a dump.
    pub async fn read(netlink: &Netlink, served: &[Link]) -> anyhow::Result<Self> {
        let mut topology = Self {
            served: served.iter().map(|link| link.index).collect(),
            routes: Arc::default(),
            devices: Arc::new([]),
            addresses: Vec::new(),
            own_addresses: BTreeSet::new(),
            known: BTreeMap::new(),
            in_use: BTreeSet::new(),
        };
        topology.apply(netlink, KernelEvent::Resync).await?;
        Ok(topology)
    }

    /// Folds one event in.
    ///
    /// # Errors
    /// When the kernel refuses a dump.
    pub async fn apply(&mut self, netlink: &Netlink, event: KernelEvent) -> anyhow::Result<Changed> {
        let mut changed = Changed::default();
        match event {
            KernelEvent::Resync => {
                self.known = netlink.neighbours().await?.into_iter().collect();
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

    /// Notes that a worker waits for a next hop; says whether it is known already, so that it is to be published.
    pub fn use_next_hop(&mut self, next_hop: NextHop) -> bool {
        self.in_use.insert(next_hop) && self.known.contains_key(&next_hop)
    }

    fn note_neighbour(&mut self, next_hop: NextHop, state: Option<NeighbourState>) -> bool {
        if !self.served.contains(&next_hop.device) {
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
        let links = netlink.links().await?;
        let served = links.iter().filter(|link| self.served.contains(&link.index) && link.up);
        let devices: Arc<[Device]> = served
            .map(|link| Device {
                index: link.index,
                mac: link.mac,
                mtu: link.mtu as usize,
                addresses: source_addresses(&self.addresses, link.index),
            })
            .collect();
        for lost in self.devices.iter().filter(|old| !devices.iter().any(|new| new.index == old.index)) {
            tracing::error!("served device with index {} is down or gone", lost.index.0);
        }
        let changed = self.devices != devices;
        self.devices = devices;
        Ok(changed)
    }

    async fn read_addresses(&mut self, netlink: &Netlink) -> anyhow::Result<bool> {
        self.addresses = netlink.addresses().await?;
        let addresses = self.addresses.iter().map(|local| local.address).collect();
        let changed = self.own_addresses != addresses;
        self.own_addresses = addresses;
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

    /// Returns the box's own addresses.
    #[must_use]
    pub fn own_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.own_addresses
    }
}

/// Returns what a device may masquerade with, in the kernel's order.
fn source_addresses(all: &[LocalAddress], device: DeviceIndex) -> Arc<[OwnAddress]> {
    let own = all.iter().filter(|local| local.device == device && local.is_source);
    own.filter_map(|local| match local.address {
        IpAddr::V4(address) => Some(OwnAddress { address, prefix_length: local.prefix_length }),
        IpAddr::V6(_) => None,
    })
    .collect()
}
