//! The search for a port that tells the replies of a masqueraded flow apart.
//!
//! The flow table is the allocator: a port is free for a destination (address, port, protocol) and an address of ours
//! exactly if no flow has the reply key that they make. So one port serves every destination, a port is given back
//! when its flow goes, however it goes, and a start after a crash finds everything as it was.
//!
//! # Exact and bounded
//!
//! A search looks at every port of the range before it says that none is free. That could cost a packet thousands of
//! look-ups of about 60 ns, so all packets of a burst share [`SHARED_PROBES`], beyond [`OWN_PROBES`] that each has to itself. Where
//! that is used up, the search breaks off (`drop_masquerade_search_paused`), is remembered for its destination, and the
//! next packet to that destination goes on with it: the client sends its SYN again anyway. A range of up to 8,192
//! ports, as the default is, is searched through for one packet of each burst at least; that it was found exhausted
//! holds for the rest of the burst, or until this worker removes a flow. In a wider range a port that is freed behind a
//! search that breaks off is found by the next search.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::clock::Now;
use crate::family::Family;
use crate::flows::{FlowRef, FlowTable, InsertError, Key, NewFlow};
use crate::masquerade::PortRange;
use crate::net::Port;
use crate::rewrite::Rewrite;
use crate::verdict::DropReason;

/// Ports that the packets of one burst may look at together.
const SHARED_PROBES: u32 = 8_192;
/// Ports that each packet may look at besides: three quarters of a range may be taken, and one packet in 10,000 needs more.
const OWN_PROBES: u32 = 32;

/// Destinations whose search is remembered; two that share a place displace each other and begin anew.
const PLACES: u32 = 256;

/// Steps through the range. Each is a prime above any range, so it leads to every port once; several, so that searches
/// that meet at one taken port part again.
const STRIDES: [u32; 8] = [65_537, 131_101, 262_147, 524_309, 1_048_583, 2_097_169, 4_194_319, 8_388_617];

/// How far a search through the range has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Search<A: Family> {
    /// The reply key without its destination port.
    destination: Key<A>,
    range: PortRange,
    /// Where the next port stands in the range.
    place: u32,
    stride: u32,
    /// Ports not yet looked at; none means that all were taken at `moment`.
    unseen: u32,
    /// When it ended without a free port.
    moment: u64,
}

/// The port searches of one worker in one family.
#[derive(Debug)]
pub struct PortSearch<A: Family = Ipv4Addr> {
    shared_probes: u32,
    /// Counts bursts, and removals within them: what was seen in an earlier one may have changed.
    moment: u64,
    paused: Box<[Option<Search<A>>]>,
}

impl<A: Family> Default for PortSearch<A> {
    fn default() -> Self {
        Self { shared_probes: SHARED_PROBES, moment: 0, paused: vec![None; PLACES as usize].into() }
    }
}

impl<A: Family> PortSearch<A> {
    /// Begins a burst, with a fresh share of probes.
    const fn begin_burst(&mut self) {
        self.shared_probes = SHARED_PROBES;
        self.moment += 1;
    }

    /// Notes that this worker removed a flow, which may have freed a port.
    pub const fn note_removal(&mut self) {
        self.moment += 1;
    }

    /// Inserts a flow with a free port of the range; `flow` has all but that port and what follows from it.
    ///
    /// The client's own port is taken if it is in the range and free, as nf_nat does (`net/netfilter/nf_nat_core.c`,
    /// `get_unique_tuple`); else the search begins where the table's secret says, so that nobody can foresee the port
    /// (RFC 6056). DEVIATION from K24, `fully-random`: there it keeps two packets from choosing one port at once
    /// before either is inserted; here an insertion takes both keys or fails. What gives way to it in a full table is
    /// added to `evicted`.
    ///
    /// # Errors
    /// Why no flow was inserted.
    pub fn insert(
        &mut self,
        mut flow: NewFlow<A>,
        range: PortRange,
        flows: &FlowTable<A>,
        now: Now,
        evicted: &mut u64,
    ) -> Result<(FlowRef, Rewrite<A>), DropReason> {
        let mut search = self.begin(&flow, range, flows)?;
        let before = *evicted;
        let mut own_probes = OWN_PROBES;
        let mut is_contended = false;
        while search.unseen > 0 {
            if own_probes > 0 {
                own_probes -= 1;
            } else if self.shared_probes > 0 {
                self.shared_probes -= 1;
            } else {
                self.keep(search, flows);
                return Err(DropReason::MasqueradeSearchPaused);
            }
            flow.reply = flow.reply.with_destination_port(search.next());
            match insert(&mut flow, flows, now, evicted) {
                Ok(inserted) => {
                    // What gave way may have freed a port.
                    self.moment += u64::from(*evicted > before);
                    self.forget(search, flows);
                    return Ok(inserted);
                }
                Err(InsertError::ReplyTaken) => {}
                Err(InsertError::Contended) => is_contended = true,
                Err(InsertError::Full) => return Err(DropReason::FlowTableFull),
                Err(InsertError::RequestTaken) => return Err(DropReason::FlowContended),
            }
        }
        if is_contended {
            return Err(DropReason::FlowContended);
        }
        self.keep(Search { moment: self.moment, ..search }, flows);
        Err(DropReason::MasqueradePortsExhausted)
    }

