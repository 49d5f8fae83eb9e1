//! Segments that leave by themselves: what ends connections whose endpoint is gone.
//!
//! The control thread publishes which endpoints have left ([`crate::departed`]). Packets of their flows find it out by
//! themselves; for connections that are silent each worker goes through its part of the table and asks their clients,
//! three times, half a second apart, and then forgets the flow. The endpoint is never asked: it gets one RST, made of
//! what the client answers.

use super::path::{Path, Wire};
use crate::clock::Now;
use crate::departed::Departure;
use crate::family::Family;
use crate::flows::{Cursor, Scanned, State};
use crate::maglev::mix;
use crate::neighbours::{NeighbourState, NextHop};
use crate::net::{Protocol, ethernet};
use crate::reset::Draft;
use crate::routes::RouteKind;
use crate::snapshot::Snapshot;
use crate::tombstones;

/// How often a silent client is asked.
const TRIES: u32 = 3;
/// How long it has to answer.
const PATIENCE_NS: u64 = 500_000_000;
/// Flow records looked at between two bursts; they are read in order, so this takes some 10 µs.
const BUDGET: usize = 2_048;

/// How far a worker is with the connections to reset.
#[derive(Debug)]
pub(super) struct Probing {
    /// Of the set of endpoints that it is about.
    version: u64,
    /// Rounds begun; none is left after the one that forgets.
    rounds: u32,
    next_round_ns: u64,
    /// Records still to look at in this round, of IPv4 and of IPv6.
    unseen: [usize; 2],
    cursors: [Cursor; 2],
}

impl Probing {
    /// Makes the state of one of so many workers.
    pub(super) const fn part(worker: u32, workers: u32) -> Self {
        Self {
            version: 0,
            rounds: TRIES + 1,
            next_round_ns: 0,
            unseen: [0; 2],
            cursors: [Cursor::part(worker, workers), Cursor::part(worker, workers)],
        }
    }

    /// Begins a round if one is due; says whether there is something to look at.
    fn is_at_work(&mut self, snapshot: &Snapshot, parts: [usize; 2], now: Now) -> bool {
        let departed = &snapshot.departed;
        if self.version != departed.version {
            self.version = departed.version;
            self.rounds = if departed.has_resets() { 0 } else { TRIES + 1 };
            self.next_round_ns = 0;
            self.unseen = [0; 2];
        }
        if self.unseen == [0; 2] && self.rounds <= TRIES && now.ns() >= self.next_round_ns {
            self.rounds += 1;
            self.next_round_ns = now.ns() + PATIENCE_NS;
            self.unseen = parts;
        }
        self.unseen != [0; 2]
    }
}

impl Path {
    /// Sets the part of the flow tables that this worker looks through for connections to reset.
    #[must_use]
    pub const fn with_part(mut self, worker: u32, workers: u32) -> Self {
        self.probing = Probing::part(worker, workers);
        self
    }

    /// Says whether a look through the flows is under way.
    #[must_use]
    pub const fn is_probing(&self) -> bool {
        let [ipv4, ipv6] = self.probing.unseen;
        ipv4 > 0 || ipv6 > 0
    }

    /// Goes on asking the clients of connections whose endpoint is gone. Costs a comparison if there are none.
    pub fn probe_departed(&mut self, snapshot: &Snapshot, now: Now, wire: &mut impl Wire) {
        let [ipv4, ipv6] = &self.probing.cursors;
        let parts = [ipv4.size(self.flows.ipv4.capacity()), ipv6.size(self.flows.ipv6.capacity())];
        if !self.probing.is_at_work(snapshot, parts, now) {
            return;
        }
        self.probe_family::<std::net::Ipv4Addr>(0, snapshot, now);
        self.probe_family::<std::net::Ipv6Addr>(1, snapshot, now);
        self.send_drafts(snapshot, wire);
    }

