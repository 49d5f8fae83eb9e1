//! Answers that we give in a Service's place, made in the frame of the packet that they answer.
//!
//! Each function turns `octets` (the frame and the room behind it) into the answer and returns its length. It
//! leaves by the device it came by, to the station that sent it. Of a packet in several frames `octets` is the first,
//! which has room for every answer but an Echo Reply; that goes on in the frames of its Echo.

use zerocopy::IntoBytes;

use crate::clock::Now;
use crate::family::{Family, IcmpError};
use crate::net::{Protocol, checksum, ethernet, icmpv4, sctp, tcp};
use crate::packet::{Packet, Transport};
use crate::process::Context;
use crate::rate_limit::RateLimit;
use crate::snapshot::Device;
use crate::verdict::{Answer, DropReason, Egress, Verdict};

/// Octets in front of what an ICMP error quotes, behind the IP header.
const MESSAGE_BYTES: usize = 8;

/// Chunks after which nobody waits for an answer. Source: RFC 9260 §8.4, rules 2 and 6.
const ENDS: sctp::Chunks = sctp::Chunks::ABORT.with(sctp::Chunks::SHUTDOWN_COMPLETE);

/// Answers an Echo (RFC 792, RFC 4443 §4.2).
pub fn echo_reply<A: Family>(octets: &mut [u8], packet: &Packet<A>) -> Verdict {
    answered(Answer::EchoReply, turn_into_reply(octets, packet))
}

fn turn_into_reply<A: Family>(octets: &mut [u8], packet: &Packet<A>) -> Option<usize> {
    ethernet::Header::writable(octets)?.turn_round();
    let message_at = packet.transport_offset - ethernet::HEADER_BYTES;
    let network = octets.get_mut(ethernet::HEADER_BYTES..)?;
    let end = A::answer_echo(network, message_at, packet.end - ethernet::HEADER_BYTES, packet.is_fragment)?;
    Some(ethernet::HEADER_BYTES + end)
}

/// Tells a client that nothing listens there (K19, K23): RST for TCP, ICMP port unreachable for the others.
pub fn refuse<A: Family>(octets: &mut [u8], packet: &Packet<A>, context: &mut Context<'_, A>) -> Verdict {
    match packet.transport {
        Transport::Tcp(_, flags) if flags.contains(tcp::Flags::RST) => Err(DropReason::StrayReset),
        Transport::Sctp(_, chunks) if chunks.intersects(ENDS) => Err(DropReason::StrayReset),
        _ if !context.limit.admit(context.now) => Err(DropReason::IcmpRateLimited),
        Transport::Tcp(..) => answered(Answer::Reset, reset(octets, packet)),
        _ => {
            let length = icmp_error(octets, packet, packet.destination(), IcmpError::PortUnreachable);
            answered(Answer::PortUnreachable, length)
        }
    }
}

/// Ends the sender's side of a connection; one for each, so no limit holds.
pub fn reset_connection<A: Family>(octets: &mut [u8], packet: &Packet<A>) -> Verdict {
    answered(Answer::Reset, reset(octets, packet))
}

/// Tells the sender why its packet goes no further, where that is for us to say, under our own address on the link.
///
/// `octets` are as they came, since both reasons that have an answer are found before anything is rewritten.
///
/// # Errors
/// `reason`, if nobody is told.
pub fn explain<A: Family>(
    reason: DropReason,
    octets: &mut [u8],
    packet: &Packet<A>,
    context: &mut Context<'_, A>,
) -> Verdict {
    let device = context.snapshot.device(context.arrived_by);
    explain_by(device, reason, context.next_link_mtu, octets, packet, context.limit, context.now)
}

