//! How the slow gateway opens flows.

use std::net::IpAddr;

use tidegate_dataplane::flows::Key;
use tidegate_dataplane::masquerade::Mode;
use tidegate_dataplane::net::{Address, Port, Protocol};
use tidegate_dataplane::services::{Backend, Backends};

use super::datagram::{Datagram, Five, Kind};
use super::flow::{Flow, State};
use super::links::Hop;
use super::{Fate, Gateway, MASQUERADE_PORT};

impl Gateway {
    /// Opens a flow to a backend of the Service port, or refuses.
    pub(super) fn open(
        &mut self,
        device: u32,
        backends: Option<&Backends>,
        datagram: Datagram,
    ) -> Result<Fate, &'static str> {
        let request = datagram.five;
        let state = match datagram.kind {
            Kind::Tcp { flags } => State::of_first(flags),
            Kind::Sctp { chunks } => State::of_first_sctp(chunks),
            _ => Some(State::UdpUnreplied),
        };
        let backend = backends.and_then(|backends| choose(backends, request));
        let (Some(state), Some(backend)) = (state, backend) else { return self.refuse(&datagram) };
        if backend.address.is_ipv6() != datagram.is_ipv6() {
            return Err("drop_address_family");
        }
        let mut leaves_as =
            Five { destination: backend.address, destination_port: backend.port.number(), ..request };
        // No flow is opened for a packet that cannot leave.
        let exit = self.exit(&datagram, leaves_as.destination)?;
        let is_picked_up = !matches!(state, State::SynSent | State::UdpUnreplied | State::SctpClosed);
        let own = self.own_address(device, exit, leaves_as)?;
        let mut attempt = 0;
        if let Some(own) = own {
            (leaves_as.source, leaves_as.source_port) = (own, MASQUERADE_PORT);
            if is_picked_up {
                return self.refuse(&datagram);
            }
            if self.owner(leaves_as.reversed()).is_some() {
                return Err("drop_masquerade_ports_exhausted");
            }
        }
        while self.owner(leaves_as.reversed()).is_some() {
            leaves_as.source_port = other_port(request.source_port, attempt);
            attempt += 1;
        }
        let table = usize::from(datagram.is_ipv6());
        if self.places[table].free.is_empty() {
            let gone = self.places[table].next_to_go(&self.flows, datagram.is_ipv6());
            self.remove(gone.ok_or("drop_flow_table_full")?);
            self.count("flows_evicted", 1);
        }
        let place = self.places[table].free.pop_front().unwrap();
        let reply = leaves_as.reversed();
        self.flows.push(Flow { request, reply, state, last_second: self.second(), place });
        self.count("flows_inserted", 1);
        self.count("flows_port_changed", u64::from(attempt > 0));
        self.count("flows_masqueraded", u64::from(own.is_some()));
        self.count("flows_picked_up", u64::from(is_picked_up));
        Ok(self.leave_by(exit, datagram.translated(leaves_as)?))
    }

    /// RST for a segment, ICMP for a datagram; nothing for what ends a connection.
    fn refuse(&mut self, datagram: &Datagram) -> Result<Fate, &'static str> {
        match datagram.kind {
            Kind::Tcp { flags } if flags & 4 != 0 => Err("drop_stray_reset"),
            Kind::Sctp { chunks } if chunks.are_an_end() => Err("drop_stray_reset"),
            Kind::Tcp { flags } => {
                self.spend().map(|()| Fate::Answer("answered_reset", datagram.reset(flags)))
            }
            _ => self.port_unreachable(datagram),
        }
    }

    /// The address that a flow gets instead of its client's; none for what the kernel sends on.
    fn own_address(
        &self,
        device: u32,
        hop: Option<Hop>,
        leaves_as: Five,
    ) -> Result<Option<IpAddr>, &'static str> {
        let is_hairpin = leaves_as.destination == leaves_as.source;
        let is_masqueraded = |(out, _): &Hop| match self.masquerade {
            Mode::Auto => is_hairpin || *out == device,
            Mode::Always => true,
            Mode::Never => false,
        };
        match hop.filter(is_masqueraded) {
            Some((out, _)) => Ok(Some(self.links.own(out, leaves_as.source.is_ipv6()))),
            None if is_hairpin => Err("drop_hairpin"),
            None => Ok(None),
        }
    }
}

/// The source ports that are tried when the reply key is taken: strides of 7,919 through 1024..=65535.
fn other_port(first: u16, attempt: u32) -> u16 {
    1024 + ((u32::from(first) + 7919 * (attempt + 1)) % 64_512) as u16
}

/// Asks the table of backends, and only it, in the form that it takes.
fn choose(backends: &Backends, five: Five) -> Option<&Backend> {
    match (five.source, five.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => backends.choose(&key(five, source, destination)),
        (IpAddr::V6(source), IpAddr::V6(destination)) => backends.choose(&key(five, source, destination)),
        _ => unreachable!("one packet, one version"),
    }
}

/// Puts a key into the form that the table of flows takes.
pub fn key<A: Address>(five: Five, source: A, destination: A) -> Key<A> {
    Key::new(
        (source, Port::new(five.source_port)),
        (destination, Port::new(five.destination_port)),
        Protocol::from_number(five.protocol).unwrap(),
    )
}
