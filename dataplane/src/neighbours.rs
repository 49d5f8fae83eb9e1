//! The hardware addresses of next hops, from a copy of the kernel's neighbour tables (ARP and ND).

use std::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::net::Mac;
use crate::routes::DeviceIndex;

/// An address on a link: a router, or the destination itself if it is on the link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NextHop {
    /// The link's device.
    pub device: DeviceIndex,
    /// The address to resolve there.
    pub address: IpAddr,
}

/// What the kernel knows of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NeighbourState {
    /// It has this hardware address: frames may be sent to it.
    Reachable(Mac),
    /// The kernel is asking for it.
    Unresolved,
    /// It did not answer.
    Failed,
}

/// All neighbours, fixed once built.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Neighbours {
    /// In the order of the next hops, each once.
    entries: Box<[(NextHop, NeighbourState)]>,
    positions: HashMap<NextHop, u32, FixedState>,
}

impl Neighbours {
    /// Builds the table; of several entries for one next hop the last counts. Cost: a sort, and the hash of each.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = (NextHop, NeighbourState)>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.reverse();
        entries.sort_by_key(|(next_hop, _)| *next_hop);
        entries.dedup_by_key(|(next_hop, _)| *next_hop);
        let positions = (0..).zip(&entries).map(|(position, (next_hop, _))| (*next_hop, position)).collect();
        Self { entries: entries.into_boxed_slice(), positions }
    }

    /// Looks up what the kernel knows of a next hop; `None` if it has not been asked.
    ///
    /// Cost: one look-up by hash; no allocation.
    #[must_use]
    pub fn lookup(&self, next_hop: &NextHop) -> Option<NeighbourState> {
        self.position(next_hop).map(|(_, state)| state)
    }

    /// Looks up a next hop with its position in this table, which a flow may remember with the table's generation.
    #[must_use]
    pub fn position(&self, next_hop: &NextHop) -> Option<(u32, NeighbourState)> {
        let position = *self.positions.get(next_hop)?;
        self.entries.get(position as usize).map(|(_, state)| (position, *state))
    }

    /// Returns the next hop at a position; `None` if this table has no such position.
    #[must_use]
    pub fn at(&self, position: u32) -> Option<&(NextHop, NeighbourState)> {
        self.entries.get(position as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn next_hop() -> impl Strategy<Value = NextHop> {
        (0..4u32, 0..20u32).prop_map(|(device, host)| NextHop {
            device: DeviceIndex(device),
            address: Ipv4Addr::from_bits(0x0a00_0000 + host).into(),
        })
    }

    fn state() -> impl Strategy<Value = NeighbourState> {
        prop_oneof![
            any::<[u8; 6]>().prop_map(|octets| NeighbourState::Reachable(Mac(octets))),
            Just(NeighbourState::Unresolved),
            Just(NeighbourState::Failed),
        ]
    }

    proptest! {
        #[test]
        fn lookup_finds_the_last_entry_of_each_next_hop(
            entries in proptest::collection::vec((next_hop(), state()), 0..60),
            asked in proptest::collection::vec(next_hop(), 20),
        ) {
            let model: BTreeMap<_, _> = entries.iter().copied().collect();
            let neighbours = Neighbours::new(entries);
            for next_hop in asked {
                prop_assert_eq!(neighbours.lookup(&next_hop), model.get(&next_hop).copied());
                let at = neighbours.position(&next_hop).and_then(|(position, _)| neighbours.at(position).copied());
                prop_assert_eq!(at, model.get(&next_hop).map(|state| (next_hop, *state)));
            }
        }
    }
}
