//! Neighbor Discovery for addresses that we answer for. Read RFC 4861 §4.3, §4.4 and §7.2 first.

use std::net::Ipv6Addr;

use tidegate_dataplane::net::Mac;
use tidegate_dataplane::net::checksum::pseudo_header;
use tidegate_dataplane::net::ethernet::ETHERTYPE_IPV6;
use tidegate_dataplane::net::ipv6::PROTOCOL_ICMPV6;

pub(super) const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Octets of an advertisement with the option that bears our link-layer address.
const ADVERTISEMENT_BYTES: u16 = 32;
/// Source: RFC 4861 §7.1.1: what came through a router is no neighbour's.
const HOP_LIMIT: u8 = 255;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Returns the group that solicitations for an address go to (RFC 4291 §2.7.1).
pub(super) const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a as u16, u16::from_be_bytes([b, c]))
}

/// Answers a frame if it is a valid solicitation for an address that is ours.
///
/// One without a source is from somebody who wants to take the address: all nodes are answered (RFC 4861 §7.2.4).
pub(super) fn answer(frame: &[u8], own: Mac, is_ours: impl Fn(Ipv6Addr) -> bool) -> Option<Vec<u8>> {
    let (_to, frame) = frame.split_first_chunk::<6>()?;
    let (asker, frame) = frame.split_first_chunk::<6>()?;
    let (ethertype, packet) = frame.split_first_chunk::<2>()?;
    let (header, rest) = packet.split_first_chunk::<40>()?;
    let [version, _, _, _, high, low, next_header, hop_limit, addresses @ ..] = *header;
    let length = u16::from_be_bytes([high, low]);
    let (source, destination) = addresses.split_first_chunk::<16>()?;
    let (source, destination) = (Ipv6Addr::from(*source), Ipv6Addr::from(*destination.first_chunk::<16>()?));
    let message = rest.get(..usize::from(length))?;
    let ([kind, code, _, _, _, _, _, _], target) = message.split_first_chunk::<8>()?;
    let target = Ipv6Addr::from(*target.first_chunk::<16>()?);
    let sum = pseudo_header(source, destination, PROTOCOL_ICMPV6, length).octets(message);
    let is_solicitation = *ethertype == ETHERTYPE_IPV6
        && version >> 4 == 6
        && next_header == PROTOCOL_ICMPV6
        && hop_limit == HOP_LIMIT
        && (*kind, *code) == (NEIGHBOR_SOLICITATION, 0)
        && sum.checksum() == [0, 0];
    if !is_solicitation || !is_ours(target) {
        return None;
    }
    Some(if source.is_unspecified() {
        advertisement(own, target, (Mac([0x33, 0x33, 0, 0, 0, 1]), ALL_NODES), OVERRIDE)
    } else {
        advertisement(own, target, (Mac(*asker), source), SOLICITED | OVERRIDE)
    })
}

/// Says to all on the link that an address is ours: an unsolicited advertisement (RFC 4861 §7.2.6).
pub(super) fn announcement(own: Mac, address: Ipv6Addr) -> Vec<u8> {
    advertisement(own, address, (Mac([0x33, 0x33, 0, 0, 0, 1]), ALL_NODES), OVERRIDE)
}

/// The source is the target itself. It does not say that we are a router: nobody is to route by this address.
fn advertisement(own: Mac, target: Ipv6Addr, (mac, to): (Mac, Ipv6Addr), flags: u8) -> Vec<u8> {
    // Option 2, target link-layer address, of one unit of eight octets.
    let fields = [&[flags, 0, 0, 0][..], &target.octets(), &[2, 1], &own.0].concat();
    let sum = pseudo_header(target, to, PROTOCOL_ICMPV6, ADVERTISEMENT_BYTES)
        .octets(&[NEIGHBOR_ADVERTISEMENT, 0])
        .octets(&fields);
    let length = ADVERTISEMENT_BYTES.to_be_bytes();
    let header = [&[0x60, 0, 0, 0][..], &length, &[PROTOCOL_ICMPV6, HOP_LIMIT]].concat();
    let ethernet = [&mac.0[..], &own.0, &ETHERTYPE_IPV6].concat();
    let message = [&[NEIGHBOR_ADVERTISEMENT, 0][..], &sum.checksum(), &fields].concat();
    [&ethernet[..], &header, &target.octets(), &to.octets(), &message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const ASKER: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const VIP: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x100);
    const CLIENT: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2);

    fn solicitation(source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
        let destination = solicited_node(target);
        let fields = [&[0; 4][..], &target.octets(), &[1, 1], &ASKER.0].concat();
        let sum = pseudo_header(source, destination, PROTOCOL_ICMPV6, 32).octets(&[135, 0]).octets(&fields);
        let ethernet = [&[0x33, 0x33, 0xff, 0, 1, 0][..], &ASKER.0, &[0x86, 0xdd]].concat();
        let header = [0x60, 0, 0, 0, 0, 32, 58, 255];
        let message = [&[135, 0][..], &sum.checksum(), &fields].concat();
        [&ethernet[..], &header, &source.octets(), &destination.octets(), &message].concat()
    }

    fn answered(frame: &[u8]) -> Option<Vec<u8>> {
        answer(frame, OWN, |address| address == VIP)
    }

    #[test]
    fn the_group_of_an_address_is_made_of_its_last_three_octets() {
        let address: Ipv6Addr = "4037::01:800:200e:8c6c".parse().unwrap();
        assert_eq!(solicited_node(address), "ff02::1:ff0e:8c6c".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn a_solicitation_for_an_address_of_ours_is_answered_to_the_asker() {
        let frame = answered(&solicitation(CLIENT, VIP)).unwrap();
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!((&frame[..6], &frame[6..12]), (&ASKER.0[..], &OWN.0[..]));
        assert_eq!((&frame[22..38], &frame[38..54]), (&VIP.octets()[..], &CLIENT.octets()[..]));
        assert_eq!((frame[21], frame[54], frame[58]), (255, 136, 0x60), "hop limit, type, flags");
        assert_eq!((&frame[62..78], &frame[78..]), (&VIP.octets()[..], &[2, 1, 2, 0, 0, 0, 0, 1][..]));
        let sum = pseudo_header(VIP, CLIENT, 58, 32).octets(&frame[54..]);
        assert_eq!(sum.checksum(), [0, 0]);
    }

    #[test]
    fn one_who_wants_the_address_is_told_before_all_nodes() {
        let frame = answered(&solicitation(Ipv6Addr::UNSPECIFIED, VIP)).unwrap();
        assert_eq!(&frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!((&frame[38..54], frame[58]), (&ALL_NODES.octets()[..], 0x20));
        assert_eq!(frame, announcement(OWN, VIP));
    }

    #[test]
    fn what_is_invalid_or_for_another_is_not_answered() {
        assert_eq!(answered(&solicitation(CLIENT, CLIENT)), None);
        let whole = solicitation(CLIENT, VIP);
        for length in 0..whole.len() {
            assert_eq!(answered(&whole[..length]), None, "{length} octets");
        }
        // Version, next header, hop limit, type, code, checksum; the target, which the checksum covers.
        for position in [12, 14, 20, 21, 54, 55, 56, 62] {
            let mut bent = whole.clone();
            bent[position] ^= 0x10;
            assert_eq!(answered(&bent), None, "octet {position}");
        }
    }
}
