//! Random ICMP errors over both families: those that are right leave right, and no octets disturb the accounts.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod error_rig;
mod path_rig;

use error_rig::*;
use path_rig::*;
use proptest::prelude::*;
use tidegate_dataplane::net::Mac;

/// Octets of options, or of extension headers: four for each word of IPv4, eight for IPv6.
fn options() -> impl Strategy<Value = Vec<[u8; 4]>> {
    proptest::collection::vec(any::<[u8; 4]>(), 0..=10)
}

/// The octets that options take in a header.
fn option_bytes(options: &[[u8; 4]]) -> usize {
    match (is_ipv6(), options.len()) {
        (false, words) => words * 4,
        (true, 0) => 0,
        (true, words) => 8 + (words - 1) * 8,
    }
}

/// Puts options behind the fixed header of an IP packet; over IPv6 as one header of destination options.
fn extended(packet: &[u8], options: &[[u8; 4]]) -> Vec<u8> {
    let header = ip_header_bytes();
    let mut between = vec![];
    let mut packet = packet.to_vec();
    if is_ipv6() && !options.is_empty() {
        between = options.iter().flat_map(|word| [*word, *word].concat()).collect();
        between[..2].copy_from_slice(&[packet[6], options.len() as u8 - 1]);
        packet[6] = 60;
    } else if !is_ipv6() {
        between = options.concat();
        packet[0] = 0x45 + options.len() as u8;
    }
    assert_eq!(between.len(), option_bytes(options));
    let at = if is_ipv6() { 4 } else { 2 };
    let length = u16::from_be_bytes([packet[at], packet[at + 1]]) + between.len() as u16;
    packet[at..at + 2].copy_from_slice(&length.to_be_bytes());
    packet.splice(header..header, between);
    fix_ip_checksum(&mut packet);
    packet
}

/// A packet whose checksums are those of the whole, whatever is cut from it later.
fn segment(ends: Ends, is_tcp: bool, options: &[[u8; 4]], payload: &[u8]) -> Vec<u8> {
    let packet = if is_tcp { tcp(TO_POD, ends, 62, "A", payload) } else { udp(TO_POD, ends, 62, payload) };
    extended(&ip_of(&packet), options)
}

fn error_with_options(
    (macs, source, destination): ((Mac, Mac), [u8; 4], [u8; 4]),
    ttl: u8,
    options: &[[u8; 4]],
    says: Says,
    quote: &[u8],
) -> Vec<u8> {
    let error = icmp_error(macs, source, destination, ttl, says, quote);
    [&error[..14], &extended(&error[14..], options)].concat()
}

/// What a translated error must look like: see its strategy below.
#[derive(Clone, Debug)]
struct Case {
    is_tcp: bool,
    about_request: bool,
    by_end: bool,
    says: Says,
    outer: Vec<[u8; 4]>,
    quoted: Vec<[u8; 4]>,
    payload: Vec<u8>,
    quoted_octets: usize,
    padding: usize,
}

fn case() -> impl Strategy<Value = Case> {
    let says =
        (0..3_usize, any::<u8>(), any::<[u8; 4]>()).prop_map(|(place, code, rest)| (place, code, rest));
    let payload = proptest::collection::vec(any::<u8>(), 0..600);
    let quoted_octets = prop_oneof![8..24_usize, 8..700_usize];
    (any::<[bool; 3]>(), says, options(), options(), payload, quoted_octets, 0..20_usize).prop_map(
        |(
            [is_tcp, about_request, by_end],
            (place, code, rest),
            outer,
            quoted,
            payload,
            quoted_octets,
            padding,
        )| Case {
            is_tcp,
            about_request,
            by_end,
            says: Says(place as u8, code, rest),
            outer,
            quoted,
            payload,
            quoted_octets,
            padding,
        },
    )
}