    /// Goes on with the search for the flow's destination, or begins it.
    fn begin(
        &self,
        flow: &NewFlow<A>,
        range: PortRange,
        flows: &FlowTable<A>,
    ) -> Result<Search<A>, DropReason> {
        let destination = flow.reply.with_destination_port(Port::new(0));
        let kept = self.paused.get(place_of(&destination, flows)).copied().flatten();
        match kept.filter(|kept| kept.destination == destination && kept.range == range) {
            Some(kept) if kept.unseen > 0 => Ok(kept),
            Some(kept) if kept.moment == self.moment => Err(DropReason::MasqueradePortsExhausted),
            _ => Ok(Search::new(flow, destination, range, flows)),
        }
    }

    fn keep(&mut self, search: Search<A>, flows: &FlowTable<A>) {
        if let Some(place) = self.paused.get_mut(place_of(&search.destination, flows)) {
            *place = Some(search);
        }
    }

    /// Forgets what was kept of a search that has found a port; another destination's stays.
    fn forget(&mut self, search: Search<A>, flows: &FlowTable<A>) {
        let place = self.paused.get_mut(place_of(&search.destination, flows));
        if let Some(place) = place
            && place.is_some_and(|kept| kept.destination == search.destination)
        {
            *place = None;
        }
    }
}

/// The port searches of one worker, of each family its own.
#[derive(Debug, Default)]
pub struct PortSearches {
    /// Of masqueraded IPv4 flows.
    pub ipv4: PortSearch<Ipv4Addr>,
    /// Of masqueraded IPv6 flows.
    pub ipv6: PortSearch<Ipv6Addr>,
}

impl PortSearches {
    /// Begins a burst, with a fresh share of probes.
    pub const fn begin_burst(&mut self) {
        self.ipv4.begin_burst();
        self.ipv6.begin_burst();
    }
}

impl<A: Family> Search<A> {
    fn new(flow: &NewFlow<A>, destination: Key<A>, range: PortRange, flows: &FlowTable<A>) -> Self {
        let [first, second] = flows.hash(&flow.request).halves();
        let own = range.place(flow.request.source_port());
        let stride = STRIDES.get(first as usize % STRIDES.len()).copied().unwrap_or(1);
        Self {
            destination,
            range,
            place: own.unwrap_or(second % range.size()),
            stride: stride % range.size(),
            unseen: range.size(),
            moment: 0,
        }
    }

    /// Returns the port to look at, and steps on.
    const fn next(&mut self) -> Port {
        let port = self.range.at(self.place);
        self.place = (self.place + self.stride) % self.range.size();
        self.unseen -= 1;
        port
    }
}

/// Inserts the flow with the port that its reply key has by now.
///
/// A look at the reply key comes first: it costs half of what a refused insertion costs.
fn insert<A: Family>(
    flow: &mut NewFlow<A>,
    flows: &FlowTable<A>,
    now: Now,
    evicted: &mut u64,
) -> Result<(FlowRef, Rewrite<A>), InsertError> {
    if flows.lookup(flows.hash(&flow.reply), &flow.reply).is_some() {
        return Err(InsertError::ReplyTaken);
    }
    let rewrite = Rewrite::between(&flow.request, &flow.reply.reversed());
    flow.ip_difference = rewrite.ip.0;
    flow.transport_difference = rewrite.transport.0;
    flows.insert_evicting(flow, now, evicted).map(|inserted| (inserted, rewrite))
}

