//! What is known of the packets of a burst before any of them is processed: facts, and where their flows may be.
//!
//! Three passes, each asking for the cache lines that the next one reads: parse and hash all; seek all where most flows
//! are in the index; seek on for the rest.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::path::Path;
use crate::family::Family;
use crate::flows::{KeyHash, Sought};
use crate::packet::{Packet, Parsed, Unparsed};
use crate::verdict::DropReason;
use crate::xsk::{Frame, PACKET_BYTES_MAX, PACKET_FRAMES_MAX};

/// Octets that the first frame of a packet in several has at least: more than headers take, with all extension headers
/// that are walked, and than an ICMP error of ours, which is made there.
const FIRST_FRAME_BYTES_MIN: usize = 1536;

/// A packet of a burst before any of them is processed.
// With a tag of its own, not one hidden among the values of a field: it is asked for three times a packet.
#[derive(Debug)]
#[repr(u8)]
pub(super) enum Arrived {
    Ipv4(Packet<Ipv4Addr>, Sought),
    Ipv6(Packet<Ipv6Addr>, Sought),
    Unparsed(Unparsed),
}

impl Arrived {
    /// Says whether the packet was sought and no flow of it found.
    #[inline]
    const fn is_unknown(&self) -> bool {
        match self {
            Self::Ipv4(_, sought) | Self::Ipv6(_, sought) => sought.is_unknown(),
            Self::Unparsed(_) => false,
        }
    }
}

impl Path {
    /// Fills `arrived` with what is known of a burst, in its order.
    #[inline(always)]
    pub(super) fn meet(&self, burst: &[Frame], arrived: &mut Vec<Arrived>) {
        arrived.clear();
        burst.iter().for_each(|frame| self.arrive(frame, arrived));
        let mut unknown = 0;
        for packet in arrived.iter_mut() {
            let sought = match packet {
                Arrived::Ipv4(_, sought) => {
                    *sought = self.flows.ipv4.seek(sought.hash());
                    sought
                }
                Arrived::Ipv6(_, sought) => {
                    *sought = self.flows.ipv6.seek(sought.hash());
                    sought
                }
                Arrived::Unparsed(_) => continue,
            };
            unknown += usize::from(sought.is_unknown());
        }
        if unknown > 0 {
            self.seek_on(arrived);
        }
    }

    /// Seeks on for the packets of a burst that are unknown so far, and asks for what those will write that remain so.
    #[inline(never)]
    fn seek_on(&self, arrived: &mut [Arrived]) {
        let [mut ipv4, mut ipv6] = [0, 0];
        for packet in arrived.iter_mut().filter(|packet| packet.is_unknown()) {
            match packet {
                Arrived::Ipv4(_, sought) => {
                    *sought = self.flows.ipv4.seek_on(sought.hash());
                    ipv4 += usize::from(sought.is_unknown());
                }
                Arrived::Ipv6(_, sought) => {
                    *sought = self.flows.ipv6.seek_on(sought.hash());
                    ipv6 += usize::from(sought.is_unknown());
                }
                Arrived::Unparsed(_) => {}
            }
        }
        self.flows.ipv4.prefetch_insertions(ipv4);
        self.flows.ipv6.prefetch_insertions(ipv6);
    }

    /// Parses a packet and asks for what a look-up of its flow will read first.
    // Each kind is pushed by itself, so that it is written once, where it stays.
    #[inline(always)]
    fn arrive(&self, frame: &Frame, arrived: &mut Vec<Arrived>) {
        let octets = if frame.is_chained() { &[] } else { self.memory.octets(frame) };
        if let Some(packet) = Packet::parse_plain(octets) {
            arrived.push(Arrived::Ipv4(packet, self.hash(&packet).into()));
        } else if let Some(packet) = Packet::parse_plain(octets) {
            arrived.push(Arrived::Ipv6(packet, self.hash(&packet).into()));
        } else {
            arrived.push(self.arrive_otherwise(frame));
        }
    }

    /// Parses any packet, as [`Self::arrive`] does.
    #[inline(never)]
    fn arrive_otherwise(&self, frame: &Frame) -> Arrived {
        match self.parse(frame) {
            Ok(Parsed::Ipv4(packet)) => Arrived::Ipv4(packet, self.hash(&packet).into()),
            Ok(Parsed::Ipv6(packet)) => Arrived::Ipv6(packet, self.hash(&packet).into()),
            Err(unparsed) => Arrived::Unparsed(unparsed),
        }
    }

    pub(super) fn parse(&self, frame: &Frame) -> Result<Parsed, Unparsed> {
        if frame.is_chained() {
            return self.parse_chain(frame);
        }
        Parsed::parse(self.memory.octets(frame))
    }

    /// Parses a packet in several frames by its first; one that is no packet that a link of ours carries is dropped.
    #[cold]
    fn parse_chain(&self, packet: &Frame) -> Result<Parsed, Unparsed> {
        if packet.packet_bytes() > PACKET_BYTES_MAX || packet.frames() > PACKET_FRAMES_MAX {
            return Err(Unparsed::Malformed(DropReason::OversizedPacket));
        }
        if packet.len() < FIRST_FRAME_BYTES_MIN {
            return Err(Unparsed::Malformed(DropReason::ShortFirstFrame));
        }
        Parsed::parse_first(self.memory.octets(packet), packet.tail_bytes())
    }

    /// Hashes the packet's key and asks for what a look-up will read first; a packet without a key needs no hash.
    #[inline(always)]
    pub(super) fn hash<A: Family>(&self, packet: &Packet<A>) -> KeyHash {
        let Some(key) = packet.key() else { return KeyHash::default() };
        let flows = A::flows(&self.flows);
        let hash = flows.hash(&key);
        flows.prefetch_first(hash);
        hash
    }
}
