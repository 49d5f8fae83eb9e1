//! A flow's compiled rewrite: the new header fields and the checksum differences, computed once.

use std::net::Ipv4Addr;

use crate::family::Family;
use crate::flows::Key;
use crate::net::checksum::Difference;
use crate::net::{Protocol, ethernet, sctp, tcp, udp};
use crate::packet::{Packet, Transport};
use crate::verdict::DropReason;

/// What changes in every packet of one direction of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrite<A: Family = Ipv4Addr> {
    /// The header fields as the packet leaves.
    pub leaves_as: Key<A>,
    /// Change of a sum over both addresses: that of the IPv4 header checksum, TTL not included.
    pub ip: Difference,
    /// Change of the transport checksum.
    pub transport: Difference,
}

impl<A: Family> Rewrite<A> {
    /// Computes the rewrite from the fields as a packet arrives to those it leaves with.
    #[must_use]
    pub fn between(arrives_as: &Key<A>, leaves_as: &Key<A>) -> Self {
        let ip = arrives_as.source().replaced(leaves_as.source(), Difference::NONE);
        let ip = arrives_as.destination().replaced(leaves_as.destination(), ip);
        let transport = ip
            .word(arrives_as.source_port().0, leaves_as.source_port().0)
            .word(arrives_as.destination_port().0, leaves_as.destination_port().0);
        Self { leaves_as: *leaves_as, ip, transport }
    }

    /// Applies the rewrite and takes one from the TTL or hop limit.
    ///
    /// # Errors
    /// [`DropReason::SctpFragment`], with nothing changed, if a port changes of an SCTP packet in fragments: its checksum
    /// depends on how long the whole is. [`DropReason::MalformedTransport`] only if `octets` is not the frame that
    /// `packet` was parsed from.
    #[inline(always)]
    pub fn apply(&self, octets: &mut [u8], packet: &Packet<A>) -> Result<(), DropReason> {
        if packet.is_fragment && self.changes_sctp_port(packet) {
            return Err(DropReason::SctpFragment);
        }
        self.write(octets, packet).ok_or(DropReason::MalformedTransport)
    }

    fn changes_sctp_port(&self, packet: &Packet<A>) -> bool {
        matches!(packet.transport, Transport::Sctp(arrives_as, _) if arrives_as != self.leaves_as.ports())
    }

    #[inline(always)]
    fn write(&self, octets: &mut [u8], packet: &Packet<A>) -> Option<()> {
        let (source_port, destination_port) =
            (self.leaves_as.source_port(), self.leaves_as.destination_port());
        let (headers, transport) = octets.split_at_mut_checked(packet.transport_offset)?;
        let network = headers.get_mut(ethernet::HEADER_BYTES..)?;
        A::translate(network, self.leaves_as.source(), self.leaves_as.destination(), self.ip)?;
        match self.leaves_as.protocol {
            Protocol::Tcp => {
                tcp::Header::writable(transport)?.translate(source_port, destination_port, self.transport);
            }
            Protocol::Udp => {
                udp::Header::writable(transport)?.translate(source_port, destination_port, self.transport);
            }
            Protocol::Sctp => {
                let packet_bytes = (packet.end - packet.transport_offset) as u16;
                sctp::Header::writable(transport)?.translate(source_port, destination_port, packet_bytes);
            }
        }
        Some(())
    }
}
