//! ARP for addresses that we answer for. Read RFC 826 and RFC 5227 first.

use std::net::Ipv4Addr;

use tidegate_dataplane::net::Mac;

/// Octets of a frame with an ARP packet for Ethernet and IPv4.
const FRAME_BYTES: usize = 42;
const ETHERTYPE: [u8; 2] = [0x08, 0x06];
/// Ethernet, IPv4, and the lengths of their addresses.
const FORMAT: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// Answers a frame if it is a request for an address that is ours.
///
/// A request whose sender already has the address that it asks for is an announcement: nobody answers it. One from
/// 0.0.0.0 is a probe, and answered, so that the asker does not take the address (RFC 5227 §2.1.1).
pub(super) fn answer(frame: &[u8], own: Mac, is_ours: impl Fn(Ipv4Addr) -> bool) -> Option<Vec<u8>> {
    let (ethernet, arp) = frame.split_first_chunk::<14>()?;
    let [_, _, _, _, _, _, _, _, _, _, _, _, ethertype @ ..] = *ethernet;
    let (format, arp) = arp.split_first_chunk::<6>()?;
    let (operation, arp) = arp.split_first_chunk::<2>()?;
    let (sender_mac, arp) = arp.split_first_chunk::<6>()?;
    let (sender, arp) = arp.split_first_chunk::<4>()?;
    let (_nobody, arp) = arp.split_first_chunk::<6>()?;
    let target = arp.first_chunk::<4>()?;
    let is_request = ethertype == ETHERTYPE && *format == FORMAT && *operation == REQUEST;
    if !is_request || sender == target || !is_ours(Ipv4Addr::from(*target)) {
        return None;
    }
    Some(packet(Mac(*sender_mac), REPLY, (own, *target), (Mac(*sender_mac), *sender)))
}

/// Says to all on the link that an address is ours: an ARP Announcement (RFC 5227 §2.3).
pub(super) fn announcement(own: Mac, address: Ipv4Addr) -> Vec<u8> {
    let octets = address.octets();
    packet(Mac([0xff; 6]), REQUEST, (own, octets), (Mac([0; 6]), octets))
}

fn packet(
    to: Mac,
    operation: [u8; 2],
    (sender_mac, sender): (Mac, [u8; 4]),
    (target_mac, target): (Mac, [u8; 4]),
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_BYTES);
    for part in [&to.0[..], &sender_mac.0, &ETHERTYPE, &FORMAT, &operation] {
        frame.extend(part);
    }
    for part in [&sender_mac.0[..], &sender, &target_mac.0, &target] {
        frame.extend(part);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const ASKER: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);

    fn request(sender: [u8; 4], target: Ipv4Addr) -> Vec<u8> {
        packet(Mac([0xff; 6]), REQUEST, (ASKER, sender), (Mac([0; 6]), target.octets()))
    }

    fn answered(frame: &[u8]) -> Option<Vec<u8>> {
        answer(frame, OWN, |address| address == VIP)
    }

    #[test]
    fn a_request_for_an_address_of_ours_is_answered_to_the_asker() {
        let frame = answered(&request([10, 1, 0, 2], VIP)).unwrap();
        #[rustfmt::skip]
        let expected = [
            2, 0, 0, 0, 0, 9,  2, 0, 0, 0, 0, 1,  8, 6,
            0, 1, 8, 0, 6, 4, 0, 2,
            2, 0, 0, 0, 0, 1,  10, 1, 0, 100,
            2, 0, 0, 0, 0, 9,  10, 1, 0, 2,
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn a_probe_is_answered_and_an_announcement_a_reply_and_another_address_are_not() {
        assert!(answered(&request([0; 4], VIP)).is_some());
        assert_eq!(answered(&request(VIP.octets(), VIP)), None);
        assert_eq!(answered(&request([10, 1, 0, 2], Ipv4Addr::new(10, 1, 0, 101))), None);
        let reply = packet(OWN, REPLY, (ASKER, [10, 1, 0, 2]), (OWN, VIP.octets()));
        assert_eq!(answered(&reply), None);
    }

    #[test]
    fn what_is_cut_short_or_of_another_format_is_not_answered() {
        let whole = request([10, 1, 0, 2], VIP);
        for length in 0..whole.len() {
            assert_eq!(answered(&whole[..length]), None, "{length} octets");
        }
        for position in 12..20 {
            let mut bent = whole.clone();
            bent[position] ^= 1;
            assert_eq!(answered(&bent), None, "octet {position}");
        }
        assert_eq!(answered(&[&whole[..], &[0; 18]].concat()), answered(&whole), "Ethernet pads");
    }
}
