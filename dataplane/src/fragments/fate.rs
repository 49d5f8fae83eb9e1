//! What the first fragment's verdict means for the other fragments of its datagram.

use std::net::IpAddr;

use crate::family::Family;
use crate::neighbours::NeighbourState;
use crate::net::checksum::Difference;
use crate::net::ethernet;
use crate::packet::Packet;
use crate::snapshot::Snapshot;
use crate::verdict::{Answer, DropReason, Egress, Verdict};

/// What becomes of the later fragments of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The same addresses and the same way as the first.
    Translate {
        /// The source that they leave with.
        source: IpAddr,
        /// The destination that they leave with.
        destination: IpAddr,
        /// Change of a sum over both addresses.
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
    pub fn of_first<A: Family>(verdict: Verdict, packet: &Packet<A>, octets: &[u8]) -> Self {
        let refused = Self::Drop(DropReason::FragmentRefused);
        let addresses = octets.get(ethernet::HEADER_BYTES..).and_then(A::addresses);
        let Some((source, destination, ttl)) = addresses else { return refused };
        match verdict {
            Ok(Egress::Punt) if ttl == packet.ttl => Self::Punt,
            Ok(way @ (Egress::Forward { .. } | Egress::Hold(_) | Egress::Punt)) => {
                let difference = packet.source().replaced(source, Difference::NONE);
                let difference = packet.destination().replaced(destination, difference);
                Self::Translate { source: source.into(), destination: destination.into(), difference, way }
            }
            Ok(Egress::Answer { answer: Answer::EchoReply, .. }) => Self::TurnRound,
            Ok(Egress::Answer { .. }) | Err(_) => refused,
        }
    }

    /// Does to a later fragment what was done to the first; `octets` is the frame that `packet` was parsed from.
    ///
    /// # Errors
    /// The reason why this fragment is dropped; the octets are then as they came, if the sender is to be told of it.
    pub fn apply<A: Family>(&self, octets: &mut [u8], packet: &Packet<A>, snapshot: &Snapshot) -> Verdict {
        match *self {
            Self::Translate { source, destination, difference, way } => {
                let way = way_out(packet, way, snapshot)?;
                translate::<A>(octets, source, destination, difference).ok_or(A::MALFORMED)?;
                Ok(way)
            }
            Self::TurnRound => {
                turn_round::<A>(octets).ok_or(A::MALFORMED)?;
                Ok(Egress::Answer { answer: Answer::EchoReply, length: packet.end })
            }
            Self::Punt => Ok(Egress::Punt),
            Self::Drop(reason) => Err(reason),
        }
    }

    /// Returns the MTU of the link that the later fragments leave by, if they leave by one of ours.
    #[must_use]
    pub fn next_link_mtu(&self, snapshot: &Snapshot) -> Option<usize> {
        match self {
            Self::Translate { way, .. } => link_mtu(*way, snapshot),
            _ => None,
        }
    }
}

/// Checks what holds for each packet by itself, and looks whether the next hop is known by now.
fn way_out<A: Family>(packet: &Packet<A>, way: Egress, snapshot: &Snapshot) -> Verdict {
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    if packet.is_unfragmentable && link_mtu(way, snapshot).is_some_and(|mtu| packet.ip_bytes() > mtu) {
        return Err(DropReason::ExceedsMtu);
    }
    let Egress::Hold(next_hop) = way else { return Ok(way) };
    match snapshot.neighbours.lookup(&next_hop) {
        Some(NeighbourState::Reachable(mac)) => {
            Ok(Egress::Forward { device: next_hop.device, next_hop: mac })
        }
        _ => Ok(way),
    }
}

/// What the kernel sends on, it cuts or refuses itself.
fn link_mtu(way: Egress, snapshot: &Snapshot) -> Option<usize> {
    let device = match way {
        Egress::Forward { device, .. } => device,
        Egress::Hold(next_hop) => next_hop.device,
        Egress::Answer { .. } | Egress::Punt => return None,
    };
    Some(snapshot.device(device)?.mtu)
}

fn translate<A: Family>(
    octets: &mut [u8],
    source: IpAddr,
    destination: IpAddr,
    difference: Difference,
) -> Option<()> {
    let network = octets.get_mut(ethernet::HEADER_BYTES..)?;
    A::translate(network, A::of(source)?, A::of(destination)?, difference)
}

fn turn_round<A: Family>(octets: &mut [u8]) -> Option<()> {
    ethernet::Header::writable(octets)?.turn_round();
    A::turn_round(octets.get_mut(ethernet::HEADER_BYTES..)?)
}
