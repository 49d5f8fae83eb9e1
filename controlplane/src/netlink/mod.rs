//! The kernel's network configuration over rtnetlink: the only room that names the rtnetlink crates.
//!
//! [`Netlink`] asks and changes; [`KernelEvents`] tells what changed. Both run on the control thread's
//! one-threaded runtime. Reading order: `links`, `addresses`, `routes`, `neighbours`, `events`.

mod addresses;
mod events;
mod links;
mod neighbours;
mod routes;

use std::io;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use tokio::task::JoinHandle;

pub use addresses::LocalAddress;
pub use events::{KernelEvent, KernelEvents};
pub use links::{Link, VethPair};
pub use neighbours::NEIGHBOUR_PROTOCOL;

/// How often a dump that the kernel says was changed underneath is read again.
const DUMP_TRIES: usize = 10;

/// A connection for questions and changes.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    _connection: Connection,
}

/// The task that moves messages between a socket and its handle; ends when dropped.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace; must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn connect() -> anyhow::Result<Self> {
        let (mut connection, handle, _no_multicast) =
            rtnetlink::new_connection_with_strict_check().context("rtnetlink socket")?;
        // Without these an answer that was cut off looks like one that ended.
        connection.set_forward_done(true);
        connection.set_forward_ack(true);
        Ok(Self { handle, _connection: Connection(tokio::spawn(connection)) })
    }

    /// Sends a change and waits until the kernel has made it.
    async fn change(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.answers(message, flags | NLM_F_ACK).await.map(|_| ())
    }

    /// Reads all objects of a kind; reads again while they change underneath.
    async fn dump(&self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_TRIES {
            match self.answers(message.clone(), NLM_F_DUMP).await {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the tables changed during every one of several dumps",
        ))
    }

    /// Reads one object; `None` if there is none (`ENOENT`), nor a device for it (`ENODEV`).
    async fn object(&self, message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        match self.answers(message, NLM_F_ACK).await {
            Ok(answers) => Ok(answers.into_iter().next()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a request and collects the answers up to the acknowledgement or the end of the dump.
    async fn answers(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the rtnetlink socket was closed");
        let mut stream = self.handle.clone().request(request).map_err(|_| gone())?;

        let mut answers = Vec::new();
        let mut interrupted = false;
        while let Some(answer) = stream.next().await {
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(object) => answers.push(object),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
                }
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) if interrupted => {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(answers),
                _ => {}
            }
        }
        Err(gone())
    }
}
