//! ICMP errors about packets of flows: translated by the packet that they quote. Read RFC 792 and RFC 5508 §4.2 first.
//!
//! An error quotes the packet as it left us and goes back to that packet's sender, so it goes the way of the packets
//! that answer it: its flow is the one that the quoted packet's key, reversed, belongs to. What such an answer leaves
//! with is what the error leaves with, and reversed again it is the quoted packet as it came to us.

use crate::family::{Family, Quoted};
use crate::flows::{Found, Key};
use crate::net::checksum::{Difference, Sum};
use crate::net::{Port, Protocol, ethernet, icmpv4, sctp, udp};
use crate::packet::Packet;
use crate::process::Context;
use crate::verdict::{DropReason, Egress};
use crate::way_out;

/// Octets in front of what an error quotes (RFC 792, RFC 4443 §2.1).
const MESSAGE_BYTES: usize = 8;
/// Octets behind the quoted header that every error has. Source: RFC 792, "64 bits of the original data".
const QUOTED_BYTES: usize = 8;
/// Where the checksum of TCP stands in its header (RFC 9293 §3.1); it may be cut off.
const TCP_CHECKSUM_OFFSET: usize = 16;
/// Where the checksum of UDP stands in its header (RFC 768).
const UDP_CHECKSUM_OFFSET: usize = 6;

/// Translates an error about a packet of a flow and finds its way out; `None` if it is about no flow.
///
/// The flow stays as it is: an error neither changes its state nor keeps it alive (RFC 5508 REQ-6 asks this for
/// queries, nf_conntrack does it for all).
///
/// DEVIATION from RFC 5508 REQ-3 a): a wrong checksum of the quoted header is passed on as wrong. Routers quote
/// headers that they have changed, and path MTU discovery must not die of it.
///
/// # Errors
/// The reason why the packet is dropped.
pub fn translate<A: Family>(
    octets: &mut [u8],
    packet: &Packet<A>,
    context: &mut Context<'_, A>,
) -> Result<Option<Egress>, DropReason> {
    let message = octets.get(packet.transport_offset..packet.end).ok_or(DropReason::MalformedTransport)?;
    let (header, quote) =
        message.split_first_chunk::<MESSAGE_BYTES>().ok_or(DropReason::MalformedTransport)?;
    let Some(quoted) = A::quoted(quote)? else { return Ok(None) };
    let Some(key) = quoted_key(quote, &quoted)?.map(Key::reversed) else { return Ok(None) };
    // Source: net/netfilter/nf_conntrack_proto_icmp.c, nf_conntrack_inet_error: "outer daddr != inner".
    if packet.destination() != key.destination() {
        return Ok(None);
    }
    let Some(found) = context.flows.lookup(context.flows.hash(&key), &key) else { return Ok(None) };
    let sum = A::icmp_sum(packet.source(), packet.destination(), message.len());
    if sum.octets(message).checksum() != [0, 0] {
        return Err(DropReason::IcmpChecksum);
    }
    let [kind, ..] = header;
    if let Some(reason) = A::refused_error(*kind) {
        return Err(reason);
    }
    let (way, _) = way_out::of_flow(packet, found.leaves_as.destination(), found.next_hop, context)?;
    rewrite(octets, packet, &key, &quoted, &found).ok_or(DropReason::MalformedQuote)?;
    Ok(Some(way))
}

/// Returns the key of the quoted packet, or `None` if it is of a kind that has no flows.
fn quoted_key<A: Family>(quote: &[u8], quoted: &Quoted<A>) -> Result<Option<Key<A>>, DropReason> {
    let transport = quoted_transport(quote, quoted).ok_or(DropReason::MalformedQuote)?;
    if quoted.protocol == A::ICMP {
        let is_nested = transport.first().is_some_and(|kind| A::is_icmp_error(*kind));
        return if is_nested { Err(DropReason::NestedIcmpError) } else { Ok(None) };
    }
    let Some(protocol) = Protocol::from_number(quoted.protocol) else { return Ok(None) };
    let (Some([a, b, c, d]), QUOTED_BYTES..) = (transport.first_chunk(), transport.len()) else {
        return Err(DropReason::MalformedQuote);
    };
    Ok(Some(Key::new((quoted.source, Port([*a, *b])), (quoted.destination, Port([*c, *d])), protocol)))
}

