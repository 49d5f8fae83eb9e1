//! Carries a burst through the packet path: parse and prefetch all, then process each and send it on its way.
//!
//! Knows frames but no sockets: they are a [`Wire`], so that the whole path runs in tests on plain octets.

use std::sync::Arc;

use foldhash::quality::RandomState;

use super::PuntAddresses;
use super::exchange::Exchange;
use crate::clock::Now;
use crate::counters::Counters;
use crate::flows::{FlowTable, Key, KeyHash};
use crate::fragments::Fragments;
use crate::fragments::cut::PIECES_MAX;
use crate::held::{HeldPackets, Released};
use crate::masquerade::PortSearch;
use crate::neighbours::NextHop;
use crate::net::{Mac, Port, Protocol, ethernet};
use crate::packet::{Packet, Unparsed};
use crate::process::{Context, process};
use crate::rate_limit::RateLimit;
use crate::routes::DeviceIndex;
use crate::snapshot::Snapshot;
use crate::verdict::{DropReason, Egress, Verdict};
use crate::xsk::{Frame, FrameMemory, FramePool};

/// Packets that are carried at once.
pub const BURST: usize = 64;

/// Where frames leave.
pub trait Wire {
    /// Queues a frame to leave by a device.
    ///
    /// # Errors
    /// Gives the frame back with the reason why it cannot leave.
    fn transmit(&mut self, device: DeviceIndex, frame: Frame) -> Result<(), (Frame, DropReason)>;

    /// Queues a frame for the kernel.
    ///
    /// # Errors
    /// Gives the frame back with the reason why it cannot leave.
    fn punt(&mut self, frame: Frame) -> Result<(), (Frame, DropReason)>;

    /// Asks the control thread to have a next hop resolved.
    fn resolve(&mut self, next_hop: NextHop);
}

/// One worker's state between bursts.
#[derive(Debug)]
pub struct Path {
    /// The memory that all frames are in.
    pub memory: Arc<FrameMemory>,
    /// Frames that nobody uses.
    pub pool: FramePool,
    /// What was counted; it balances between bursts.
    pub counters: Counters,
    flows: Arc<FlowTable>,
    held: HeldPackets,
    limit: RateLimit,
    ports: PortSearch,
    pub(super) fragments: Fragments,
    pub(super) exchange: Exchange,
    /// Pieces of a packet that is being cut; empty between packets.
    pub(super) pieces: Vec<Frame>,
    punt: PuntAddresses,
    parsed: Vec<Result<(Packet, KeyHash), Unparsed>>,
}

impl Path {
    /// Makes the state of one worker; the only allocations of its life.
    #[must_use]
    pub fn new(
        memory: Arc<FrameMemory>,
        pool: FramePool,
        flows: Arc<FlowTable>,
        punt: PuntAddresses,
    ) -> Self {
        let fragments = Fragments::new(memory.frames(), RandomState::default());
        Self {
            memory,
            pool,
            counters: Counters::default(),
            flows,
            held: HeldPackets::default(),
            limit: RateLimit::default(),
            ports: PortSearch::default(),
            fragments,
            exchange: Exchange::alone(),
            pieces: Vec::with_capacity(PIECES_MAX),
            punt,
            parsed: Vec::with_capacity(BURST),
        }
    }

    /// Carries the packets of a burst that came by `device`; leaves `burst` empty.
    pub fn carry(
        &mut self,
        device: DeviceIndex,
        burst: &mut Vec<Frame>,
        snapshot: &Snapshot,
        now: Now,
        wire: &mut impl Wire,
    ) {
        burst.iter().for_each(|frame| self.memory.prefetch(frame));
        self.parsed.clear();
        self.ports.begin_burst();
        for frame in burst.iter() {
            let parsed = Packet::parse(self.memory.octets(frame)).map(|packet| (packet, self.hash(&packet)));
            self.parsed.push(parsed);
            self.counters.rx_packets += 1;
            self.counters.rx_bytes += frame.len() as u64;
        }
        for (_, hash) in self.parsed.iter().flatten() {
            self.flows.prefetch_record(*hash);
        }
        // Taken out, so that the packets stay where they are while each changes the path.
        let parsed = std::mem::take(&mut self.parsed);
        for (mut frame, parsed) in burst.drain(..).zip(&parsed) {
            let verdict = match parsed {
                Ok((packet, _)) if packet.is_fragment => {
                    self.carry_fragment(device, frame, packet, snapshot, now, wire);
                    continue;
                }
                Ok((packet, hash)) => self.process(device, &mut frame, packet, *hash, snapshot, now),
                Err(Unparsed::Foreign) => Ok(Egress::Punt),
                Err(Unparsed::Malformed(reason)) => Err(*reason),
            };
            self.send(device, frame, verdict, snapshot, now, wire);
        }
        self.parsed = parsed;
    }