/// Carries an error there and compares it with what an independent encoder makes of it.
fn translates(case: &Case) -> Result<(), TestCaseError> {
    let Case { is_tcp, about_request, by_end, outer, quoted, payload, .. } = case;
    let mut rig = with_flows();
    let kinds: [u8; 3] = if is_ipv6() { [1, 3, 4] } else { [3, 11, 12] };
    let says = Says(kinds[usize::from(case.says.0)], case.says.1, case.says.2);
    let transport = ip_header_bytes() + option_bytes(quoted);
    let length = transport + case.quoted_octets;
    let whole = |ends| segment(ends, *is_tcp, quoted, payload);
    let came = |ends| cut(&whole(ends), &whole(ends), length, transport, *is_tcp);
    let leaves = |ends, came: Ends| cut(&whole(ends), &whole(came), length, transport, *is_tcp);
    // Where the packet and its error came from and went to: (device, macs, from, to, quote) each.
    let (from, to) = if *about_request {
        let (end, known) = if *by_end { (POD, VIP) } else { (ROUTER, ROUTER) };
        (
            (POD_SIDE, FROM_POD, end, CLIENT, came((C, P))),
            (CLIENT_SIDE, TO_CLIENT, known, CLIENT, leaves((C, V), (C, P))),
        )
    } else {
        let end = if *by_end { CLIENT } else { ROUTER };
        (
            (CLIENT_SIDE, FROM_CLIENT, end, VIP, came((V, C))),
            (POD_SIDE, TO_POD, end, POD, leaves((P, C), (V, C))),
        )
    };
    let mut sent = error_with_options((from.1, from.2, from.3), 64, outer, says, &from.4);
    let mut expected = error_with_options((to.1, to.2, to.3), 63, outer, says, &to.4);
    sent.extend(vec![0xee; case.padding]);
    expected.extend(vec![0xee; case.padding]);
    prop_assert_eq!(rig.one(from.0, &sent), (Out::Device(to.0), expected));
    Ok(())
}

proptest! {
    #[test]
    fn every_translated_error_has_all_its_checksums_right(is_ipv6 in any::<bool>(), case in case()) {
        over_family(is_ipv6, || translates(&case))?;
    }

    #[test]
    fn no_octets_of_an_error_disturb_the_accounts(
        (by_pod, repaired, is_ipv6) in any::<(bool, bool, bool)>(),
        bent in proptest::collection::vec((34..160usize, any::<u8>()), 0..6),
        length in 0..110usize,
    ) {
        over_family(is_ipv6, || {
            let mut rig = with_flows();
            let mut sent = if by_pod {
                icmp_error(FROM_POD, POD, CLIENT, 64, port_unreachable(), &quoted_tcp((C, P)))
            } else {
                icmp_error(FROM_CLIENT, ROUTER, VIP, 64, port_unreachable(), &quoted_tcp((V, C)))
            };
            let message = 14 + ip_header_bytes();
            for (place, value) in bent {
                if let Some(octet) = sent.get_mut(place.max(message)) {
                    *octet = value;
                }
            }
            sent = cut_to(sent, length);
            if repaired && sent.len() >= message + 4 {
                sent[message + 2..message + 4].fill(0);
                let sum = icmp_sum(&sent);
                sent[message + 2..message + 4].copy_from_slice(&sum.to_be_bytes());
            }
            for (out, left) in rig.carry(if by_pod { POD_SIDE } else { CLIENT_SIDE }, &[sent]) {
                if !is_ipv6 {
                    assert_eq!(slow_sum(&left[14..34]), 0);
                }
                if matches!(out, Out::Device(_)) {
                    assert_eq!(icmp_sum(&left), 0);
                }
            }
        });
    }

    #[test]
    fn no_octets_at_all_disturb_the_accounts(
        is_ipv6 in any::<bool>(),
        message in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        over_family(is_ipv6, || {
            let mut rig = with_flows();
            for (device, macs, to) in [(POD_SIDE, FROM_POD, CLIENT), (CLIENT_SIDE, FROM_CLIENT, VIP)] {
                let mut sent = icmp_error(macs, ROUTER, to, 64, port_unreachable(), &message);
                // Type and code are the message's own, too.
                let at = 14 + ip_header_bytes();
                sent.splice(at..at + message.len().min(8), message.iter().copied().take(8));
                rig.carry(device, &[sent]);
            }
        });
    }
}
