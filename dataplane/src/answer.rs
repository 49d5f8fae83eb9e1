//! Answers that we give in a Service's place, made in the frame of the packet that they answer.
//!
//! Each function turns `octets` (the frame and the room behind it) into the answer and returns its length. It
//! leaves by the device it came by, to the station that sent it.

use std::net::Ipv4Addr;

use zerocopy::IntoBytes;

use crate::net::{checksum, ethernet, icmpv4, ipv4, tcp};
use crate::packet::{Packet, Transport};
use crate::process::Context;
use crate::snapshot::Device;
use crate::verdict::{Answer, DropReason, Egress, Verdict};

/// Longest IP packet that carries an ICMP error. Source: RFC 1812 §4.3.2.3, "without exceeding 576 bytes".
const ICMP_ERROR_BYTES: usize = 576;

/// Answers an Echo (RFC 792).
pub fn echo_reply(octets: &mut [u8], packet: &Packet) -> Verdict {
    answered(Answer::EchoReply, turn_into_reply(octets, packet))
}

fn turn_into_reply(octets: &mut [u8], packet: &Packet) -> Option<usize> {
    ethernet::Header::writable(octets)?.turn_round();
    ipv4::Header::writable(octets.get_mut(ethernet::HEADER_BYTES..)?)?.turn_round();
    icmpv4::Header::writable(octets.get_mut(packet.transport_offset..)?)?.answer_echo();
    Some(packet.end)
}

/// Tells a client that nothing listens there (K19, K23): RST for TCP, ICMP port unreachable for UDP.
pub fn refuse(octets: &mut [u8], packet: &Packet, context: &mut Context<'_>) -> Verdict {
    match packet.transport {
        Transport::Tcp(_, flags) if flags.contains(tcp::Flags::RST) => Err(DropReason::StrayReset),
        _ if !context.limit.admit(context.now) => Err(DropReason::IcmpRateLimited),
        Transport::Tcp(..) => answered(Answer::Reset, reset(octets, packet)),
        _ => {
            let message = icmpv4::Header::new(icmpv4::DESTINATION_UNREACHABLE, icmpv4::PORT_UNREACHABLE);
            answered(Answer::PortUnreachable, icmp_error(octets, packet, packet.destination, message))
        }
    }
}

/// Tells the sender why its packet goes no further, where that is for us to say, under our own address on the link.
///
/// `octets` are as they came, since both reasons that have an answer are found before anything is rewritten.
///
/// # Errors
/// `reason`, if nobody is told.
pub fn explain(reason: DropReason, octets: &mut [u8], packet: &Packet, context: &mut Context<'_>) -> Verdict {
    let (answer, message) = match reason {
        DropReason::TtlExceeded => {
            let message = icmpv4::Header::new(icmpv4::TIME_EXCEEDED, icmpv4::EXCEEDED_IN_TRANSIT);
            (Answer::TimeExceeded, message)
        }
        DropReason::ExceedsMtu => {
            let mtu = u16::try_from(context.next_link_mtu).unwrap_or(u16::MAX);
            (Answer::FragmentationNeeded, icmpv4::Header::fragmentation_needed(mtu))
        }
        _ => return Err(reason),
    };
    let device = context.snapshot.device(context.arrived_by);
    let Some(own) = device.and_then(Device::address) else { return Err(reason) };
    if !may_be_told(octets, packet).unwrap_or(false) {
        return Err(reason);
    }
    if !context.limit.admit(context.now) {
        return Err(DropReason::IcmpRateLimited);
    }
    answered(answer, icmp_error(octets, packet, own, message))
}

/// Says whether an error about this packet may be sent.
///
/// Source: RFC 1122 §3.2.2: none about an error, about what went to many, about a fragment but the first, to a
/// sender that is no single host (martian sources are dropped before).
fn may_be_told(octets: &[u8], packet: &Packet) -> Option<bool> {
    let [first, ..] = ethernet::Header::parse(octets)?.destination().0;
    let went_to_many =
        first & 1 != 0 || packet.destination.is_multicast() || packet.destination.is_broadcast();
    let has_no_errors = matches!(packet.transport, Transport::IcmpError | Transport::Fragment);
    Some(!went_to_many && !has_no_errors)
}

fn answered(answer: Answer, length: Option<usize>) -> Verdict {
    let length = length.ok_or(DropReason::AnswerTooLong)?;
    Ok(Egress::Answer { answer, length })
}

/// Makes the RST for a segment that belongs to no connection. Source: RFC 9293 §3.10.7.1.
fn reset(octets: &mut [u8], packet: &Packet) -> Option<usize> {
    let segment = tcp::Header::parse(octets.get(packet.transport_offset..packet.end)?)?;
    let flags = segment.flags();
    let mut answer = if flags.contains(tcp::Flags::ACK) {
        tcp::Header::reset(segment.destination(), segment.source(), segment.acknowledgment(), None)
    } else {
        let payload = packet.end - packet.transport_offset - segment.header_bytes();
        let controls =
            u32::from(flags.contains(tcp::Flags::SYN)) + u32::from(flags.contains(tcp::Flags::FIN));
        let next = segment.sequence().wrapping_add(payload as u32).wrapping_add(controls);
        tcp::Header::reset(segment.destination(), segment.source(), 0, Some(next))
    };
    let (from, to) = (packet.destination, packet.source);
    let sum = checksum::pseudo_header(from, to, 6, tcp::HEADER_BYTES as u16);
    answer.set_checksum(sum.octets(answer.as_bytes()).checksum());

    let ip_bytes = ipv4::HEADER_BYTES + tcp::HEADER_BYTES;
    let header = ipv4::Header::originate(from, to, 6, ip_bytes as u16);
    ethernet::Header::writable(octets)?.turn_round();
    let network = octets.get_mut(ethernet::HEADER_BYTES..)?;
    let (place, rest) = network.split_at_mut_checked(ipv4::HEADER_BYTES)?;
    place.copy_from_slice(header.as_bytes());
    rest.get_mut(..tcp::HEADER_BYTES)?.copy_from_slice(answer.as_bytes());
    Some(ethernet::HEADER_BYTES + ip_bytes)
}

/// Makes the ICMP error that quotes the packet. Source: RFC 792, RFC 1812 §4.3.2.3.
fn icmp_error(
    octets: &mut [u8],
    packet: &Packet,
    source: Ipv4Addr,
    mut message: icmpv4::Header,
) -> Option<usize> {
    let added = ipv4::HEADER_BYTES + icmpv4::HEADER_BYTES;
    let quoted = packet.ip_bytes().min(ICMP_ERROR_BYTES - added);
    let ip_bytes = added + quoted;
    let room = octets.get_mut(ethernet::HEADER_BYTES..ethernet::HEADER_BYTES + ip_bytes)?;
    room.copy_within(..quoted, added);
    let (headers, quote) = room.split_at_mut_checked(added)?;
    message.set_checksum(checksum::Sum::default().octets(message.as_bytes()).octets(quote).checksum());
    let header = ipv4::Header::originate(source, packet.source, ipv4::PROTOCOL_ICMP, ip_bytes as u16);
    let (place, rest) = headers.split_at_mut_checked(ipv4::HEADER_BYTES)?;
    place.copy_from_slice(header.as_bytes());
    rest.copy_from_slice(message.as_bytes());
    ethernet::Header::writable(octets)?.turn_round();
    Some(ethernet::HEADER_BYTES + ip_bytes)
}
