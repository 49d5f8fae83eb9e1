//! Where packets leave, and those that wait for a next hop.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Gateway, Sent};

pub const MTU: usize = 1500;

/// Limits of waiting: packets in all, packets for one next hop, and for how long.
const MOST_HELD: usize = 256;
const MOST_HELD_FOR_ONE: usize = 32;
const PATIENCE_NS: u64 = 3_500_000_000;
/// A next hop is asked for once in this time.
const ASK_AGAIN_NS: u64 = 1_000_000_000;

/// A device and an address on its link.
pub type Hop = (u32, IpAddr);

/// Where a route leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lead {
    Here,
    Nowhere,
    Link(u32),
    Router(u32, IpAddr),
}

/// What is known of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Station {
    Known([u8; 6]),
    Asked,
    Silent,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    pub is_local_table: bool,
    pub network: IpAddr,
    pub length: u32,
    pub lead: Lead,
}

#[derive(Clone, Debug)]
pub struct Links {
    /// How often any of this changed.
    pub changes: u32,
    pub routes: Vec<Route>,
    pub stations: BTreeMap<Hop, Station>,
    /// The devices that are served, with their addresses.
    pub devices: BTreeMap<u32, [u8; 6]>,
    /// The gateway's own addresses on the links: of errors of ours, and of masqueraded flows.
    pub own: Vec<Hop>,
    /// Sender and receiver of what goes to the kernel.
    pub punt: ([u8; 6], [u8; 6]),
}

impl Links {
    /// The local table first, then the longest prefix.
    pub fn lead(&self, destination: IpAddr) -> Option<Lead> {
        let covers = |route: &&Route| {
            let same_bits = match (route.network, destination) {
                (IpAddr::V4(network), IpAddr::V4(to)) => (network.to_bits() ^ to.to_bits()).leading_zeros(),
                (IpAddr::V6(network), IpAddr::V6(to)) => (network.to_bits() ^ to.to_bits()).leading_zeros(),
                _ => return false,
            };
            same_bits >= route.length
        };
        let best = self.routes.iter().filter(covers).max_by_key(|route| (route.is_local_table, route.length));
        best.map(|route| route.lead)
    }

    /// Our own address of a version on the link of a device that is served.
    pub fn own(&self, device: u32, is_ipv6: bool) -> IpAddr {
        let is_it = |(at, address): &&Hop| *at == device && address.is_ipv6() == is_ipv6;
        self.own.iter().find(is_it).unwrap().1
    }
}

/// A translated packet that waits for its next hop.
#[derive(Clone, Debug)]
pub struct Held {
    hop: Hop,
    octets: Vec<u8>,
    since_ns: u64,
    /// [`Links::changes`] when it came.
    changes: u32,
}

impl Gateway {
    pub(super) fn hold(&mut self, hop: Hop, octets: Vec<u8>) -> Option<Sent> {
        let for_this = self.held.iter().filter(|held| held.hop == hop).count();
        if self.held.len() == MOST_HELD || for_this == MOST_HELD_FOR_ONE {
            return self.drop("drop_hold_full");
        }
        self.held.push(Held { hop, octets, since_ns: self.now_ns, changes: self.links.changes });
        let was_just_asked = self.asked.get(&hop).is_some_and(|at| self.now_ns - at < ASK_AGAIN_NS);
        if !was_just_asked {
            self.asked.insert(hop, self.now_ns);
            self.wanted.push(hop);
        }
        None
    }

    /// Ends the wait of those that know their next hop by now, or waited in vain; returns what left.
    pub fn release(&mut self) -> Vec<Sent> {
        let mut left = vec![];
        for held in std::mem::take(&mut self.held) {
            let has_patience = self.now_ns - held.since_ns < PATIENCE_NS;
            match self.links.stations.get(&held.hop) {
                Some(Station::Known(station)) => left.extend(self.forward(held.hop, *station, held.octets)),
                // Silence that was known before the packet came is not yet an answer.
                Some(Station::Silent) if held.changes != self.links.changes || !has_patience => {
                    left.extend(self.drop("drop_neighbour_failed"));
                }
                _ if has_patience => self.held.push(held),
                _ => left.extend(self.drop("drop_hold_timeout")),
            }
        }
        left
    }
}
