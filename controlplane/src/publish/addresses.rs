//! Which Service has which frontend, here called address, which linger, and which are refused after that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tidegate_dataplane::net::{Port, Protocol};
use tidegate_dataplane::services::{Frontend, VirtualAddress};

use crate::cluster::ObjectName;
use crate::tables::{Compiled, EndpointKey, endpoints_of};

/// The most removed addresses that are refused at once; of more, the oldest is left.
pub(super) const MOST_REFUSED: usize = 4096;

/// How far an address is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// A Service has it.
    Held,
    /// Its Service no longer has it; others may claim it from now on. Its table stays until then.
    Lingers(Instant),
    /// Its Service is gone, and whoever calls is told so until then. Others may claim it.
    Refuses(Instant),
}

#[derive(Debug)]
struct Holding {
    service: ObjectName,
    table: VirtualAddress,
    stage: Stage,
}

/// A step of an address on its way out.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) address: Frontend,
    /// What is to be in its place; `None` if it is gone.
    pub(super) table: Option<VirtualAddress>,
    /// Those that its table listed.
    pub(super) endpoints: BTreeSet<EndpointKey>,
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
    /// Addresses that are held.
    of_service: BTreeMap<ObjectName, Vec<Frontend>>,
    lingering: BTreeSet<(Instant, Frontend)>,
    refusing: BTreeSet<(Instant, Frontend)>,
}

impl Addresses {
    /// Gives an address to a Service unless another one has it.
    pub(super) fn claim(&mut self, service: &ObjectName, compiled: Compiled) -> Claim {
        let Compiled { frontend: address, table } = compiled;
        let mut unchanged = false;
        if let Some(holding) = self.holdings.get_mut(&address) {
            let own = holding.service == *service;
            match std::mem::replace(&mut holding.stage, Stage::Held) {
                Stage::Held if own => {}
                Stage::Held => return Claim::Taken(holding.service.clone()),
                Stage::Lingers(until) => drop(self.lingering.remove(&(until, address))),
                Stage::Refuses(until) => drop(self.refusing.remove(&(until, address))),
            }
            unchanged = own && holding.table == table;
        }
        let own = self.of_service.entry(service.clone()).or_default();
        if !own.contains(&address) {
            own.reserve_exact(1);
            own.push(address);
        }
        if unchanged {
            return Claim::Unchanged;
        }
        let holding = Holding { service: service.clone(), table, stage: Stage::Held };
        let before = self.holdings.insert(address, holding);
        Claim::Changed(before.map(|before| endpoints_of(&before.table)).unwrap_or_default())
    }

    /// Returns the addresses that a Service has now.
    pub(super) fn of(&self, service: &ObjectName) -> BTreeSet<Frontend> {
        self.of_service.get(service).into_iter().flatten().copied().collect()
    }

    /// Takes an address from its Service; its table stays until then, unless another Service claims it before.
    pub(super) fn let_linger(&mut self, address: Frontend, until: Instant) {
        let Some(holding) = self.holdings.get_mut(&address) else { return };
        if holding.stage == Stage::Held {
            holding.stage = Stage::Lingers(until);
            self.lingering.insert((until, address));
        }
        if let Some(own) = self.of_service.get_mut(&holding.service) {
            own.retain(|held| *held != address);
            if own.is_empty() {
                self.of_service.remove(&holding.service);
            }
        }
    }

    /// Takes the addresses a step on that have lingered or been refused long enough.
    ///
    /// After the linger, one is refused for `refused_for` if `is_refused` says so of it and its last Service; others are
    /// gone at once.
    pub(super) fn step(
        &mut self,
        now: Instant,
        refused_for: Duration,
        is_refused: impl Fn(&Frontend, &ObjectName) -> bool,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some((until, address)) = self.lingering.first().copied().filter(|(until, _)| *until <= now)
        {
            self.lingering.remove(&(until, address));
            let Some(holding) = self.holdings.get_mut(&address) else { continue };
            let endpoints = endpoints_of(&holding.table);
            let table = is_refused(&address, &holding.service).then(VirtualAddress::removed);
            match &table {
                Some(table) => {
                    let until = now + refused_for;
                    (holding.table, holding.stage) = (table.clone(), Stage::Refuses(until));
                    self.refusing.insert((until, address));
                }
                None => drop(self.holdings.remove(&address)),
            }
            steps.push(Step { address, table, endpoints });
        }
        let is_over = |refusing: &BTreeSet<(Instant, Frontend)>| {
            refusing.len() > MOST_REFUSED || refusing.first().is_some_and(|(until, _)| *until <= now)
        };
        while is_over(&self.refusing) {
            let Some((_, address)) = self.refusing.pop_first() else { break };
            self.holdings.remove(&address);
            steps.push(Step { address, table: None, endpoints: BTreeSet::new() });
        }
        steps
    }

    /// Returns when the next address is to take a step.
    pub(super) fn next_step(&self) -> Option<Instant> {
        let firsts = [self.lingering.first(), self.refusing.first()];
        firsts.into_iter().flatten().map(|(until, _)| *until).min()
    }

    /// Lists the virtual addresses from one to another, lingering ones included, refused ones not, some more than once. Costs
    /// what it lists.
    pub(super) fn between(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpAddr> {
        let cluster_ips = self.holdings.range(Frontend::Address(first)..=Frontend::Address(last));
        let least = Frontend::Socket(first, Protocol::Tcp, Port::new(0));
        let most = Frontend::Socket(last, Protocol::Sctp, Port::new(u16::MAX));
        let listed = cluster_ips.chain(self.holdings.range(least..=most));
        let served = listed.filter(|(_, holding)| !matches!(holding.stage, Stage::Refuses(_)));
        served.map(|(frontend, _)| frontend.address()).filter(|address| !address.is_unspecified())
    }

    /// Returns how many addresses there are, lingering ones included, refused ones not.
    pub(super) fn len(&self) -> usize {
        self.holdings.len() - self.refusing.len()
    }
}
