//! Changed frames through every parser: nothing panics, and facts agree with an independent decoder.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod fuzz_rig;
mod path_rig;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::Discriminant;
use std::net::IpAddr;

use etherparse::{SlicedPacket, TransportSlice};
use fuzz_rig::step::Step;
use fuzz_rig::wire::{self, LINK};
use fuzz_rig::{Subject, Target, seeds};
use tidegate_dataplane::net::{Address, header_chain, icmpv4, icmpv6, ipv4, ipv6, sctp, tcp, udp};
use tidegate_dataplane::packet::{Packet, Parsed, Transport};

struct Parsers;

impl Subject for Parsers {
    fn take(&mut self, step: &Step) -> u64 {
        let mut hasher = DefaultHasher::new();
        if let Some(frame) = step.frame() {
            every_view_of_any_octets(frame);
            plain_packets_are_parsed_alike(frame);
            match Parsed::parse(frame) {
                Ok(Parsed::Ipv4(packet)) => {
                    agrees(frame, &packet);
                    kind(&packet, 20).hash(&mut hasher);
                }
                Ok(Parsed::Ipv6(packet)) => {
                    agrees(frame, &packet);
                    kind(&packet, 40).hash(&mut hasher);
                }
                Err(unparsed) => format!("{unparsed:?}").hash(&mut hasher),
            }
        }
        hasher.finish()
    }
}

/// What a packet carries, by which header, and whether there is something between.
fn kind<A: Address>(packet: &Packet<A>, header_bytes: usize) -> (usize, bool, Discriminant<Transport>, bool) {
    let is_plain = packet.transport_offset == LINK + header_bytes;
    (header_bytes, is_plain, std::mem::discriminant(&packet.transport), packet.is_fragment)
}

/// What nearly all packets are is parsed in one of two ways, which agree; and no other packet is taken for that.
fn plain_packets_are_parsed_alike(frame: &[u8]) {
    let parsed = Parsed::parse(frame).ok();
    let is_plain = parsed.as_ref().is_some_and(|parsed| match parsed {
        Parsed::Ipv4(packet) => is_plain(packet, 20),
        Parsed::Ipv6(packet) => is_plain(packet, 40),
    });
    let ipv4 = Packet::parse_plain(frame).map(Parsed::Ipv4);
    let plain = ipv4.or_else(|| Packet::parse_plain(frame).map(Parsed::Ipv6));
    assert_eq!(plain, parsed.filter(|_| is_plain));
}

fn is_plain<A: Address>(packet: &Packet<A>, header_bytes: usize) -> bool {
    let has_ports = matches!(packet.transport, Transport::Tcp(..) | Transport::Udp(_));
    has_ports && !packet.is_fragment && packet.transport_offset == LINK + header_bytes
}

/// Every view takes any octets.
fn every_view_of_any_octets(frame: &[u8]) {
    for at in [0, LINK, LINK + 20, LINK + 28, LINK + 40, LINK + 48] {
        let Some(octets) = frame.get(at..) else { return };
        if let Some(header) = ipv4::Header::parse(octets) {
            assert!(20 <= header.header_bytes() && header.header_bytes() <= header.total_bytes());
            assert!(header.total_bytes() <= octets.len());
        }
        if let Some(header) = ipv6::Header::parse_cut(octets)
            && let Ok(chain) = header_chain::HeaderChain::parse(header, octets)
        {
            assert!(chain.upper_offset <= octets.len().min(header.total_bytes()));
        }
        assert!(tcp::Header::parse(octets).is_none_or(|header| header.header_bytes() <= octets.len()));
        assert!(udp::Header::parse(octets).is_none() || udp::Header::parse_first(octets).is_some());
        assert!(sctp::Chunks::parse(octets).is_none() || sctp::Header::parse(octets).is_some());
        assert_eq!(icmpv4::Header::parse(octets).is_some(), octets.len() >= 8);
        assert_eq!(icmpv6::Header::parse(octets).is_some(), octets.len() >= 8);
    }
}

/// What was parsed lies in the frame, does not depend on padding, and is what other decoders find.
fn agrees<A: Address + PartialEq>(frame: &[u8], packet: &Packet<A>) {
    assert!(packet.transport_offset <= packet.end && packet.end <= frame.len());
    let is_hidden = packet.transport == Transport::Hidden;
    let source: IpAddr = packet.source().into();
    assert_eq!(is_hidden, source.is_ipv6() && wire::hides_its_transport(frame));
    if !is_hidden {
        let places = wire::places(frame).unwrap();
        assert_eq!((packet.transport_offset, packet.end), (places.transport, places.end));
        assert_eq!(packet.is_fragment, places.fragment.is_some());
        assert!(wire::is_header_right(frame, places));
    }
    let (source, destination) = wire::addresses(frame).unwrap();
    assert_eq!(
        (octets(packet.source()), octets(packet.destination())),
        (source.to_vec(), destination.to_vec())
    );
    for padding in [0x00, 0xff] {
        let padded = [frame, &[padding; 20]].concat();
        assert_eq!(format!("{:?}", Parsed::parse(&padded)), format!("{:?}", Parsed::parse(frame)));
    }
    let Ok(known) = SlicedPacket::from_ethernet(frame) else { return };
    let Some(key) = packet.key() else { return };
    let ports = match known.transport {
        Some(TransportSlice::Tcp(segment)) => (segment.source_port(), segment.destination_port()),
        Some(TransportSlice::Udp(datagram)) => (datagram.source_port(), datagram.destination_port()),
        _ => return,
    };
    assert_eq!((key.source_port().number(), key.destination_port().number()), ports);
}

fn octets(address: impl Into<IpAddr>) -> Vec<u8> {
    match address.into() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn target() -> Target<Parsers> {
    let seeds = [seeds::conversations(), seeds::fragmented(), seeds::errors()].concat();
    Target { name: "parse", subject: || Parsers, seeds, inputs: 40_000 }
}

/// Found by mutations: the other decoders walked on where ours must not.
#[test]
fn a_chain_of_headers_of_one_octet_too_many_hides_its_transport_and_one_of_the_most_does_not() {
    let question = path_rig::over_ipv6(|| {
        path_rig::udp(
            path_rig::FROM_CLIENT,
            ((path_rig::CLIENT, 40_000), (path_rig::VIP, 80)),
            64,
            b"question",
        )
    });
    for (headers, is_hidden) in [(&[127][..], false), (&[128], true), (&[0; 8], false), (&[0; 9], true)] {
        let mut frame = question.clone();
        for words in headers {
            let options = [&[frame[20], *words][..], &vec![0; 6 + 8 * usize::from(*words)]].concat();
            frame.splice(54..54, options);
            frame[20] = 60;
        }
        let length = (frame.len() - 54) as u16;
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        let Ok(Parsed::Ipv6(packet)) = Parsed::parse(&frame) else { panic!("{headers:?}") };
        assert_eq!(packet.transport == Transport::Hidden, is_hidden, "{headers:?}");
        agrees(&frame, &packet);
    }
}

#[test]
fn every_frame_of_the_corpus_is_parsed_as_other_decoders_do() {
    target().replay();
}

#[test]
fn changed_frames_are_parsed_as_other_decoders_do() {
    target().discover();
}
