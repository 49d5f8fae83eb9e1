//! Carries a burst through the packet path: meet all ([`super::arrival`]), then process each and send it on its way.
//!
//! Knows frames but no sockets: they are a [`Wire`], so that the whole path runs in tests on plain octets.

use std::sync::Arc;

use foldhash::quality::RandomState;

use super::PuntAddresses;
use super::arrival::Arrived;
use super::departures::Probing;
use super::exchange::Exchange;
use crate::accounts::Accounts;
use crate::clock::Now;
use crate::counters::Counters;
use crate::family::Family;
use crate::flows::{FlowTables, Sought};
use crate::fragments::Fragments;
use crate::fragments::cut::PIECES_MAX;
use crate::held::{HeldPackets, Released};
use crate::masquerade::PortSearches;
use crate::neighbours::NextHop;
use crate::net::{Mac, ethernet};
use crate::packet::{Packet, Unparsed};
use crate::process::{Context, process};
use crate::rate_limit::RateLimit;
use crate::reset::Draft;
use crate::routes::DeviceIndex;
use crate::snapshot::Snapshot;
use crate::verdict::{DropReason, Egress, Verdict};
use crate::xsk::{Frame, FrameMemory, FramePool, PACKET_BYTES_MAX};

/// Packets that are carried at once.
pub const BURST: usize = 64;
/// Segments of ours that wait for the end of a burst, or of a look through the flows.
const DRAFTS: usize = 2_048;

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
    pub(super) flows: Arc<FlowTables>,
    held: HeldPackets,
    pub(super) limit: RateLimit,
    ports: PortSearches,
    pub(super) fragments: Fragments,
    pub(super) exchange: Exchange,
    /// Pieces of a packet that is being cut; empty between packets.
    pub(super) pieces: Vec<Frame>,
    /// Room for a packet in several frames that is being cut, in one piece, and for one of its pieces.
    pub(super) scratch: Box<[u8]>,
    pub(super) punt: PuntAddresses,
    /// What Services have carried; shared with the control thread.
    pub accounts: Accounts,
    /// Segments that leave by themselves at the end of the burst.
    pub(super) drafts: Vec<Draft>,
    pub(super) probing: Probing,
    arrived: Vec<Arrived>,
}

impl Path {
    /// Makes the state of one worker; the only allocations of its life.
    #[must_use]
    pub fn new(
        memory: Arc<FrameMemory>,
        pool: FramePool,
        flows: Arc<FlowTables>,
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
            ports: PortSearches::default(),
            fragments,
            exchange: Exchange::alone(),
            pieces: Vec::with_capacity(PIECES_MAX),
            scratch: vec![0; 2 * PACKET_BYTES_MAX].into(),
            punt,
            accounts: Accounts::default(),
            drafts: Vec::with_capacity(DRAFTS),
            probing: Probing::part(0, 1),
            arrived: Vec::with_capacity(BURST),
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
        self.counters.rx_packets += burst.len() as u64;
        self.counters.rx_bytes += burst.iter().map(|frame| frame.packet_bytes() as u64).sum::<u64>();
        self.ports.begin_burst();
        // Taken out, so that the packets stay where they are while each changes the path.
        let mut arrived = std::mem::take(&mut self.arrived);
        self.meet(burst, &mut arrived);
        for (frame, packet) in burst.drain(..).zip(&arrived) {
            match packet {
                Arrived::Ipv4(packet, sought) => {
                    self.carry_packet(device, frame, (packet, *sought), snapshot, now, wire);
                }
                Arrived::Ipv6(packet, sought) => {
                    self.carry_packet(device, frame, (packet, *sought), snapshot, now, wire);
                }
                Arrived::Unparsed(Unparsed::Foreign) => {
                    self.send(device, frame, Ok(Egress::Punt), snapshot, now, wire);
                }
                Arrived::Unparsed(Unparsed::Malformed(reason)) => self.drop(frame, *reason),
            }
        }
        self.arrived = arrived;
        self.send_drafts(snapshot, wire);
    }

    #[inline(always)]
    fn carry_packet<A: Family>(
        &mut self,
        device: DeviceIndex,
        mut frame: Frame,
        (packet, sought): (&Packet<A>, Sought),
        snapshot: &Snapshot,
        now: Now,
        wire: &mut impl Wire,
    ) {
        if packet.is_fragment {
            return self.carry_fragment(device, frame, packet, snapshot, now, wire);
        }
        match self.process(device, &mut frame, packet, sought, snapshot, now) {
            Ok(Egress::Forward { device, next_hop }) => {
                self.forward(frame, device, next_hop, snapshot, wire);
            }
            verdict => self.send(device, frame, verdict, snapshot, now, wire),
        }
    }

    /// Decides about a packet that came by a device, and rewrites it for that.
    #[inline(always)]
    pub(super) fn process<A: Family>(
        &mut self,
        arrived_by: DeviceIndex,
        frame: &mut Frame,
        packet: &Packet<A>,
        sought: Sought,
        snapshot: &Snapshot,
        now: Now,
    ) -> Verdict {
        let octets = self.memory.octets_mut(frame);
        let (flows, counters) = (A::flows(&self.flows), &mut self.counters);
        let (affinity, tombstones) = (A::affinity(&self.flows), A::tombstones(&self.flows));
        let (limit, ports) = (&mut self.limit, A::ports(&mut self.ports));
        let (next_link_mtu, aside) = (0, None);
        let mut context = Context {
            snapshot,
            flows,
            affinity,
            tombstones,
            now,
            arrived_by,
            limit,
            next_link_mtu,
            accounts: &self.accounts,
            aside,
            ports,
            counters,
        };
        let verdict = process(octets, packet, sought, &mut context);
        if let Some(draft) = context.aside
            && self.drafts.len() < self.drafts.capacity()
        {
            self.drafts.push(draft);
        }
        verdict
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
            if frame.is_chained() {
                self.pool.shorten(&mut frame, length);
            } else {
                frame.set_len(length);
            }
        }
        let bytes = frame.packet_bytes() as u64;
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
    #[inline(always)]
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
            Some(device) if frame.packet_bytes() > ethernet::HEADER_BYTES + device.mtu => {
                self.forward_in_pieces(frame, device.index, device.mtu, wire);
            }
            _ => self.forward_whole(frame, device, wire),
        }
    }

    #[inline(always)]
    pub(super) fn forward_whole(&mut self, frame: Frame, device: DeviceIndex, wire: &mut impl Wire) {
        let bytes = frame.packet_bytes() as u64;
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

    /// Returns how many frames the packets take that wait, for their next hop or for the first fragment of their datagram.
    #[must_use]
    pub const fn held_frames(&self) -> usize {
        self.held.frames() + self.fragments.waiting_frames()
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
