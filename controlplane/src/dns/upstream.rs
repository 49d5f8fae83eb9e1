//! One exchange with one upstream: a question out, its answer back.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::writer::UDP_PAYLOAD;

/// Octets of the largest datagram worth reading: upstreams that ignore the payload asked for.
const DATAGRAM_OCTETS: usize = 4096;

/// What of a client's question goes upstream besides name and type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) recursion_desired: bool,
    pub(super) checking_disabled: bool,
    /// The client's DO bit, if it spoke EDNS.
    pub(super) edns_dnssec_ok: Option<bool>,
    pub(super) tcp: bool,
}

/// Asks one upstream, and costs a socket: a fresh random port for each question.
///
/// An answer is a message with our id, our question and QR, from the address asked, whatever its code. One that is
/// truncated is fetched again over TCP; if that fails it stands as it is.
pub(super) async fn ask(
    upstream: SocketAddr,
    query: &Query,
    manner: Manner,
    limit: Duration,
) -> io::Result<Message> {
    let message = question(query, manner);
    let octets = message.to_vec().map_err(io::Error::other)?;
    if manner.tcp {
        return timeout(limit, over_tcp(upstream, &octets, &message)).await?;
    }
    let answer = timeout(limit, over_udp(upstream, &octets, &message)).await??;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    match timeout(limit, over_tcp(upstream, &octets, &message)).await {
        Ok(Ok(whole)) => Ok(whole),
        _ => Ok(answer),
    }
}

/// Makes the message to send, with a random id.
fn question(query: &Query, manner: Manner) -> Message {
    let mut message = Message::query();
    message.add_query(query.clone());
    message.metadata.recursion_desired = manner.recursion_desired;
    message.metadata.checking_disabled = manner.checking_disabled;
    if let Some(dnssec_ok) = manner.edns_dnssec_ok {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(dnssec_ok);
        message.set_edns(edns);
    }
    message
}

/// Says whether a message answers a question. Source: RFC 5452 §9.1.
fn answers(answer: &Message, question: &Message) -> bool {
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == question.metadata.id
        && answer.queries == question.queries
}

async fn over_udp(upstream: SocketAddr, octets: &[u8], question: &Message) -> io::Result<Message> {
    let any: IpAddr =
        if upstream.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Port 0: the kernel picks one at random. Connected: only the upstream's datagrams arrive, and its ICMP
    // errors.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(octets).await?;
    let mut datagram = vec![0; DATAGRAM_OCTETS];
    loop {
        let length = socket.recv(&mut datagram).await?;
        let Some(received) = datagram.get(..length) else { continue };
        // What is not an answer to this question may be forged: the real one can still come.
        if let Ok(answer) = Message::from_vec(received)
            && answers(&answer, question)
        {
            return Ok(answer);
        }
    }
}

async fn over_tcp(upstream: SocketAddr, octets: &[u8], question: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(octets.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), octets].concat()).await?;
    let mut received = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut received).await?;
    let answer = Message::from_vec(&received).map_err(io::Error::other)?;
    answers(&answer, question).then_some(answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
