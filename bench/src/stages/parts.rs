//! What a packet goes through without the flow table: parsing, choosing a backend, rewriting, checksums.

use std::hint::black_box;
use std::net::Ipv4Addr;

use tidegate_dataplane::flows::Key;
use tidegate_dataplane::net::Protocol;
use tidegate_dataplane::net::checksum::{Difference, Sum};
use tidegate_dataplane::packet::{Packet, Parsed};
use tidegate_dataplane::rewrite::Rewrite;
use tidegate_dataplane::services::Called;
use tidegate_dataplane::worker::BURST;

use super::{Recipe, Stage};
use crate::bursts::time;
use crate::{cluster, packet};

pub(super) fn recipes() -> Vec<Recipe> {
    vec![
        Recipe::new("parse", parse),
        Recipe::new("choose", choose),
        Recipe::new("rewrite", rewrite),
        Recipe::new("checksum/difference", difference),
        Recipe::new("checksum/header", header_sum),
    ]
}

fn keys() -> Vec<Key> {
    (0..BURST as u32).map(|number| cluster::request(number, Protocol::Udp)).collect()
}

/// Ethernet, IPv4 with its checksum, UDP.
fn parse() -> Stage {
    let frames: Vec<_> = keys().iter().map(packet::udp).collect();
    Stage::new(BURST, move || {
        let parse = |frame: &[u8]| Packet::<Ipv4Addr>::parse_plain(black_box(frame));
        time(|| frames.iter().filter(|frame| black_box(parse(&frame[..])).is_some()).count())
    })
}

/// Service port by address and port, backend by Maglev.
fn choose() -> Stage {
    let (keys, snapshot) = (keys(), cluster::snapshot());
    Stage::new(BURST, move || {
        let chosen =
            |key: &Key| match snapshot.called(key.destination().into(), key.protocol, key.destination_port())
            {
                Called::Port(port) => port.backends.choose(key).is_some(),
                _ => false,
            };
        time(|| keys.iter().filter(|key| chosen(black_box(key))).count())
    })
}

/// Addresses, ports, TTL and both checksums of a UDP datagram.
fn rewrite() -> Stage {
    let snapshot = cluster::snapshot();
    let prepare = |key: &Key| {
        let frame = packet::udp(key);
        let Ok(Parsed::Ipv4(packet)) = Parsed::parse(&frame) else { panic!("a good packet") };
        let reply = cluster::reply(key, &snapshot).expect("every Service has backends");
        (frame, packet, Rewrite::between(key, &reply.reversed()))
    };
    let fresh: Vec<([u8; packet::PACKET_BYTES], Packet, Rewrite)> = keys().iter().map(prepare).collect();
    Stage::new(BURST, move || {
        let mut burst = fresh.clone();
        time(|| {
            for (frame, packet, rewrite) in &mut burst {
                rewrite.apply(black_box(frame), packet).expect("the frame that was parsed");
            }
            burst
        })
    })
}

/// What a checksum costs that is changed by difference.
fn difference() -> Stage {
    let differences: Vec<(Difference, [u8; 2])> =
        (1..=BURST as u16).map(|number| (Difference(number * 997), number.to_be_bytes())).collect();
    Stage::new(BURST, move || {
        time(|| {
            differences
                .iter()
                .map(|(by, sum)| u16::from_be_bytes(black_box(by).apply(*sum)))
                .fold(0, u16::wrapping_add)
        })
    })
}

/// What a checksum costs that is summed over 20 octets of IPv4 header.
fn header_sum() -> Stage {
    let headers: Vec<[u8; 20]> = (0..BURST as u8).map(|number| [number; 20]).collect();
    Stage::new(BURST, move || {
        time(|| {
            let sum =
                |header: &[u8; 20]| u16::from_be_bytes(Sum::default().octets(black_box(header)).checksum());
            headers.iter().map(sum).fold(0, u16::wrapping_add)
        })
    })
}
