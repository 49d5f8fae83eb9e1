//! Cutting and joining datagrams the slow and obviously right way.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "a test crate's module; not each test uses all")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

pub const ETHERNET: usize = 14;

pub fn slow_sum(octets: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in octets.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Recomputes the checksum of an IPv4 header in full; IPv6 has none.
pub fn fix_ip_checksum(frame: &mut [u8]) {
    if is_ipv6(frame) {
        return;
    }
    let end = ETHERNET + header_bytes(frame);
    frame[24..26].fill(0);
    let sum = slow_sum(&frame[ETHERNET..end]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

fn is_ipv6(frame: &[u8]) -> bool {
    frame[ETHERNET] >> 4 == 6
}

/// Octets in front of a fragment's data, the link's aside; over IPv6 with the fragment header and no other.
pub fn header_bytes(frame: &[u8]) -> usize {
    if is_ipv6(frame) { 48 } else { usize::from(frame[ETHERNET] & 15) * 4 }
}

/// Where TTL or hop limit stand.
pub fn ttl_at(frame: &[u8]) -> usize {
    if is_ipv6(frame) { 21 } else { 22 }
}

/// Octets of data in the longest piece that a link of 1,500 octets takes.
pub fn most_data(frame: &[u8]) -> usize {
    (1500 - header_bytes(frame)) / 8 * 8
}

fn word(frame: &[u8], at: usize) -> usize {
    usize::from(frame[at]) << 8 | usize::from(frame[at + 1])
}

/// Octets of the packet in a frame.
fn packet_bytes(frame: &[u8]) -> usize {
    if is_ipv6(frame) { 40 + word(frame, 18) } else { word(frame, 16) }
}

fn write_packet_bytes(frame: &mut [u8]) {
    let (at, bytes) = if is_ipv6(frame) { (18, frame.len() - 54) } else { (16, frame.len() - ETHERNET) };
    frame[at..at + 2].copy_from_slice(&(bytes as u16).to_be_bytes());
}

/// Where a fragment's data belongs, and whether more follows.
fn place(frame: &[u8]) -> (usize, bool) {
    if is_ipv6(frame) {
        (word(frame, 56) & !7, frame[57] & 1 == 1)
    } else {
        ((word(frame, 20) & 0x1fff) * 8, frame[20] & 0x20 != 0)
    }
}

fn write_place(frame: &mut [u8], start: usize, more: bool) {
    if is_ipv6(frame) {
        frame[56..58].copy_from_slice(&(start as u16 | u16::from(more)).to_be_bytes());
    } else {
        let field = (start / 8) as u16 | if more { 0x2000 } else { 0 };
        frame[20..22].copy_from_slice(&field.to_be_bytes());
    }
}

/// Gives a whole packet an identification and lets it be cut; over IPv6 it becomes an atomic fragment (RFC 6946).
pub fn fragmentable(mut frame: Vec<u8>, identification: u16) -> Vec<u8> {
    let [high, low] = identification.to_be_bytes();
    if is_ipv6(&frame) {
        let header = [frame[20], 0, 0, 0, 0, 0, high, low];
        frame[20] = 44;
        frame.splice(54..54, header);
        write_packet_bytes(&mut frame);
    } else {
        frame[18..20].copy_from_slice(&[high, low]);
        frame[20] = 0;
        fix_ip_checksum(&mut frame);
    }
    frame
}

/// One piece of a packet without options: the data from `start` to `end`.
pub fn piece(frame: &[u8], start: usize, end: usize) -> Vec<u8> {
    let data = ETHERNET + header_bytes(frame);
    let more = data + end < frame.len();
    raw_piece(frame, start, &frame[data + start..data + end], more)
}

/// A fragment that says what it is told to: data, its place and whether more follow.
pub fn raw_piece(frame: &[u8], start: usize, data: &[u8], more: bool) -> Vec<u8> {
    let mut piece = frame[..ETHERNET + header_bytes(frame)].to_vec();
    piece.extend(data);
    write_packet_bytes(&mut piece);
    write_place(&mut piece, start, more);
    fix_ip_checksum(&mut piece);
    piece
}

/// Cuts a packet without options at the places named, which are multiples of 8.
pub fn cut_at(frame: &[u8], places: &[usize]) -> Vec<Vec<u8>> {
    let end = frame.len() - ETHERNET - header_bytes(frame);
    let starts = std::iter::once(0).chain(places.iter().copied());
    let ends = places.iter().copied().chain([end]);
    starts.zip(ends).map(|(start, end)| piece(frame, start, end)).collect()
}

/// Cuts a packet as a sender on a link of 1,500 octets does.
pub fn cut(frame: &[u8]) -> Vec<Vec<u8>> {
    let most = most_data(frame);
    let places: Vec<_> = (most..frame.len() - ETHERNET - header_bytes(frame)).step_by(most).collect();
    cut_at(frame, &places)
}

/// Joins fragments, in any order and with duplicates, to whole packets by what their datagrams have in common.
///
/// The result has the link header and the TTL of the fragments, which must agree. Panics on a wrong checksum, on
/// two opinions about an octet, and on a datagram that is not whole.
pub fn join(fragments: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut datagrams: BTreeMap<Vec<u8>, Vec<&Vec<u8>>> = BTreeMap::new();
    for fragment in fragments {
        let id = if is_ipv6(fragment) {
            [&fragment[22..54], &fragment[58..62]].concat()
        } else {
            assert_eq!(slow_sum(&fragment[ETHERNET..ETHERNET + header_bytes(fragment)]), 0, "IPv4 checksum");
            [&fragment[26..34], &fragment[23..24], &fragment[18..20]].concat()
        };
        datagrams.entry(id).or_default().push(fragment);
    }
    datagrams.into_values().map(|pieces| join_one(&pieces)).collect()
}

fn join_one(pieces: &[&Vec<u8>]) -> Vec<u8> {
    let mut octets: Vec<Option<u8>> = Vec::new();
    let mut end = None;
    for piece in pieces {
        let (start, more) = place(piece);
        let data = &piece[ETHERNET + header_bytes(piece)..ETHERNET + packet_bytes(piece)];
        if octets.len() < start + data.len() {
            octets.resize(start + data.len(), None);
        }
        for (place, octet) in octets[start..].iter_mut().zip(data) {
            assert!(place.is_none_or(|other| other == *octet), "two opinions about an octet");
            *place = Some(*octet);
        }
        if !more {
            assert!(end.is_none_or(|end| end == start + data.len()), "two ends");
            end = Some(start + data.len());
        }
    }
    assert_eq!(end, Some(octets.len()), "the end of the datagram");
    let first = pieces.iter().find(|piece| place(piece).0 == 0).unwrap();
    let mut whole = first[..ETHERNET + header_bytes(first)].to_vec();
    whole.extend(octets.iter().map(|octet| octet.unwrap()));
    write_packet_bytes(&mut whole);
    write_place(&mut whole, 0, false);
    fix_ip_checksum(&mut whole);
    whole
}