fn place_of<A: Family>(destination: &Key<A>, flows: &FlowTable<A>) -> usize {
    let [first, _] = flows.hash(destination).halves();
    (first % PLACES) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::flows::{EndpointId, ServicePortId, State};
    use crate::net::Protocol;

    const NOW: Now = Now::from_seconds(1);

    /// The flow of a client's `n`th connection to one destination.
    fn flow(n: u32) -> NewFlow {
        let request = Key::new(
            (Ipv4Addr::from_bits(0x0a01_0000 + (n >> 8)), Port::new(n as u16 & 0xff)),
            (Ipv4Addr::new(10, 96, 0, 1), Port::new(80)),
            Protocol::Tcp,
        );
        let reply = Key::new(
            (Ipv4Addr::new(10, 244, 0, 11), Port::new(8080)),
            (Ipv4Addr::new(10, 244, 0, 1), Port::new(0)),
            Protocol::Tcp,
        );
        let (service, endpoint) = (ServicePortId(1), EndpointId(1));
        let state = State::SynSent;
        NewFlow {
            request,
            reply,
            service,
            endpoint,
            ip_difference: 0,
            transport_difference: 0,
            state,
            account: 0,
        }
    }

    /// Has every port of the range but `spare` taken.
    fn fill(flows: &FlowTable, range: PortRange, spare: Option<u16>) {
        for number in (range.first()..=range.last()).filter(|number| Some(*number) != spare) {
            let mut taken = flow(u32::from(number));
            taken.request = taken.request.with_destination(Ipv4Addr::new(10, 96, 0, 2));
            taken.reply = taken.reply.with_destination_port(Port::new(number));
            flows.insert(&taken, NOW).unwrap();
        }
    }

    fn port_of(flows: &FlowTable, request: &Key) -> u16 {
        flows.lookup(flows.hash(request), request).unwrap().leaves_as.source_port().number()
    }

    #[test]
    fn each_stride_leads_to_every_port_of_any_range() {
        for stride in STRIDES {
            let root = stride.isqrt();
            assert!(stride > 65_535 && (2..=root).all(|divisor| stride % divisor != 0), "{stride}");
        }
        let flows = FlowTable::in_memory(16).unwrap();
        for last in [1, 2, 3, 100, 4_097, 65_535] {
            let range = PortRange::new(1, last).unwrap();
            let mut search = Search::new(&flow(7), flow(7).reply, range, &flows);
            let seen: BTreeSet<u16> = (0..range.size()).map(|_| search.next().number()).collect();
            assert_eq!((seen.len() as u32, search.unseen), (range.size(), 0));
        }
    }

    #[test]
    fn the_default_range_is_filled_to_the_last_port_and_then_exhausted() {
        let (flows, range) = (FlowTable::in_memory(16_384).unwrap(), PortRange::default());
        let mut ports = PortSearch::default();
        let mut used = BTreeSet::new();
        for n in 0..range.size() {
            ports.begin_burst();
            ports.insert(flow(n), range, &flows, NOW, &mut 0).unwrap();
            used.insert(port_of(&flows, &flow(n).request));
        }
        assert_eq!(used.len() as u32, range.size());
        ports.begin_burst();
        let refused = || Some(DropReason::MasqueradePortsExhausted);
        assert_eq!(ports.insert(flow(9_999), range, &flows, NOW, &mut 0).err(), refused());
        let shared = ports.shared_probes;
        assert_eq!(ports.insert(flow(9_998), range, &flows, NOW, &mut 0).err(), refused());
        assert_eq!(ports.shared_probes, shared, "what is known in a burst is not looked up again");

        let first = flow(0).request;
        assert!(flows.remove(flows.lookup(flows.hash(&first), &first).unwrap().flow));
        ports.begin_burst();
        ports.insert(flow(9_999), range, &flows, NOW, &mut 0).unwrap();
    }

    #[test]
    fn a_search_that_breaks_off_goes_on_until_it_has_seen_every_port() {
        let flows = FlowTable::in_memory(100_000).unwrap();
        let range = PortRange::new(1, u16::MAX).unwrap();
        let packets = range.size().div_ceil(SHARED_PROBES + OWN_PROBES);
        for spare in [Some(40_000), None] {
            let mut ports = PortSearch::default();
            if spare.is_some() {
                fill(&flows, range, spare);
            }
            let outcomes: Vec<_> = (0..packets)
                .map(|n| {
                    ports.begin_burst();
                    ports.insert(flow(n), range, &flows, NOW, &mut 0).map(|_| ())
                })
                .take_while(|outcome| *outcome == Err(DropReason::MasqueradeSearchPaused))
                .collect();
            assert!(outcomes.len() < packets as usize);
            if spare.is_none() {
                assert_eq!(outcomes.len(), packets as usize - 1, "exhausted only when all are seen");
            }
        }
        assert_eq!(flows.len(), 65_535, "the one free port was found");
    }

    #[test]
    fn a_starving_destination_leaves_probes_to_the_other_packets_of_its_burst() {
        let flows = FlowTable::in_memory(100_000).unwrap();
        let range = PortRange::new(1, u16::MAX).unwrap();
        fill(&flows, range, None);
        let mut ports = PortSearch::default();
        ports.begin_burst();
        for n in 0..64 {
            let refused = ports.insert(flow(n), range, &flows, NOW, &mut 0).err();
            assert_eq!(refused, Some(DropReason::MasqueradeSearchPaused));
        }
        let mut other = flow(64);
        other.reply = other.reply.with_source_port(Port::new(9090));
        ports.insert(other, range, &flows, NOW, &mut 0).unwrap();
    }
}
