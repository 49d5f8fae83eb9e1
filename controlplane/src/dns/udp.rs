//! Questions by datagram.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::events::Event;
use super::responder::{Answer, Client, Responder};

/// Questions in a row before the thread's other work has its turn.
const BURST: usize = 64;
/// Octets of the longest datagram.
const DATAGRAM_OCTETS: usize = 65_535;
/// Errors in a row after which a socket counts as broken.
const MAX_ERRORS: u32 = 100;
/// A breath after an error, so that a broken socket does not cost a core.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// Answers what comes by a socket until it breaks; dropped, it drops the questions that wait for others.
///
/// Costs two system calls for a question and, for a plain one about a name of ours, one allocation per record set.
pub(super) async fn serve(socket: UdpSocket, responder: Arc<Responder>) -> io::Error {
    let socket = Arc::new(socket);
    let mut datagram = vec![0; DATAGRAM_OCTETS];
    let mut reply = Vec::with_capacity(DATAGRAM_OCTETS);
    let mut waiting = JoinSet::new();
    let mut errors = 0;
    loop {
        if let Err(error) = socket.readable().await {
            return error;
        }
        // Without more to read, the wait for the next question is other work's turn already.
        let mut has_more = true;
        for _ in 0..BURST {
            match socket.try_recv_from(&mut datagram) {
                Ok((length, address)) => {
                    errors = 0;
                    let message = datagram.get(..length).unwrap_or_default();
                    answer(&socket, &responder, message, address, &mut reply, &mut waiting);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    has_more = false;
                    break;
                }
                Err(error) => {
                    errors += 1;
                    if errors == MAX_ERRORS {
                        return error;
                    }
                    tokio::time::sleep(AFTER_ERROR).await;
                    break;
                }
            }
        }
        while waiting.try_join_next().is_some() {}
        if has_more {
            tokio::task::yield_now().await;
        }
    }
}

fn answer(
    socket: &Arc<UdpSocket>,
    responder: &Arc<Responder>,
    message: &[u8],
    address: SocketAddr,
    reply: &mut Vec<u8>,
    waiting: &mut JoinSet<()>,
) {
    if !can_be_answered(address) {
        responder.counters.count(Event::Ignored);
        return;
    }
    match responder.answer(message, Client { address, tcp: false }, reply) {
        Answer::Ready => send(socket, responder, reply, address),
        Answer::Silence => {}
        Answer::Later(later) => {
            let (socket, responder) = (Arc::clone(socket), Arc::clone(responder));
            waiting.spawn(async move {
                let reply = responder.finish(*later).await;
                send(&socket, &responder, &reply, address);
            });
        }
    }
}

/// A full buffer loses a reply, as the network might: the client asks again, and nobody waits meanwhile.
fn send(socket: &UdpSocket, responder: &Responder, reply: &[u8], address: SocketAddr) {
    if let Err(error) = socket.try_send_to(reply, address) {
        responder.counters.count(Event::ReplyLost);
        tracing::debug!(client = %address, %error, "no reply sent");
    }
}

/// Says whether a source can be one; the others are forged.
fn can_be_answered(address: SocketAddr) -> bool {
    let broadcast = matches!(address.ip(), IpAddr::V4(ip) if ip.is_broadcast());
    address.port() != 0 && !address.ip().is_multicast() && !address.ip().is_unspecified() && !broadcast
}
