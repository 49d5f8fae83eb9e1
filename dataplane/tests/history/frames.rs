//! Gives packets their octets, with the slow gateway's own encoders.

use super::{CLIENTS, Complaint, DESTINATIONS, Ends, Extension, Lie, Quirk, ROUTER, Sketch, address};
use crate::history::Body;
use crate::path_rig::{CLIENT_MAC, CLIENT_SIDE_MAC};
use crate::slow_gateway::Gateway;
use crate::slow_gateway::chain::{self, FRAGMENT};
use crate::slow_gateway::checksum::{set_word, word};
use crate::slow_gateway::datagram::Five;
use crate::slow_gateway::ip::{self, Headers, IPV6, LINK};
use crate::slow_gateway::packets::{self, Segment};

/// Makes the frames that a packet comes in: one, mostly. If it is in pieces, they bear an identification.
pub fn frames(sketch: &Sketch, gateway: &Gateway, identification: u8) -> Vec<Vec<u8>> {
    let whole = octets(sketch, gateway, identification);
    let Quirk::Pieces { behind, blocks, turn, is_twice } = &sketch.quirk else { return vec![whole] };
    let Ok(Headers { piece: None, is_hidden: false, end, .. }) = Headers::read(&whole) else {
        return vec![whole];
    };
    let whole = &whole[..end];
    let start = if ip::is_ipv6(whole) { LINK + headers_end(whole, *behind) } else { LINK + 20 };
    if !ip::is_ipv6(whole) && whole[LINK] != 0x45 {
        return vec![whole.to_vec()];
    }
    let mut pieces = vec![];
    let mut from = start;
    for blocks in blocks {
        let to = end.min(from + blocks * 8);
        pieces.push((from, to));
        from = to;
    }
    pieces.push((from, end));
    pieces.retain(|(from, to)| from < to);
    let mut frames: Vec<_> =
        pieces.into_iter().map(|(from, to)| fragment(whole, start, from, to, identification)).collect();
    if frames.is_empty() {
        return vec![whole.to_vec()];
    }
    let turn = turn % frames.len();
    frames.rotate_left(turn);
    if *is_twice {
        frames.push(frames[0].clone());
    }
    frames
}

/// Where an IPv6 packet's header ends, or one of its extension headers.
fn headers_end(frame: &[u8], number: usize) -> usize {
    let chain = chain::walk(&frame[LINK..]).unwrap();
    let ends: Vec<_> = [IPV6].into_iter().chain(chain.headers.iter().map(|header| header.end)).collect();
    ends[number % ends.len()]
}

/// One piece of a packet whose data starts at one place of the frame: its octets from one place to another.
fn fragment(whole: &[u8], start: usize, from: usize, to: usize, identification: u8) -> Vec<u8> {
    let more = to < whole.len();
    let mut piece = [&whole[..start], &whole[from..to]].concat();
    if ip::is_ipv6(whole) {
        let offset = (from - start) as u16 | u16::from(more);
        become_ipv6_fragment(&mut piece, start, offset, identification);
    } else {
        set_word(&mut piece, 16, (20 + to - from) as u16);
        set_word(&mut piece, 18, identification.into());
        set_word(&mut piece, 20, if more { 0x2000 } else { 0 } | ((from - start) / 8) as u16);
        ip::mend(&mut piece);
    }
    piece
}

/// Puts a fragment header in at a place where a header of the packet ends.
fn become_ipv6_fragment(frame: &mut Vec<u8>, start: usize, offset_and_more: u16, identification: u8) {
    let chain =
        chain::walk(&frame[LINK..]).unwrap_or(chain::Chain { headers: vec![], protocol: 0, end: IPV6 });
    let before = chain.headers.iter().find(|header| header.end == start - LINK);
    let names_next = LINK + before.map_or(6, |header| header.start);
    let [high, low] = offset_and_more.to_be_bytes();
    let header = [frame[names_next], 0, high, low, 0, 0, 0, identification];
    frame[names_next] = FRAGMENT;
    frame.splice(start..start, header);
    let payload = frame.len() - LINK - IPV6;
    set_word(frame, LINK + 4, payload as u16);
}

/// Makes the octets of a packet. Stations do not decide anything, so they are always the same.
fn octets(sketch: &Sketch, gateway: &Gateway, identification: u8) -> Vec<u8> {
    let stations = [CLIENT_SIDE_MAC.0, CLIENT_MAC.0].concat().try_into().unwrap();
    let protocol = match sketch.body {
        Body::Tcp(_) => 6,
        Body::Udp { .. } => 17,
        Body::IcmpError(Complaint { protocol, .. }) => protocol,
        Body::Echo(_) | Body::Icmp(_) => 1,
        Body::Sctp { .. } | Body::Noise(_) => 132,
    };
    let ends = ends(&sketch.ends, protocol, gateway);
    let is_ipv6 = ends.source.is_ipv6();
    let mut octets = match &sketch.body {
        Body::Tcp(segment) => packets::tcp(stations, ends, sketch.ttl, segment),
        Body::Udp { payload, has_checksum } => {
            let mut octets = packets::udp(stations, ends, sketch.ttl, payload);
            if !has_checksum {
                let checksum = octets.len() - payload.len() - 2;
                set_word(&mut octets, checksum, 0);
            }
            octets
        }
        Body::Echo(message) => {
            let mut message = message.clone();
            message[0] = if is_ipv6 { 128 } else { 8 };
            packets::icmp(stations, ends, sketch.ttl, message)
        }
        Body::Icmp(message) => packets::icmp(stations, ends, sketch.ttl, message.clone()),
        Body::IcmpError(complaint) => {
            let source = if complaint.is_by_end { ends.source } else { address(ROUTER, is_ipv6) };
            let kind = complaint.kinds[usize::from(is_ipv6)];
            let quote = quote(complaint, ends.reversed());
            let message = [&[kind, complaint.code, 0, 0][..], &complaint.rest, &quote].concat();
            packets::icmp(stations, Five { source, ..ends }, sketch.ttl, message)
        }
        Body::Sctp { chunks, wrong_by } => packets::sctp(stations, ends, sketch.ttl, chunks, *wrong_by),
        Body::Noise(octets) => return octets.clone(),
    };
    extend(&mut octets, &sketch.extensions);
    add_quirk(&mut octets, &sketch.quirk, identification);
    if let Some(lie) = &sketch.lie {
        tell(&mut octets, lie);
    }
    octets
}

