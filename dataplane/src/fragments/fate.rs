//! What the first fragment's verdict means for the other fragments of its datagram.

use std::net::Ipv4Addr;

use crate::neighbours::NeighbourState;
use crate::net::checksum::Difference;
use crate::net::{ethernet, ipv4};
use crate::packet::Packet;
use crate::snapshot::Snapshot;
use crate::verdict::{Answer, DropReason, Egress, Verdict};

/// What becomes of the later fragments of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The same addresses and the same way as the first.
    Translate {
        /// The source that they leave with.
        source: Ipv4Addr,
        /// The destination that they leave with.
        destination: Ipv4Addr,
        /// Change of the IPv4 header checksum, TTL not included.
        difference: Difference,
        /// Where the first went.
        way: Egress,
    },
    /// Back to the sender, as part of the Echo Reply that the first became.
    TurnRound,
    /// To the kernel as they came, as the first.
    Punt,
    /// Nowhere.
    Drop(DropReason),
}

impl Fate {
    /// Reads from the verdict on a first fragment, and from its octets as they are after it, what the others get.
    ///
    /// Refusals are made once, for the first fragment; the others are dropped by a name of their own.
    #[must_use]
    pub fn of_first(verdict: Verdict, packet: &Packet, octets: &[u8]) -> Self {
        let refused = Self::Drop(DropReason::FragmentRefused);
        let Some(header) = octets.get(ethernet::HEADER_BYTES..).and_then(ipv4::Header::parse) else {
            return refused;
        };
        match verdict {
            Ok(Egress::Punt) if header.ttl == packet.ttl => Self::Punt,
            Ok(way @ (Egress::Forward { .. } | Egress::Hold(_) | Egress::Punt)) => {
                let (source, destination) = (header.source(), header.destination());
                let difference = Difference::NONE
                    .octets(packet.source.octets(), source.octets())
                    .octets(packet.destination.octets(), destination.octets());
                Self::Translate { source, destination, difference, way }
            }
            Ok(Egress::Answer { answer: Answer::EchoReply, .. }) => Self::TurnRound,
            Ok(Egress::Answer { .. }) | Err(_) => refused,
        }
    }

    /// Does to a later fragment what was done to the first; `octets` is the frame that `packet` was parsed from.
    ///
    /// # Errors
    /// The reason why this fragment is dropped. No ICMP error is due: those are about first fragments only.
    /// Source: RFC 1122 §3.2.2, "MUST NOT be sent as the result of receiving [...] a non-initial fragment".
    pub fn apply(&self, octets: &mut [u8], packet: &Packet, snapshot: &Snapshot) -> Verdict {
        match *self {
            Self::Translate { source, destination, difference, way } => {
                let way = way_out(packet, way, snapshot)?;
                let header = octets.get_mut(ethernet::HEADER_BYTES..).and_then(ipv4::Header::writable);
                header.ok_or(DropReason::MalformedIpv4)?.translate(source, destination, difference);
                Ok(way)
            }
            Self::TurnRound => {
                turn_round(octets).ok_or(DropReason::MalformedIpv4)?;
                Ok(Egress::Answer { answer: Answer::EchoReply, length: packet.end })
            }
            Self::Punt => Ok(Egress::Punt),
            Self::Drop(reason) => Err(reason),
        }
    }
}

/// Checks what holds for each packet by itself, and looks whether the next hop is known by now.
fn way_out(packet: &Packet, way: Egress, snapshot: &Snapshot) -> Verdict {
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let Egress::Hold(next_hop) = way else { return Ok(way) };
    match snapshot.neighbours.lookup(&next_hop) {
        Some(NeighbourState::Reachable(mac)) => {
            Ok(Egress::Forward { device: next_hop.device, next_hop: mac })
        }
        _ => Ok(way),
    }
}

fn turn_round(octets: &mut [u8]) -> Option<()> {
    ethernet::Header::writable(octets)?.turn_round();
    ipv4::Header::writable(octets.get_mut(ethernet::HEADER_BYTES..)?)?.turn_round();
    Some(())
}
