//! What changed in the kernel's tables since it was last asked.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;

use anyhow::Context as _;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use tidegate_dataplane::neighbours::{NeighbourState, NextHop};

use super::{Connection, neighbours, routes};

/// One change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelEvent {
    /// Messages were lost (the socket's buffer was full): everything has to be read again.
    Resync,
    /// A device appeared, changed or went.
    LinksChanged,
    /// An address appeared or went.
    AddressesChanged,
    /// Routes of `local` or `main` appeared or went.
    ///
    /// Told with [`KernelEvent::LinksChanged`] and [`KernelEvent::AddressesChanged`] too: the kernel takes
    /// IPv4 routes away with a device or address without a word (`fib_flush`).
    RoutesChanged,
    /// A neighbour has a new state, or is gone.
    NeighbourChanged(NextHop, Option<NeighbourState>),
}

/// A subscription to changes. Equal changes that wait together are told once; neighbours are told one by one.
pub struct KernelEvents {
    messages: Messages,
    waiting: Waiting,
    _connection: Connection,
}

type Messages = Pin<Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send>>;

#[derive(Default)]
struct Waiting {
    resync: bool,
    links: bool,
    addresses: bool,
    routes: bool,
    neighbours: VecDeque<(NextHop, Option<NeighbourState>)>,
}

impl fmt::Debug for KernelEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KernelEvents")
    }
}

impl KernelEvents {
    /// Subscribes in the calling thread's network namespace; must be called within a tokio runtime.
    ///
    /// Whoever subscribes first and reads the tables then misses nothing.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn subscribe() -> anyhow::Result<Self> {
        let (connection, _no_requests, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])
        .context("rtnetlink socket for events")?;
        Ok(Self {
            messages: messages.map(|(message, _source)| message).boxed(),
            waiting: Waiting::default(),
            _connection: Connection(tokio::spawn(connection)),
        })
    }

    /// Waits for the next change. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the socket was closed: no further change will be told.
    pub async fn next(&mut self) -> anyhow::Result<KernelEvent> {
        loop {
            while let Some(Some(message)) = self.messages.next().now_or_never() {
                self.waiting.note(message.payload);
            }
            if let Some(event) = self.waiting.pop() {
                return Ok(event);
            }
            let message = self.messages.next().await.context("the rtnetlink socket for events was closed")?;
            self.waiting.note(message.payload);
        }
    }
}

impl Waiting {
    fn note(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) {
        match payload {
            // What was told before the loss is read again with all the rest.
            NetlinkPayload::Overrun(_) => *self = Self { resync: true, ..Self::default() },
            NetlinkPayload::InnerMessage(message) => self.note_change(&message),
            _ => {}
        }
    }

    fn note_change(&mut self, message: &RouteNetlinkMessage) {
        match message {
            RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) => {
                self.links = true;
                self.routes = true;
            }
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => {
                self.addresses = true;
                self.routes = true;
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                self.routes |= routes::table_of(route).is_some();
            }
            RouteNetlinkMessage::NewNeighbour(neighbour) => {
                let next_hop = neighbours::next_hop(neighbour);
                self.neighbours.extend(next_hop.map(|next_hop| (next_hop, neighbours::state(neighbour))));
            }
            RouteNetlinkMessage::DelNeighbour(neighbour) => {
                self.neighbours.extend(neighbours::next_hop(neighbour).map(|next_hop| (next_hop, None)));
            }
            _ => {}
        }
    }

    fn pop(&mut self) -> Option<KernelEvent> {
        for (waits, event) in [
            (&mut self.resync, KernelEvent::Resync),
            (&mut self.links, KernelEvent::LinksChanged),
            (&mut self.addresses, KernelEvent::AddressesChanged),
            (&mut self.routes, KernelEvent::RoutesChanged),
        ] {
            if std::mem::take(waits) {
                return Some(event);
            }
        }
        let (next_hop, state) = self.neighbours.pop_front()?;
        Some(KernelEvent::NeighbourChanged(next_hop, state))
    }
}