/// The packet that went the other way, as it comes back in an error.
fn quote(complaint: &Complaint, sent: Five) -> Vec<u8> {
    let payload = complaint.payload.clone();
    let mut packet = match complaint.protocol {
        6 => {
            let segment = Segment { sequence: 1, acknowledgment: 2, flags: 16, window: 3, payload };
            packets::tcp([0; 12], sent, 61, &segment)
        }
        17 => packets::udp([0; 12], sent, 61, &payload),
        1 => {
            let (error, echo) = if sent.source.is_ipv6() { (1, 128) } else { (3, 8) };
            let kind = if complaint.code & 1 == 0 { error } else { echo };
            packets::icmp([0; 12], sent, 61, [&[kind, 0, 0, 0, 0, 0, 0, 0], &payload[..]].concat())
        }
        _ => packets::sctp([0; 12], sent, 61, &[(0, payload)], 0),
    };
    extend(&mut packet, &complaint.extensions);
    let mut quote = packet.split_off(LINK);
    for (place, bits) in &complaint.flips {
        let length = quote.len();
        quote[place % length] ^= bits;
    }
    quote.truncate(complaint.quoted);
    quote
}

fn ends(ends: &Ends, protocol: u8, gateway: &Gateway) -> Five {
    match *ends {
        Ends::OfFlow { place, is_reply } if !gateway.flows.is_empty() => {
            let (mut flows, others): (Vec<_>, Vec<_>) =
                gateway.flows.iter().partition(|flow| flow.request.protocol == protocol);
            if flows.is_empty() {
                flows = others;
            }
            let flow = flows[place % flows.len()];
            let ends = if is_reply { flow.reply } else { flow.request };
            Five { protocol, ..ends }
        }
        Ends::OfFlow { place, .. } => Five {
            protocol,
            source: address(CLIENTS[0], place % 2 == 1),
            source_port: 5,
            destination: address(DESTINATIONS[0], place % 2 == 1),
            destination_port: 80,
        },
        Ends::Fresh { is_ipv6, client, port, destination, service_port } => Five {
            protocol,
            source: address(CLIENTS[client], is_ipv6),
            source_port: port,
            destination: address(DESTINATIONS[destination], is_ipv6),
            destination_port: service_port,
        },
    }
}

/// Puts extension headers in, or as many words of options.
fn extend(octets: &mut Vec<u8>, extensions: &[Extension]) {
    if ip::is_ipv6(octets) {
        for Extension { kind, length, says } in extensions.iter().rev() {
            let bytes = match *kind {
                FRAGMENT => 8,
                chain::AUTHENTICATION => 8 + usize::from(*length) * 4,
                _ => 8 + usize::from(*length) * 8,
            };
            let mut header = vec![0; bytes];
            header[..4].copy_from_slice(&[octets[LINK + 6], *length, 0, *says]);
            octets[LINK + 6] = *kind;
            octets.splice(LINK + IPV6..LINK + IPV6, header);
        }
        let payload = octets.len() - LINK - IPV6;
        set_word(octets, LINK + 4, payload as u16);
    } else {
        let words = extensions.len().min(10);
        octets.splice(34..34, vec![1; words * 4]);
        octets[14] = 0x45 + words as u8;
        let total = word(octets, 16) + words as u16 * 4;
        set_word(octets, 16, total);
        ip::mend(octets);
    }
}

fn add_quirk(octets: &mut Vec<u8>, quirk: &Quirk, identification: u8) {
    let is_ipv6 = ip::is_ipv6(octets);
    match *quirk {
        Quirk::None | Quirk::Pieces { .. } => {}
        Quirk::MayBeCut if is_ipv6 => {}
        Quirk::MayBeCut => {
            octets[20] = 0;
            ip::mend(octets);
        }
        Quirk::Padding(length) => octets.extend(vec![0xee; length]),
        // The same word: flags in front and blocks behind, as IPv4 has it, or the other way round.
        Quirk::Fragment(word) if is_ipv6 => {
            become_ipv6_fragment(octets, LINK + IPV6, word << 3 | word >> 13 & 1, identification);
        }
        Quirk::Fragment(word) => {
            set_word(octets, 18, identification.into());
            set_word(octets, 20, word);
            ip::mend(octets);
        }
        Quirk::Tagged => drop(octets.splice(12..12, [0x81, 0, 0, 7])),
    }
}

fn tell(octets: &mut Vec<u8>, lie: &Lie) {
    for (place, bits) in &lie.flips {
        let length = octets.len();
        octets[place % length] ^= bits;
    }
    let is_whole = |octets: &[u8]| octets.len() >= LINK + 4 * usize::from(octets[LINK] & 15);
    if lie.is_mended && octets.len() >= 34 && octets[LINK] & 15 >= 5 && is_whole(octets) {
        ip::mend(octets);
    }
    if let Some(length) = lie.length {
        octets.truncate(length);
    }
}
