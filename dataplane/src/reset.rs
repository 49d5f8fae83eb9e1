//! Ending TCP connections whose endpoint is gone, at both ends, without having followed their sequence numbers.
//!
//! A segment of either side tells both numbers: what it acknowledges is what its sender expects next, and what it is
//! numbered is what its receiver expects next. So the segment is answered by a RST to its sender, and a RST of ours
//! goes to its receiver in its place. A side that says nothing is asked by a segment that it cannot accept, a bare ACK
//! with a number from elsewhere, which it answers with its own numbers (RFC 9293 §3.10.7.4).

use std::net::IpAddr;

use zerocopy::IntoBytes;

use crate::family::Family;
use crate::flows::{Found, Key};
use crate::net::{checksum, ethernet, ipv6, tcp};
use crate::packet::Packet;
use crate::verdict::DropReason;

/// Octets of the longest frame that holds a segment without options and data.
const FRAME_BYTES: usize = ethernet::HEADER_BYTES + ipv6::HEADER_BYTES + tcp::HEADER_BYTES;

/// A segment of ours that is to leave by itself: a frame but for its MACs.
#[derive(Clone, Copy, Debug)]
pub struct Draft {
    octets: [u8; FRAME_BYTES],
    length: usize,
    /// Where it goes.
    pub destination: IpAddr,
    /// Tells flows apart where several ways lead there.
    pub flow_hash: u32,
}

impl Draft {
    /// Makes the frame of a segment; `None` only if it does not fit.
    fn new<A: Family>(leaves_as: &Key<A>, mut segment: tcp::Header) -> Option<Self> {
        let (from, to) = (leaves_as.source(), leaves_as.destination());
        let sum = checksum::pseudo_header(from, to, leaves_as.protocol.number(), tcp::HEADER_BYTES as u16);
        segment.set_checksum(sum.octets(segment.as_bytes()).checksum());
        let length = ethernet::HEADER_BYTES + A::HEADER_BYTES + tcp::HEADER_BYTES;
        let mut octets = [0; FRAME_BYTES];
        octets.get_mut(12..ethernet::HEADER_BYTES)?.copy_from_slice(&A::ETHERTYPE);
        let network = octets.get_mut(ethernet::HEADER_BYTES..length)?;
        A::originate(network, from, to, leaves_as.protocol.number(), tcp::HEADER_BYTES)?;
        network.get_mut(A::HEADER_BYTES..)?.copy_from_slice(segment.as_bytes());
        Some(Self { octets, length, destination: to.into(), flow_hash: 0 })
    }

    /// Makes the RST for the receiver of a segment that is not sent on.
    ///
    /// # Errors
    /// [`DropReason::MalformedTransport`] only if `octets` is not the frame that `packet` was parsed from.
    pub fn reset_of_receiver<A: Family>(
        octets: &[u8],
        packet: &Packet<A>,
        found: &Found<A>,
    ) -> Result<Self, DropReason> {
        let make = || {
            let end = packet.end.min(octets.len());
            let segment = tcp::Header::parse(octets.get(packet.transport_offset..end)?)?;
            let leaves_as = found.leaves_as;
            let (source_port, destination_port) = (leaves_as.source_port(), leaves_as.destination_port());
            let acknowledges = segment.flags().contains(tcp::Flags::ACK).then(|| segment.acknowledgment());
            let reset = tcp::Header::reset(source_port, destination_port, segment.sequence(), acknowledges);
            Self::new(&leaves_as, reset)
        };
        make().ok_or(DropReason::MalformedTransport)
    }

    /// Makes the segment that asks a silent side for its numbers; `number` lies, so that it cannot be accepted.
    #[must_use]
    pub fn probe<A: Family>(leaves_as: &Key<A>, number: u32) -> Option<Self> {
        let (source_port, destination_port) = (leaves_as.source_port(), leaves_as.destination_port());
        Self::new(leaves_as, tcp::Header::bare_ack(source_port, destination_port, number, !number))
    }

    /// Sets what tells its flow from others.
    #[must_use]
    pub const fn of_flow(mut self, flow_hash: u32) -> Self {
        self.flow_hash = flow_hash;
        self
    }

    /// Returns the octets of the frame.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        self.octets.get(..self.length).unwrap_or_default()
    }
}