    /// Decides about a packet that came by a device, and rewrites it for that.
    #[inline]
    pub(super) fn process(
        &mut self,
        arrived_by: DeviceIndex,
        frame: &mut Frame,
        packet: &Packet,
        hash: KeyHash,
        snapshot: &Snapshot,
        now: Now,
    ) -> Verdict {
        let octets = self.memory.octets_mut(frame);
        let (flows, counters) = (&*self.flows, &mut self.counters);
        let (limit, ports, next_link_mtu) = (&mut self.limit, &mut self.ports, 0);
        let mut context = Context { snapshot, flows, now, arrived_by, limit, next_link_mtu, ports, counters };
        process(octets, packet, hash, &mut context)
    }

    pub(super) fn hash(&self, packet: &Packet) -> KeyHash {
        const NO_FLOW: Key = Key {
            source: std::net::Ipv4Addr::UNSPECIFIED,
            destination: std::net::Ipv4Addr::UNSPECIFIED,
            source_port: Port([0, 0]),
            destination_port: Port([0, 0]),
            protocol: Protocol::Udp,
        };
        let hash = self.flows.hash(packet.key().unwrap_or(&NO_FLOW));
        self.flows.prefetch(hash);
        hash
    }

    pub(super) fn send(
        &mut self,
        device: DeviceIndex,
        mut frame: Frame,
        verdict: Verdict,
        snapshot: &Snapshot,
        now: Now,
        wire: &mut impl Wire,
    ) {
        if let Ok(Egress::Answer { length, .. }) = verdict {
            frame.set_len(length);
        }
        let bytes = frame.len() as u64;
        let sent = match verdict {
            Ok(Egress::Forward { device, next_hop }) => {
                return self.forward(frame, device, next_hop, snapshot, wire);
            }
            Ok(Egress::Answer { answer, .. }) => {
                wire.transmit(device, frame).map(|()| self.counters.count_answer(answer))
            }
            Ok(Egress::Punt) => {
                let PuntAddresses { source, destination } = self.punt;
                self.write_addresses(&mut frame, source, destination);
                wire.punt(frame).map(|()| self.counters.punted += 1)
            }
            Ok(Egress::Hold(next_hop)) => return self.hold(frame, next_hop, snapshot, now, wire),
            Err(reason) => Err((frame, reason)),
        };
        match sent {
            Ok(()) => self.count_sent(bytes),
            Err((frame, reason)) => self.drop(frame, reason),
        }
    }

    /// Sends a packet to its next hop, in pieces if its link is too narrow.
    fn forward(
        &mut self,
        mut frame: Frame,
        device: DeviceIndex,
        next_hop: Mac,
        snapshot: &Snapshot,
        wire: &mut impl Wire,
    ) {
        let link = snapshot.device(device);
        self.write_addresses(&mut frame, link.map_or(Mac::default(), |device| device.mac), next_hop);
        match link {
            Some(device) if frame.len() > ethernet::HEADER_BYTES + device.mtu => {
                self.forward_in_pieces(frame, device.index, device.mtu, wire);
            }
            _ => self.forward_whole(frame, device, wire),
        }
    }

    #[inline]
    pub(super) fn forward_whole(&mut self, frame: Frame, device: DeviceIndex, wire: &mut impl Wire) {
        let bytes = frame.len() as u64;
        match wire.transmit(device, frame) {
            Ok(()) => {
                self.counters.forwarded += 1;
                self.count_sent(bytes);
            }
            Err((frame, reason)) => self.drop(frame, reason),
        }
    }

    fn hold(&mut self, frame: Frame, next_hop: NextHop, snapshot: &Snapshot, now: Now, wire: &mut impl Wire) {
        match self.held.push(frame, next_hop, snapshot, now) {
            Ok(()) => {
                self.counters.held += 1;
                if self.held.asks_for(next_hop, now) {
                    wire.resolve(next_hop);
                }
            }
            Err(frame) => self.drop(frame, DropReason::HoldFull),
        }
    }

    /// Sends on the held packets whose next hop is known by now, and drops those that waited in vain.
    pub fn release(&mut self, snapshot: &Snapshot, now: Now, wire: &mut impl Wire) {
        while let Some(released) = self.held.release(snapshot, now) {
            self.counters.held -= 1;
            match released {
                Released::Resolved(frame, next_hop, mac) => {
                    self.forward(frame, next_hop.device, mac, snapshot, wire);
                }
                Released::Dropped(frame, reason) => self.drop(frame, reason),
            }
        }
    }

    /// Says whether no packet waits for its next hop.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held.is_empty()
    }

    /// Returns how many packets wait, for their next hop or for the first fragment of their datagram.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len() + self.fragments.waiting()
    }

    pub(super) fn count_sent(&mut self, bytes: u64) {
        self.counters.tx_packets += 1;
        self.counters.tx_bytes += bytes;
    }

    pub(super) fn drop(&mut self, frame: Frame, reason: DropReason) {
        self.pool.push(frame);
        self.counters.count_drop(reason);
    }

    fn write_addresses(&self, frame: &mut Frame, source: Mac, destination: Mac) {
        if let Some(header) = ethernet::Header::writable(self.memory.octets_mut(frame)) {
            header.readdress(source, destination);
        }
    }
}
