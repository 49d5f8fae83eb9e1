//! IPv6 extension headers, written into packets that the builders make without.
#![allow(missing_docs, unreachable_pub, reason = "a test crate's module")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

/// An extension header: its kind, and its octets behind the one that names the next.
#[derive(Clone, Debug)]
pub struct Extension(pub u8, pub Vec<u8>);

/// A header of options that takes so many times 8 octets, with nothing but padding in it.
fn padding(kind: u8, eights: usize) -> Extension {
    let pad = eights * 8 - 4;
    let (length, pad_n) = (eights as u8 - 1, [1, pad.min(255) as u8]);
    Extension(kind, [&[length], &pad_n[..], &vec![0; pad]].concat())
}

pub fn hop_by_hop(eights: usize) -> Extension {
    padding(0, eights)
}

pub fn destination_options(eights: usize) -> Extension {
    padding(60, eights)
}

pub fn routing(segments_left: u8) -> Extension {
    Extension(43, [&[2, 0, segments_left][..], &[0; 20]].concat())
}

pub fn authentication() -> Extension {
    Extension(51, [&[4][..], &[0; 2], &[7; 20]].concat())
}

pub fn fragment(offset: u16, more: bool, identification: u8) -> Extension {
    let [high, low] = (offset | u16::from(more)).to_be_bytes();
    Extension(44, vec![0, high, low, 0, 0, 0, identification])
}

/// Puts headers in front of what an IPv6 packet carries.
pub fn chained_packet(packet: &[u8], chain: &[Extension]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    for Extension(kind, octets) in chain.iter().rev() {
        let next = std::mem::replace(&mut packet[6], *kind);
        packet.splice(40..40, [&[next][..], octets].concat());
    }
    let payload = (packet.len() - 40) as u16;
    packet[4..6].copy_from_slice(&payload.to_be_bytes());
    packet
}

/// The same in a frame.
pub fn chained(frame: &[u8], chain: &[Extension]) -> Vec<u8> {
    [&frame[..14], &chained_packet(&frame[14..], chain)].concat()
}