/// Returns what is quoted of the transport header and data; octets behind it belong to the error (RFC 4884).
fn quoted_transport<'a, A>(quote: &'a [u8], quoted: &Quoted<A>) -> Option<&'a [u8]> {
    quote.get(quoted.transport_at..quoted.end.min(quote.len()))
}

/// Rewrites the error and what it quotes.
///
/// DEVIATION from nf_nat (`nf_nat_icmp_reply_translation`), which gives every error the translated host's address:
/// a router on the way keeps its own, so that people see who complains (RFC 5508 REQ-4 leaves it, too).
fn rewrite<A: Family>(
    octets: &mut [u8],
    packet: &Packet<A>,
    key: &Key<A>,
    quoted: &Quoted<A>,
    found: &Found<A>,
) -> Option<()> {
    let (source, destination) = (found.leaves_as.source(), found.leaves_as.destination());
    let source = if packet.source() == key.source() { source } else { packet.source() };
    let addresses = packet.source().replaced(source, Difference::NONE);
    let addresses = packet.destination().replaced(destination, addresses);
    let (headers, message) = octets.get_mut(..packet.end)?.split_at_mut_checked(packet.transport_offset)?;
    let (icmp, quote) = message.split_at_mut_checked(MESSAGE_BYTES)?;
    let icmp = icmpv4::Header::writable(icmp)?;
    icmp.amend(rewrite_quote(quote, quoted, found)?);
    if A::ICMP_COVERS_ADDRESSES {
        icmp.amend(addresses);
    }
    A::translate(headers.get_mut(ethernet::HEADER_BYTES..)?, source, destination, addresses)
}

/// Makes the quoted packet what it was before we translated it; returns the change of the sum over the quote.
///
/// The differences of the flow fit although the quoted packet goes the other way: a sum does not tell source from
/// destination. Nothing behind the transport checksum changes, so only the headers are summed. A checksum that is
/// cut off, or cut in two, stays as it is.
fn rewrite_quote<A: Family>(quote: &mut [u8], quoted: &Quoted<A>, found: &Found<A>) -> Option<Difference> {
    let sent_as = found.leaves_as.reversed();
    let transport_bytes = quoted_transport(quote, quoted)?.len();
    let changed = quote.len().min(quoted.transport_at + TCP_CHECKSUM_OFFSET + size_of::<[u8; 2]>());
    let changed = quote.get_mut(..changed)?;
    let before = Sum::default().octets(changed).word();
    let (network, transport) = changed.split_at_mut_checked(quoted.transport_at)?;
    A::readdress(network, sent_as.source(), sent_as.destination(), Difference(found.ip_difference))?;
    if sent_as.protocol == Protocol::Sctp
        && transport_bytes >= sctp::HEADER_BYTES
        && let Some(header) = sctp::Header::writable(transport)
    {
        let packet_bytes = quoted.end.saturating_sub(quoted.transport_at) as u16;
        header.translate(sent_as.source_port(), sent_as.destination_port(), packet_bytes);
    }
    let (ports, _) = transport.split_first_chunk_mut()?;
    let ([a, b], [c, d]) = (sent_as.source_port().0, sent_as.destination_port().0);
    *ports = [a, b, c, d];
    let difference = Difference(found.transport_difference);
    match sent_as.protocol {
        Protocol::Tcp if transport_bytes >= TCP_CHECKSUM_OFFSET + size_of::<[u8; 2]>() => {
            let checksum = transport.get_mut(TCP_CHECKSUM_OFFSET..)?.first_chunk_mut()?;
            *checksum = difference.apply(*checksum);
        }
        Protocol::Udp => {
            let checksum = transport.get_mut(UDP_CHECKSUM_OFFSET..)?.first_chunk_mut()?;
            *checksum = udp::checksum_after(*checksum, difference);
        }
        Protocol::Tcp | Protocol::Sctp => {}
    }
    let after = Sum::default().octets(changed).word();
    Some(Difference::NONE.word(before, after))
}
