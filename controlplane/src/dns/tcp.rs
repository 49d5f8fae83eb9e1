//! Questions by connection. Read RFC 7766 first.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::events::{Event, Gauge};
use super::responder::{Answer, Client, Responder};

/// What connections may cost.
#[derive(Clone, Copy, Debug)]
pub struct TcpLimits {
    /// How long a connection may bring no whole question.
    pub idle: Duration,
    /// How long a client may take to read what is sent at once.
    pub write: Duration,
    /// Connections at once.
    pub connections: usize,
    /// Connections of one client address at once.
    pub connections_per_client: usize,
}

impl Default for TcpLimits {
    fn default() -> Self {
        let ten = Duration::from_secs(10);
        Self { idle: ten, write: ten, connections: 1024, connections_per_client: 128 }
    }
}

/// Questions of one connection that may wait for others; more are not read.
const MAX_WAITING: usize = 32;
/// Octets of replies that are gathered before they are sent.
const GATHERED_OCTETS: usize = 64 * 1024;
/// Room for questions that came in one piece.
const READ_OCTETS: usize = 4096;
/// Octets of the length in front of a message. Source: RFC 1035 §4.2.2.
const LENGTH_OCTETS: usize = 2;
/// A breath after an error such as too many open files.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// The connections that are open, by client; shared by all listeners.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<HashMap<IpAddr, usize>>);

/// A connection's place among those that are open; given back when dropped.
struct Place {
    connections: Arc<Connections>,
    responder: Arc<Responder>,
    client: IpAddr,
}

impl Connections {
    fn enter(
        self: &Arc<Self>,
        client: IpAddr,
        limits: TcpLimits,
        responder: &Arc<Responder>,
    ) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.get(&client).copied().unwrap_or(0);
        if own >= limits.connections_per_client || open.values().sum::<usize>() >= limits.connections {
            return None;
        }
        open.insert(client, own + 1);
        responder.counters.raise(Gauge::TcpOpen);
        Some(Place { connections: Arc::clone(self), responder: Arc::clone(responder), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.client);
            }
        }
        self.responder.counters.lower(Gauge::TcpOpen);
    }
}

/// Takes connections until the listener breaks; dropped, it closes them all.
pub(super) async fn serve(
    listener: TcpListener,
    responder: Arc<Responder>,
    connections: Arc<Connections>,
    limits: TcpLimits,
) -> io::Error {
    let mut open = JoinSet::new();
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotConnected) => {
                return error;
            }
            Err(error) => {
                // What ails one connection, or a lack that passes.
                tracing::debug!(%error, "no connection accepted");
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            }
        };
        while open.try_join_next().is_some() {}
        match connections.enter(client.ip(), limits, &responder) {
            Some(place) => {
                responder.counters.count(Event::TcpAccepted);
                let client = Client { address: client, tcp: true };
                let connection =
                    Connection { stream, client, responder: Arc::clone(&responder), limits, _place: place };
                open.spawn(connection.serve());
            }
            None => responder.counters.count(Event::TcpRefused),
        }
    }
}

struct Connection {
    stream: TcpStream,
    client: Client,
    responder: Arc<Responder>,
    limits: TcpLimits,
    _place: Place,
}

impl Connection {
    /// Answers questions, each as soon as its answer is there (RFC 7766 §7), until the client ends or breaks a limit.
    async fn serve(mut self) {
        let mut questions = Vec::with_capacity(READ_OCTETS);
        let (mut reply, mut replies) = (Vec::new(), Vec::new());
        let mut waiting = JoinSet::new();
        let mut ended = false;
        let mut idle_at = Instant::now() + self.limits.idle;
        loop {
            let mut at = 0;
            while let Some(message) = whole_message(questions.get(at..).unwrap_or_default())
                && replies.len() < GATHERED_OCTETS
                && waiting.len() < MAX_WAITING
            {
                at += LENGTH_OCTETS + message.len();
                idle_at = Instant::now() + self.limits.idle;
                match self.responder.answer(message, self.client, &mut reply) {
                    Answer::Ready => push(&mut replies, &reply),
                    Answer::Silence => {}
                    Answer::Later(later) => {
                        let responder = Arc::clone(&self.responder);
                        waiting.spawn(async move { responder.finish(*later).await });
                    }
                }
            }
            questions.drain(..at);
            if !replies.is_empty() {
                if !self.send(&replies).await {
                    return;
                }
                replies.clear();
                tokio::task::yield_now().await;
                continue;
            }
            if ended && waiting.is_empty() {
                return;
            }
            let may_read = !ended && waiting.len() < MAX_WAITING;
            let idle = if waiting.is_empty() { idle_at } else { idle_at + self.limits.idle };
            tokio::select! {
                Some(done) = waiting.join_next(), if !waiting.is_empty() => {
                    done.iter().for_each(|reply| push(&mut replies, reply));
                    idle_at = Instant::now() + self.limits.idle;
                }
                read = timeout_at(idle, self.stream.read_buf(&mut questions)), if may_read => match read {
                    Ok(Ok(0)) => ended = true,
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) => return,
                    Err(_) => {
                        self.responder.counters.count(Event::TcpIdle);
                        return;
                    }
                },
            }
        }
    }

    /// Sends, and says whether the client took it in time.
    async fn send(&mut self, replies: &[u8]) -> bool {
        match timeout(self.limits.write, self.stream.write_all(replies)).await {
            Ok(sent) => sent.is_ok(),
            Err(_) => {
                self.responder.counters.count(Event::TcpSlow);
                false
            }
        }
    }
}

/// Returns the first message if it is there whole.
fn whole_message(octets: &[u8]) -> Option<&[u8]> {
    let (length, rest) = octets.split_first_chunk::<LENGTH_OCTETS>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

fn push(replies: &mut Vec<u8>, reply: &[u8]) {
    // Replies are written with a limit of 65,535 octets.
    replies.extend_from_slice(&(reply.len() as u16).to_be_bytes());
    replies.extend_from_slice(reply);
}