/// Does what [`explain`] does, for a packet that came by `device` and is too long for a link of `mtu` octets, if that
/// is the reason.
///
/// # Errors
/// `reason`, if nobody is told.
pub fn explain_by<A: Family>(
    device: Option<&Device>,
    reason: DropReason,
    mtu: usize,
    octets: &mut [u8],
    packet: &Packet<A>,
    limit: &mut RateLimit,
    now: Now,
) -> Verdict {
    let (answer, error) = match reason {
        DropReason::TtlExceeded => (Answer::TimeExceeded, IcmpError::TimeExceeded),
        DropReason::ExceedsMtu => (Answer::FragmentationNeeded, IcmpError::TooBig(mtu)),
        _ => return Err(reason),
    };
    let Some(own) = device.and_then(Device::address) else { return Err(reason) };
    if !may_be_told(octets, packet).unwrap_or(false) {
        return Err(reason);
    }
    if !limit.admit(now) {
        return Err(DropReason::IcmpRateLimited);
    }
    answered(answer, icmp_error(octets, packet, own, error))
}

/// Says whether an error about this packet may be sent.
///
/// Source: RFC 1122 §3.2.2, RFC 4443 §2.4 (e): none about an error, about what went to many, to a sender that is no
/// single host (martian sources are dropped before); over IPv4 none about a fragment but the first.
fn may_be_told<A: Family>(octets: &[u8], packet: &Packet<A>) -> Option<bool> {
    let [first, ..] = ethernet::Header::parse(octets)?.destination().0;
    let went_to_many = first & 1 != 0 || packet.destination().is_many();
    let has_no_errors = match packet.transport {
        Transport::IcmpError => true,
        Transport::Fragment => !A::ERRORS_ABOUT_LATER_FRAGMENTS,
        _ => false,
    };
    Some(!went_to_many && !has_no_errors)
}

fn answered(answer: Answer, length: Option<usize>) -> Verdict {
    let length = length.ok_or(DropReason::AnswerTooLong)?;
    Ok(Egress::Answer { answer, length })
}

/// Makes the RST for a segment that belongs to no connection. Source: RFC 9293 §3.10.7.1.
fn reset<A: Family>(octets: &mut [u8], packet: &Packet<A>) -> Option<usize> {
    let end = packet.end.min(octets.len());
    let segment = tcp::Header::parse(octets.get(packet.transport_offset..end)?)?;
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
    let (from, to) = (packet.destination(), packet.source());
    let sum = checksum::pseudo_header(from, to, Protocol::Tcp.number(), tcp::HEADER_BYTES as u16);
    answer.set_checksum(sum.octets(answer.as_bytes()).checksum());

    ethernet::Header::writable(octets)?.turn_round();
    let network = octets.get_mut(ethernet::HEADER_BYTES..)?;
    A::originate(network, from, to, Protocol::Tcp.number(), tcp::HEADER_BYTES)?;
    network.get_mut(A::HEADER_BYTES..)?.get_mut(..tcp::HEADER_BYTES)?.copy_from_slice(answer.as_bytes());
    Some(ethernet::HEADER_BYTES + A::HEADER_BYTES + tcp::HEADER_BYTES)
}

/// Makes the ICMP error that quotes the packet. Source: RFC 792, RFC 1812 §4.3.2.3, RFC 4443 §3.
fn icmp_error<A: Family>(
    octets: &mut [u8],
    packet: &Packet<A>,
    source: A,
    error: IcmpError,
) -> Option<usize> {
    let added = A::HEADER_BYTES + MESSAGE_BYTES;
    let quoted = packet.ip_bytes().min(A::ICMP_ERROR_BYTES - added);
    let ip_bytes = added + quoted;
    let room = octets.get_mut(ethernet::HEADER_BYTES..ethernet::HEADER_BYTES + ip_bytes)?;
    room.copy_within(..quoted, added);
    A::originate(room, source, packet.source(), A::ICMP, MESSAGE_BYTES + quoted)?;
    let message = room.get_mut(A::HEADER_BYTES..)?;
    *message.first_chunk_mut()? = A::icmp_error(error);
    let sum = A::icmp_sum(source, packet.source(), message.len());
    let checksum = sum.octets(message).checksum();
    icmpv4::Header::writable(message)?.set_checksum(checksum);
    ethernet::Header::writable(octets)?.turn_round();
    Some(ethernet::HEADER_BYTES + ip_bytes)
}
