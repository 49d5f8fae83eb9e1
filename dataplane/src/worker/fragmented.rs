//! What the path does with fragments: each to its worker, each to its place behind the first of its datagram; and
//! packets that are too long for their link into pieces.

use super::Path;
use super::exchange::{Exchange, PARCELS};
use super::path::Wire;
use crate::answer;
use crate::clock::Now;
use crate::family::Family;
use crate::fragments::cut::Cut;
use crate::fragments::{Admitted, Departure, Fate, Fragment};
use crate::packet::{Packet, Parsed};
use crate::routes::DeviceIndex;
use crate::snapshot::Snapshot;
use crate::verdict::{DropReason, Verdict};
use crate::xsk::{Frame, PACKET_BYTES_MAX};

/// Frames that a packet takes at most that comes in a parcel.
const PARCEL_FRAMES: usize = 3;

impl Path {
    /// Sets the worker's place among others; without it a path is alone.
    #[must_use]
    pub fn with_exchange(mut self, exchange: Exchange) -> Self {
        self.exchange = exchange;
        self
    }

    /// Carries a fragment that came by `device`, if it is this worker's; else hands it over.
    pub(super) fn carry_fragment<A: Family>(
        &mut self,
        device: DeviceIndex,
        mut frame: Frame,
        packet: &Packet<A>,
        snapshot: &Snapshot,
        now: Now,
        wire: &mut impl Wire,
    ) {
        let fragment = Fragment::of_frame::<A>(self.memory.octets(&frame));
        let Some(owner) = fragment.ok().and_then(|fragment| self.exchange.other_owner(&fragment.datagram))
        else {
            return self.carry_own_fragment(device, frame, packet, snapshot, now, wire);
        };
        let memory = &self.memory;
        if self.exchange.give(owner, device, |parcel| memory.copy_packet(&mut frame, parcel)) {
            self.counters.handed_over += 1;
            self.pool.push(frame);
        } else {
            self.drop(frame, DropReason::HandOverFull);
        }
    }

    /// Carries the fragments that other workers handed over; returns how many there were.
    ///
    /// Those that no frames are free for stay where they are.
    pub fn take_over(&mut self, snapshot: &Snapshot, now: Now, wire: &mut impl Wire) -> usize {
        let mut taken = 0;
        for giver in 0..self.exchange.workers() {
            for _ in 0..PARCELS {
                if self.pool.len() < PARCEL_FRAMES {
                    return taken;
                }
                let Self { memory, pool, exchange, .. } = self;
                let given = exchange
                    .take(giver, |parcel| Some((memory.write_packet(parcel.octets(), pool)?, parcel.device)));
                let Some((frame, device)) = given.flatten() else { break };
                taken += 1;
                self.counters.taken_over += 1;
                match self.parse(&frame) {
                    Ok(Parsed::Ipv4(packet)) => {
                        self.carry_own_fragment(device, frame, &packet, snapshot, now, wire);
                    }
                    Ok(Parsed::Ipv6(packet)) => {
                        self.carry_own_fragment(device, frame, &packet, snapshot, now, wire);
                    }
                    Err(_) => self.drop(frame, DropReason::MalformedFragment),
                }
            }
        }
        taken
    }

    /// Wakes the workers that fragments were handed to.
    pub fn wake_takers(&mut self) {
        self.exchange.wake_takers();
    }

    fn carry_own_fragment<A: Family>(
        &mut self,
        device: DeviceIndex,
        mut frame: Frame,
        packet: &Packet<A>,
        snapshot: &Snapshot,
        now: Now,
        wire: &mut impl Wire,
    ) {
        if packet.source().is_martian_source() {
            return self.drop(frame, DropReason::MartianSource);
        }
        let fragment = Fragment::of_frame::<A>(self.memory.octets(&frame));
        let admitted = fragment.and_then(|fragment| self.fragments.admit(&fragment, now));
        self.release_fragments(snapshot, now, wire);
        let verdict = match admitted {
            Ok(Admitted::Early(datagram)) => {
                return match self.fragments.wait(datagram, frame, device) {
                    Ok(()) => self.counters.held += 1,
                    Err((frame, reason)) => self.drop(frame, reason),
                };
            }
            Ok(Admitted::First(datagram)) => {
                let sought = self.hash(packet).into();
                let verdict = self.process(device, &mut frame, packet, sought, snapshot, now);
                let fate = Fate::of_first(verdict, packet, self.memory.octets(&frame));
                self.fragments.decide(datagram, fate, now);
                verdict
            }
            Ok(Admitted::Later(fate)) => self.follow(&fate, device, &mut frame, packet, snapshot, now),
            Err(reason) => Err(reason),
        };
        self.send(device, frame, verdict, snapshot, now, wire);
        self.release_fragments(snapshot, now, wire);
    }

    /// Forgets datagrams whose time is over, and drops what waited for their first fragments.
    pub fn expire_fragments(&mut self, snapshot: &Snapshot, now: Now, wire: &mut impl Wire) {
        self.fragments.expire(now);
        self.release_fragments(snapshot, now, wire);
    }

