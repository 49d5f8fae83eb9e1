//! Which Service has which frontend, here called address, and which linger.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use tidegate_dataplane::net::{Port, Protocol};
use tidegate_dataplane::services::{Frontend, VirtualAddress};

use crate::cluster::ObjectName;
use crate::tables::{Compiled, EndpointKey};

#[derive(Debug)]
struct Holding {
    service: ObjectName,
    table: VirtualAddress,
    endpoints: BTreeSet<EndpointKey>,
    /// Set when the Service no longer has this address; others may claim it from then on.
    lingers_until: Option<Instant>,
}

/// What a Service's wish for an address came to.
#[derive(Debug)]
pub(super) enum Claim {
    /// It has the address with this table already.
    Unchanged,
    /// It has the address now; these endpoints of the table before are no longer listed there.
    Changed(BTreeSet<EndpointKey>),
    /// Another Service has it.
    Taken(ObjectName),
}

/// All addresses of the snapshot. Look-ups and changes cost the logarithm of their number.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    holdings: BTreeMap<Frontend, Holding>,
    /// Addresses that do not linger.
    of_service: BTreeMap<ObjectName, BTreeSet<Frontend>>,
    endings: BTreeSet<(Instant, Frontend)>,
}

impl Addresses {
    /// Gives an address to a Service unless another one has it.
    pub(super) fn claim(&mut self, service: &ObjectName, compiled: Compiled) -> Claim {
        let Compiled { frontend: address, table, endpoints } = compiled;
        let mut unchanged = false;
        if let Some(holding) = self.holdings.get_mut(&address) {
            let own = holding.service == *service;
            if !own && holding.lingers_until.is_none() {
                return Claim::Taken(holding.service.clone());
            }
            if let Some(until) = holding.lingers_until.take() {
                self.endings.remove(&(until, address));
            }
            unchanged = own && holding.table == table;
        }
        self.of_service.entry(service.clone()).or_default().insert(address);
        if unchanged {
            return Claim::Unchanged;
        }
        let holding = Holding { service: service.clone(), table, endpoints, lingers_until: None };
        let before = self.holdings.insert(address, holding);
        Claim::Changed(before.map(|before| before.endpoints).unwrap_or_default())
    }

    /// Returns the addresses that a Service has now.
    pub(super) fn of(&self, service: &ObjectName) -> BTreeSet<Frontend> {
        self.of_service.get(service).cloned().unwrap_or_default()
    }

    /// Takes an address from its Service; its table stays until then, unless another Service claims it before.
    pub(super) fn let_linger(&mut self, address: Frontend, until: Instant) {
        let Some(holding) = self.holdings.get_mut(&address) else { return };
        if holding.lingers_until.replace(until).is_none() {
            self.endings.insert((until, address));
        }
        if let Some(own) = self.of_service.get_mut(&holding.service) {
            own.remove(&address);
            if own.is_empty() {
                self.of_service.remove(&holding.service);
            }
        }
    }

    /// Removes the addresses that have lingered long enough and returns them with their endpoints.
    pub(super) fn end_lingering(&mut self, now: Instant) -> Vec<(Frontend, BTreeSet<EndpointKey>)> {
        let mut ended = Vec::new();
        while let Some((until, address)) = self.endings.first().copied().filter(|(until, _)| *until <= now) {
            self.endings.remove(&(until, address));
            if let Some(holding) = self.holdings.remove(&address) {
                ended.push((address, holding.endpoints));
            }
        }
        ended
    }

    /// Returns when the next address has lingered long enough.
    pub(super) fn next_ending(&self) -> Option<Instant> {
        self.endings.first().map(|(until, _)| *until)
    }

    /// Lists the virtual addresses from one to another, lingering ones included, some more than once. Costs what it
    /// lists.
    pub(super) fn between(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpAddr> {
        let cluster_ips = self.holdings.range(Frontend::Address(first)..=Frontend::Address(last));
        let least = Frontend::Socket(first, Protocol::Tcp, Port::new(0));
        let most = Frontend::Socket(last, Protocol::Sctp, Port::new(u16::MAX));
        let listed = cluster_ips.chain(self.holdings.range(least..=most));
        listed.map(|(frontend, _)| frontend.address()).filter(|address| !address.is_unspecified())
    }

    /// Returns how many addresses there are, lingering ones included.
    pub(super) fn len(&self) -> usize {
        self.holdings.len()
    }
}
