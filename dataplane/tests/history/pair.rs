//! The packet path and the slow gateway, side by side, through the same steps.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use proptest::prelude::*;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::flows::{Cursors, EndpointId, ServicePortId};
use tidegate_dataplane::masquerade::{Masquerade, Mode, PortRange};
use tidegate_dataplane::neighbours::{NeighbourState, NextHop};
use tidegate_dataplane::net::{Mac, Port, Prefix, Protocol};
use tidegate_dataplane::routes::{self, DeviceIndex, RouteKind, RouteTable, Routes};
use tidegate_dataplane::services::{Backend, Backends, ServicePort, Services, Terms, VirtualAddress};
use tidegate_dataplane::snapshot::{Device, Snapshot};
use tidegate_dataplane::worker::BURST;

use super::frames::frames;
use super::{BACKENDS, DESTINATIONS, PORTS, SERVICES, Step, address, hops, lead, prefix_length, routes_with};
use crate::path_rig::{
    CLIENT_SIDE, CLIENT_SIDE_MAC, GATEWAY, Out, POD_SIDE, POD_SIDE_GATEWAY, POD_SIDE_MAC, PUNT, Rig,
};
use crate::slow_gateway::datagram::Five;
use crate::slow_gateway::links::{Hop, Lead, Links, Route, Station};
use crate::slow_gateway::{Gateway, MASQUERADE_PORT, Ports, Sent, Way, hex};

/// Each pass forgets a bounded number of datagrams; this often is enough for all.
const PASSES_TO_EXPIRE_FRAGMENTS: usize = 40;

/// The two gateways.
pub struct Pair {
    pub rig: Rig,
    pub slow: Gateway,
    cursor: Cursors,
    /// Keys of flows that were, the last ones only.
    pub gone: Vec<Five>,
}

impl Pair {
    pub fn new(capacity: u32, mode: Mode) -> Self {
        let mut rig = Rig::with_flows(capacity);
        let network = |octets, length, is_ipv6| Prefix {
            address: address(octets, is_ipv6),
            length: prefix_length(length, is_ipv6),
        };
        let device = |index, mac, own| Device {
            index,
            mac,
            mtu: 1500,
            addresses: [false, true].map(|is_ipv6| network(own, 24, is_ipv6)).into(),
        };
        let services = Services::new([false, true].map(|is_ipv6| network([10, 96, 0, 0], 16, is_ipv6)));
        let ports = PortRange::new(MASQUERADE_PORT, MASQUERADE_PORT).unwrap();
        rig.snapshot = Snapshot {
            devices: Arc::new([
                device(CLIENT_SIDE, CLIENT_SIDE_MAC, GATEWAY),
                device(POD_SIDE, POD_SIDE_MAC, POD_SIDE_GATEWAY),
            ]),
            masquerade: Masquerade { mode, ports },
            ..Snapshot::empty(services)
        };
        let mut slow = Gateway::new(rig.flows.ipv4.capacity(), links());
        slow.masquerade = mode;
        let mut pair = Self { rig, slow, cursor: Cursors::part(0, 1), gone: vec![] };
        for (destination, port) in
            (0..SERVICES).flat_map(|place| (0..PORTS.len()).map(move |port| (place, port)))
        {
            for is_ipv6 in [false, true] {
                pair.change_service(is_ipv6, destination, port, Some(1 << destination | 1));
            }
        }
        pair.hand_over_links();
        pair
    }

