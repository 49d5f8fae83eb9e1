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

/// Recomputes the header checksum in full.
pub fn fix_ip_checksum(frame: &mut [u8]) {
    let end = ETHERNET + header_bytes(frame);
    frame[24..26].fill(0);
    let sum = slow_sum(&frame[ETHERNET..end]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

pub fn header_bytes(frame: &[u8]) -> usize {
    usize::from(frame[ETHERNET] & 15) * 4
}

fn word(frame: &[u8], at: usize) -> usize {
    usize::from(frame[at]) << 8 | usize::from(frame[at + 1])
}

/// Gives a whole packet an identification and lets it be cut.
pub fn fragmentable(mut frame: Vec<u8>, identification: u16) -> Vec<u8> {
    frame[18..20].copy_from_slice(&identification.to_be_bytes());
    frame[20] = 0;
    fix_ip_checksum(&mut frame);
    frame
}

/// One piece of a packet without options: the data from `start` to `end`.
pub fn piece(frame: &[u8], start: usize, end: usize) -> Vec<u8> {
    let data = ETHERNET + 20;
    let more = data + end < frame.len();
    raw_piece(frame, start, &frame[data + start..data + end], more)
}

/// A fragment that says what it is told to: data, its place and whether more follow.
pub fn raw_piece(frame: &[u8], start: usize, data: &[u8], more: bool) -> Vec<u8> {
    let mut piece = frame[..ETHERNET + 20].to_vec();
    piece.extend(data);
    piece[16..18].copy_from_slice(&((20 + data.len()) as u16).to_be_bytes());
    let field = (start / 8) as u16 | if more { 0x2000 } else { 0 };
    piece[20..22].copy_from_slice(&field.to_be_bytes());
    fix_ip_checksum(&mut piece);
    piece
}

/// Cuts a packet without options at the places named, which are multiples of 8.
pub fn cut_at(frame: &[u8], places: &[usize]) -> Vec<Vec<u8>> {
    let end = frame.len() - ETHERNET - 20;
    let starts = std::iter::once(0).chain(places.iter().copied());
    let ends = places.iter().copied().chain([end]);
    starts.zip(ends).map(|(start, end)| piece(frame, start, end)).collect()
}

/// Cuts a packet as a sender on a link of 1,500 octets does.
pub fn cut(frame: &[u8]) -> Vec<Vec<u8>> {
    let places: Vec<_> = (1480..frame.len() - ETHERNET - 20).step_by(1480).collect();
    cut_at(frame, &places)
}

/// Joins fragments, in any order and with duplicates, to whole packets by addresses, protocol and identification.
///
/// The result has the link header and the TTL of the fragments, which must agree. Panics on a wrong checksum, on
/// two opinions about an octet, and on a datagram that is not whole.
pub fn join(fragments: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut datagrams: BTreeMap<Vec<u8>, Vec<&Vec<u8>>> = BTreeMap::new();
    for fragment in fragments {
        assert_eq!(slow_sum(&fragment[ETHERNET..ETHERNET + header_bytes(fragment)]), 0, "IPv4 checksum");
        let id = [&fragment[26..34], &fragment[23..24], &fragment[18..20]].concat();
        datagrams.entry(id).or_default().push(fragment);
    }
    datagrams.into_values().map(|pieces| join_one(&pieces)).collect()
}

fn join_one(pieces: &[&Vec<u8>]) -> Vec<u8> {
    let mut octets: Vec<Option<u8>> = Vec::new();
    let mut end = None;
    for piece in pieces {
        let start = (word(piece, 20) & 0x1fff) * 8;
        let data = &piece[ETHERNET + header_bytes(piece)..ETHERNET + word(piece, 16)];
        if octets.len() < start + data.len() {
            octets.resize(start + data.len(), None);
        }
        for (place, octet) in octets[start..].iter_mut().zip(data) {
            assert!(place.is_none_or(|other| other == *octet), "two opinions about an octet");
            *place = Some(*octet);
        }
        if piece[20] & 0x20 == 0 {
            assert!(end.is_none_or(|end| end == start + data.len()), "two ends");
            end = Some(start + data.len());
        }
    }
    assert_eq!(end, Some(octets.len()), "the end of the datagram");
    let first = pieces.iter().find(|piece| word(piece, 20) & 0x1fff == 0).unwrap();
    let mut whole = first[..ETHERNET + header_bytes(first)].to_vec();
    whole.extend(octets.iter().map(|octet| octet.unwrap()));
    let bytes = (whole.len() - ETHERNET) as u16;
    whole[16..18].copy_from_slice(&bytes.to_be_bytes());
    whole[20..22].fill(0);
    fix_ip_checksum(&mut whole);
    whole
}