    fn probe_family<A: Family>(&mut self, family: usize, snapshot: &Snapshot, now: Now) {
        let Self { probing, flows: tables, drafts, counters, .. } = self;
        let is_last = probing.rounds > TRIES;
        let (Some(unseen), Some(cursor)) = (probing.unseen.get_mut(family), probing.cursors.get_mut(family))
        else {
            return;
        };
        let (flows, tombstones) = (A::flows(tables), A::tombstones(tables));
        let room = drafts.capacity() - drafts.len();
        let budget = (*unseen).min(BUDGET).min(room);
        *unseen -= budget;
        let is_wanted = |service, endpoint| snapshot.departed.of(service, endpoint) == Some(Departure::Reset);
        flows.scan(cursor, budget, is_wanted, |Scanned { flow, state, request, reply, endpoint, .. }| {
            if request.protocol != Protocol::Tcp || !is_open(state) {
                return;
            }
            if is_last {
                if flows.remove(flow) {
                    tombstones::insert(tombstones, &reply, endpoint, now);
                    counters.flows_reset += 1;
                }
                return;
            }
            let number = mix(now.ns() ^ u64::from(flows.hash(&request).halves()[0])) as u32;
            let flow_hash = flows.hash(&reply).halves()[1];
            let probe = Draft::probe(&request.reversed(), number);
            drafts.extend(probe.map(|probe| probe.of_flow(flow_hash)));
        });
    }

    /// Sends the segments that leave by themselves; one without a known next hop is left out, for it is asked again.
    pub(super) fn send_drafts(&mut self, snapshot: &Snapshot, wire: &mut impl Wire) {
        while let Some(draft) = self.drafts.pop() {
            let Some(mut frame) = self.pool.pop() else {
                self.drafts.clear();
                return;
            };
            let octets = draft.octets();
            if let Some(room) = self.memory.octets_mut(&mut frame).get_mut(..octets.len()) {
                room.copy_from_slice(octets);
            }
            frame.set_len(octets.len());
            let sent = match way(&draft, snapshot) {
                Some(Way::Device(next_hop, mac)) => {
                    let own = snapshot.device(next_hop.device).map(|device| device.mac);
                    if let Some(header) = ethernet::Header::writable(self.memory.octets_mut(&mut frame)) {
                        header.readdress(own.unwrap_or_default(), mac);
                    }
                    wire.transmit(next_hop.device, frame)
                }
                Some(Way::Kernel) => {
                    if let Some(header) = ethernet::Header::writable(self.memory.octets_mut(&mut frame)) {
                        header.readdress(self.punt.source, self.punt.destination);
                    }
                    wire.punt(frame)
                }
                None => {
                    self.pool.push(frame);
                    continue;
                }
            };
            match sent {
                Ok(()) => {
                    self.counters.originated += 1;
                    self.count_sent(octets.len() as u64);
                }
                Err((frame, _)) => self.pool.push(frame),
            }
        }
    }
}

/// Says whether a connection of that state has ends that would miss it.
const fn is_open(state: State) -> bool {
    !matches!(state, State::SynSent | State::SynSent2 | State::TimeWait | State::Close)
}

enum Way {
    Device(NextHop, crate::net::Mac),
    Kernel,
}

fn way(draft: &Draft, snapshot: &Snapshot) -> Option<Way> {
    let next_hop = match snapshot.routes.lookup(draft.destination, draft.flow_hash)? {
        RouteKind::Unicast { device, gateway } => {
            NextHop { device, address: gateway.unwrap_or(draft.destination) }
        }
        RouteKind::Local => return Some(Way::Kernel),
        RouteKind::Unreachable => return None,
    };
    if snapshot.device(next_hop.device).is_none() {
        return Some(Way::Kernel);
    }
    match snapshot.neighbours.position(&next_hop)? {
        (_, NeighbourState::Reachable(mac)) => Some(Way::Device(next_hop, mac)),
        _ => None,
    }
}