    /// Sends on the fragments whose wait is over, or drops them.
    fn release_fragments(&mut self, snapshot: &Snapshot, now: Now, wire: &mut impl Wire) {
        while let Some(Departure { mut frame, device, fate }) = self.fragments.leave() {
            self.counters.held -= 1;
            let verdict = match self.parse(&frame) {
                Ok(Parsed::Ipv4(packet)) => self.follow(&fate, device, &mut frame, &packet, snapshot, now),
                Ok(Parsed::Ipv6(packet)) => self.follow(&fate, device, &mut frame, &packet, snapshot, now),
                Err(_) => Err(DropReason::MalformedFragment),
            };
            self.send(device, frame, verdict, snapshot, now, wire);
        }
    }

    /// Does to a later fragment what was done to the first, or tells its sender why it goes no further.
    fn follow<A: Family>(
        &mut self,
        fate: &Fate,
        arrived_by: DeviceIndex,
        frame: &mut Frame,
        packet: &Packet<A>,
        snapshot: &Snapshot,
        now: Now,
    ) -> Verdict {
        let octets = self.memory.octets_mut(frame);
        fate.apply(octets, packet, snapshot).or_else(|reason| {
            let mtu = fate.next_link_mtu(snapshot).unwrap_or_default();
            let device = snapshot.device(arrived_by);
            answer::explain_by(device, reason, mtu, octets, packet, &mut self.limit, now)
        })
    }

    /// Sends a packet that is too long for its link in pieces, all or as many as leave.
    ///
    /// All frames are had before the first piece leaves. If the transmit ring gets full on the way, the packet is
    /// dropped for that; the pieces that have left count as originated.
    pub(super) fn forward_in_pieces(
        &mut self,
        mut frame: Frame,
        device: DeviceIndex,
        mtu: usize,
        wire: &mut impl Wire,
    ) {
        let cut =
            if frame.is_chained() { self.cut_chain(&mut frame, mtu) } else { self.cut(&mut frame, mtu) };
        match cut {
            Ok(true) => {}
            Ok(false) => return self.forward_whole(frame, device, wire),
            Err(reason) => return self.drop(frame, reason),
        }
        let mut others = std::mem::take(&mut self.pieces);
        let mut unsent = others.len();
        let mut failed = false;
        for piece in std::iter::once(frame).chain(others.drain(..)) {
            let bytes = piece.packet_bytes() as u64;
            if failed {
                self.pool.push(piece);
                continue;
            }
            match wire.transmit(device, piece) {
                Ok(()) => {
                    self.count_sent(bytes);
                    *(if unsent == 0 {
                        &mut self.counters.forwarded
                    } else {
                        &mut self.counters.originated
                    }) += 1;
                }
                Err((piece, reason)) => {
                    failed = true;
                    self.drop(piece, reason);
                }
            }
            unsent = unsent.saturating_sub(1);
        }
        self.pieces = others;
    }

    /// Makes the packet in `frame` its first piece, and the others in frames of the pool; false if it fits the link.
    fn cut(&mut self, frame: &mut Frame, mtu: usize) -> Result<bool, DropReason> {
        let Some(cut) = Cut::plan(self.memory.octets(frame), mtu)? else { return Ok(false) };
        if self.pool.len() + 1 < cut.pieces() {
            return Err(DropReason::NoFrame);
        }
        for number in 1..cut.pieces() {
            let mut piece = self.pool.pop().ok_or(DropReason::NoFrame)?;
            let written = cut.write(number, self.memory.octets(frame), self.memory.octets_mut(&mut piece));
            piece.set_len(written.unwrap_or_default());
            self.pieces.push(piece);
        }
        let length = cut.shorten(self.memory.octets_mut(frame));
        frame.set_len(length.unwrap_or_default());
        Ok(true)
    }

    /// Does the same with a packet in several frames, by way of a copy in one piece; a piece may be in several frames, too.
    #[cold]
    fn cut_chain(&mut self, packet: &mut Frame, mtu: usize) -> Result<bool, DropReason> {
        let Self { memory, pool, pieces, scratch, .. } = self;
        let (whole, room) =
            scratch.split_at_mut_checked(PACKET_BYTES_MAX).ok_or(DropReason::OversizedPacket)?;
        let bytes = memory.copy_packet(packet, whole).ok_or(DropReason::OversizedPacket)?;
        let whole = whole.get(..bytes).unwrap_or_default();
        let Some(cut) = Cut::plan(whole, mtu)? else { return Ok(false) };
        for number in 1..cut.pieces() {
            let written = cut.write(number, whole, room).and_then(|bytes| room.get(..bytes));
            let Some(piece) = written.and_then(|octets| memory.write_packet(octets, pool)) else {
                pieces.drain(..).for_each(|piece| pool.push(piece));
                return Err(DropReason::NoFrame);
            };
            pieces.push(piece);
        }
        let length = cut.shorten(memory.octets_mut(packet));
        pool.shorten(packet, length.unwrap_or_default());
        Ok(true)
    }
}