    /// Takes a step with both and compares them.
    pub fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let before: Vec<Five> = self.slow.flows.iter().flat_map(|flow| [flow.request, flow.reply]).collect();
        match step {
            Step::Burst { is_client_side, is_wire_full, packets, copies } => {
                self.set_wire(*is_wire_full);
                let device = if *is_client_side { CLIENT_SIDE } else { POD_SIDE };
                let packets: Vec<_> = packets
                    .iter()
                    .flat_map(|sketch| (0..*copies).map(move |copy| (sketch, copy as u8)))
                    .flat_map(|(sketch, copy)| frames(sketch, &self.slow, copy))
                    .collect();
                for packets in packets.chunks(BURST) {
                    self.carry(device, packets)?;
                }
            }
            Step::Release { is_wire_full } => {
                self.set_wire(*is_wire_full);
                prop_assert_eq!(sent(self.rig.release()), self.slow.release());
            }
            Step::Service { is_ipv6, destination, port, backends } => {
                self.change_service(*is_ipv6, *destination, *port, *backends);
            }
            Step::Neighbour { is_ipv6, hop, station } => {
                let hop = hops(*is_ipv6)[*hop];
                match station {
                    Some(station) => self.slow.links.stations.insert(hop, *station),
                    None => self.slow.links.stations.remove(&hop),
                };
                self.hand_over_links();
            }
            Step::Route { is_ipv6, lead: place } => {
                let lead = place.map(|place| lead(place, *is_ipv6));
                self.slow.links.routes.retain(|route| route.network.is_ipv6() != *is_ipv6);
                self.slow.links.routes.extend(routes_with(lead, *is_ipv6));
                self.hand_over_links();
            }
            Step::Wait { ns } => {
                self.slow.now_ns += ns;
                self.rig.now = Now::from_ns(self.slow.now_ns);
            }
            Step::Expire => self.expire()?,
        }
        self.remember_gone(before);
        self.agree()
    }

    fn carry(&mut self, device: DeviceIndex, packets: &[Vec<u8>]) -> Result<(), TestCaseError> {
        let carried = self.rig.carry(device, packets);
        let expected: Vec<_> = packets.iter().flat_map(|octets| self.slow.carry(device.0, octets)).collect();
        let asked = || packets.iter().map(|octets| hex(octets)).collect::<Vec<_>>();
        prop_assert_eq!(sent(carried), expected, "of {:#?}", asked());
        Ok(())
    }

    fn expire(&mut self) -> Result<(), TestCaseError> {
        let budget = self.rig.flows.capacity();
        let expired = self.rig.flows.expire(&mut self.cursor, self.rig.now, budget);
        prop_assert_eq!(expired, self.slow.expire());
        for _ in 0..PASSES_TO_EXPIRE_FRAGMENTS {
            let Rig { path, snapshot, now, wire, .. } = &mut self.rig;
            path.expire_fragments(snapshot, *now, wire);
        }
        prop_assert!(self.rig.collect().is_empty());
        self.slow.expire_fragments();
        Ok(())
    }

    fn set_wire(&mut self, is_full: bool) {
        self.rig.wire.full = is_full;
        self.slow.is_wire_full = is_full;
    }

    fn remember_gone(&mut self, before: Vec<Five>) {
        let lives =
            |key: &Five| self.slow.flows.iter().any(|flow| flow.request == *key || flow.reply == *key);
        let mut gone = std::mem::take(&mut self.gone);
        gone.extend(before.into_iter().filter(|key| !lives(key)));
        gone.retain(|key| !lives(key));
        gone.sort();
        gone.dedup();
        gone.drain(..gone.len().saturating_sub(64));
        self.gone = gone;
    }

    fn change_service(&mut self, is_ipv6: bool, destination: usize, port: usize, backends: Option<u16>) {
        let address = address(DESTINATIONS[destination], is_ipv6);
        match backends {
            Some(bits) => {
                let ports = self.slow.services.entry(address).or_default();
                ports.insert(PORTS[port], Arc::new(Backends::new(members(bits, is_ipv6))));
            }
            None => drop(self.slow.services.remove(&address)),
        }
        let next = self.slow.services.get(&address).map(virtual_address);
        self.rig.snapshot.services = self.rig.snapshot.services.with([(address, next)]);
    }

    /// Publishes the slow gateway's routes and neighbours to the other one.
    fn hand_over_links(&mut self) {
        let links = &mut self.slow.links;
        links.changes += 1;
        let known: Vec<_> =
            links.stations.iter().map(|(hop, station)| (next_hop(*hop), state(*station))).collect();
        self.rig.snapshot.routes = Arc::new(Routes::new(links.routes.iter().map(route)));
        self.rig.learn(&known);
    }
}

fn links() -> Links {
    let both = [false, true];
    let known = |(hop, number): (Hop, u8)| (hop, Station::Known([2, 0, 0, 0, 8, number]));
    let own = |is_ipv6| {
        [(CLIENT_SIDE.0, address(GATEWAY, is_ipv6)), (POD_SIDE.0, address(POD_SIDE_GATEWAY, is_ipv6))]
    };
    Links {
        changes: 1,
        routes: both.into_iter().flat_map(|is_ipv6| routes_with(Some(lead(0, is_ipv6)), is_ipv6)).collect(),
        stations: both.into_iter().flat_map(hops).zip(1..).map(known).collect(),
        devices: BTreeMap::from([(CLIENT_SIDE.0, CLIENT_SIDE_MAC.0), (POD_SIDE.0, POD_SIDE_MAC.0)]),
        own: both.into_iter().flat_map(own).collect(),
        punt: (PUNT.source.0, PUNT.destination.0),
    }
}

fn sent(left: Vec<(Out, Vec<u8>)>) -> Vec<Sent> {
    let way = |out| match out {
        Out::Device(device) => Way::Device(device.0),
        Out::Punt => Way::Punt,
    };
    left.into_iter().map(|(out, octets)| Sent { way: way(out), octets }).collect()
}

fn members(bits: u16, is_ipv6: bool) -> Vec<Backend> {
    let of_the_other: IpAddr = if is_ipv6 { [10, 244, 0, 11].into() } else { Ipv6Addr::LOCALHOST.into() };
    let chosen = BACKENDS.iter().enumerate().filter(|(place, _)| bits >> place & 1 == 1);
    chosen
        .map(|(place, (octets, port))| Backend {
            address: octets.map_or(of_the_other, |octets| address(octets, is_ipv6)),
            port: Port::new(*port),
            id: EndpointId(place as u64),
        })
        .collect()
}

fn virtual_address(ports: &Ports) -> VirtualAddress {
    let port = |((protocol, port), backends): (&(u8, u16), &Arc<Backends>)| ServicePort {
        protocol: Protocol::from_number(*protocol).unwrap(),
        port: Port::new(*port),
        id: ServicePortId(u64::from(*port)),
        backends: Arc::clone(backends),
        terms: Terms::default(),
    };
    VirtualAddress::new(ports.iter().map(port).collect())
}

fn route(slow: &Route) -> routes::Route {
    routes::Route {
        table: if slow.is_local_table { RouteTable::Local } else { RouteTable::Main },
        destination: slow.network,
        prefix_length: slow.length as u8,
        metric: 0,
        kind: match slow.lead {
            Lead::Here => RouteKind::Local,
            Lead::Nowhere => RouteKind::Unreachable,
            Lead::Link(device) => RouteKind::Unicast { device: DeviceIndex(device), gateway: None },
            Lead::Router(device, router) => {
                RouteKind::Unicast { device: DeviceIndex(device), gateway: Some(router) }
            }
        },
    }
}

fn next_hop((device, address): Hop) -> NextHop {
    NextHop { device: DeviceIndex(device), address }
}

fn state(station: Station) -> NeighbourState {
    match station {
        Station::Known(mac) => NeighbourState::Reachable(Mac(mac)),
        Station::Asked => NeighbourState::Unresolved,
        Station::Silent => NeighbourState::Failed,
    }
}
