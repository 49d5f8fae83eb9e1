//! ICMP errors about packets of flows: translated by the packet that they quote. Read RFC 792 and RFC 5508 §4.2 first.
//!
//! An error quotes the packet as it left us and goes back to that packet's sender, so it goes the way of the packets
//! that answer it: its flow is the one that the quoted packet's key, reversed, belongs to. What such an answer leaves
//! with is what the error leaves with, and reversed again it is the quoted packet as it came to us.

use crate::flows::{Found, Key};
use crate::net::checksum::{Difference, Sum};
use crate::net::{Port, Protocol, ethernet, icmpv4, ipv4, udp};
use crate::packet::Packet;
use crate::process::{Context, egress};
use crate::verdict::{DropReason, Egress};

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
pub fn translate(
    octets: &mut [u8],
    packet: &Packet,
    context: &mut Context<'_>,
) -> Result<Option<Egress>, DropReason> {
    let message = octets.get(packet.transport_offset..packet.end).ok_or(DropReason::MalformedTransport)?;
    let kind = icmpv4::Header::parse(message).ok_or(DropReason::MalformedTransport)?.kind;
    let quote = message.get(icmpv4::HEADER_BYTES..).ok_or(DropReason::MalformedQuote)?;
    let Some(key) = quoted_key(quote)?.map(Key::reversed) else { return Ok(None) };
    // Source: net/netfilter/nf_conntrack_proto_icmp.c, nf_conntrack_inet_error: "outer daddr != inner".
    if packet.destination != key.destination {
        return Ok(None);
    }
    let Some(found) = context.flows.lookup(context.flows.hash(&key), &key) else { return Ok(None) };
    if Sum::default().octets(message).checksum() != [0, 0] {
        return Err(DropReason::IcmpChecksum);
    }
    match kind {
        icmpv4::SOURCE_QUENCH => return Err(DropReason::SourceQuench),
        icmpv4::REDIRECT => return Err(DropReason::IcmpRedirect),
        _ => {}
    }
    let way = egress(packet, found.leaves_as.destination, found.next_hop, context)?.way;
    rewrite(octets, packet, &key, &found).ok_or(DropReason::MalformedQuote)?;
    Ok(Some(way))
}

/// Returns the key of the quoted packet, or `None` if it is of a kind that has no flows.
fn quoted_key(quote: &[u8]) -> Result<Option<Key>, DropReason> {
    let header = ipv4::Header::parse_cut(quote).ok_or(DropReason::MalformedQuote)?;
    if !header.is_first() {
        return Ok(None);
    }
    let transport = quoted_transport(header, quote).ok_or(DropReason::MalformedQuote)?;
    if header.protocol == ipv4::PROTOCOL_ICMP {
        let is_nested = transport.first().is_some_and(|kind| icmpv4::is_error(*kind));
        return if is_nested { Err(DropReason::NestedIcmpError) } else { Ok(None) };
    }
    let Some(protocol) = Protocol::from_number(header.protocol) else { return Ok(None) };
    let (Some([a, b, c, d]), QUOTED_BYTES..) = (transport.first_chunk(), transport.len()) else {
        return Err(DropReason::MalformedQuote);
    };
    let (source, destination) = (header.source(), header.destination());
    let (source_port, destination_port) = (Port([*a, *b]), Port([*c, *d]));
    Ok(Some(Key { source, destination, source_port, destination_port, protocol }))
}

/// Returns what is quoted of the transport header and data; octets behind it belong to the error (RFC 4884).
fn quoted_transport<'a>(header: &ipv4::Header, quote: &'a [u8]) -> Option<&'a [u8]> {
    quote.get(header.header_bytes()..header.total_bytes().min(quote.len()))
}

/// Rewrites the error and what it quotes.
///
/// DEVIATION from nf_nat (`nf_nat_icmp_reply_translation`), which gives every error the translated host's address:
/// a router on the way keeps its own, so that people see who complains (RFC 5508 REQ-4 leaves it, too).
fn rewrite(octets: &mut [u8], packet: &Packet, key: &Key, found: &Found) -> Option<()> {
    let Key { source, destination, .. } = found.leaves_as;
    let source = if packet.source == key.source { source } else { packet.source };
    let difference = Difference::NONE
        .octets(packet.source.octets(), source.octets())
        .octets(packet.destination.octets(), destination.octets());
    let (headers, message) = octets.get_mut(..packet.end)?.split_at_mut_checked(packet.transport_offset)?;
    let (icmp, quote) = message.split_at_mut_checked(icmpv4::HEADER_BYTES)?;
    icmpv4::Header::writable(icmp)?.amend(rewrite_quote(quote, found)?);
    let network = headers.get_mut(ethernet::HEADER_BYTES..)?;
    ipv4::Header::writable(network)?.translate(source, destination, difference);
    Some(())
}

/// Makes the quoted packet what it was before we translated it; returns the change of the sum over the quote.
///
/// The differences of the flow fit although the quoted packet goes the other way: a sum does not tell source from
/// destination. Nothing behind the transport checksum changes, so at most 78 octets are summed. A checksum that is
/// cut off, or cut in two, stays as it is.
fn rewrite_quote(quote: &mut [u8], found: &Found) -> Option<Difference> {
    let Key { source, destination, source_port, destination_port, protocol } = found.leaves_as.reversed();
    let header = ipv4::Header::parse_cut(quote)?;
    let transport_at = header.header_bytes();
    let transport_bytes = quoted_transport(header, quote)?.len();
    let changed = quote.len().min(transport_at + TCP_CHECKSUM_OFFSET + size_of::<[u8; 2]>());
    let changed = quote.get_mut(..changed)?;
    let before = Sum::default().octets(changed).word();
    let (network, transport) = changed.split_at_mut_checked(transport_at)?;
    ipv4::Header::writable(network)?.readdress(source, destination, Difference(found.ip_difference));
    let (ports, _) = transport.split_first_chunk_mut()?;
    let ([a, b], [c, d]) = (source_port.0, destination_port.0);
    *ports = [a, b, c, d];
    let difference = Difference(found.transport_difference);
    match protocol {
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
