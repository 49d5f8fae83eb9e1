//! What inputs are made of at first: conversations as they are meant to be, over both families.

use super::mutation::pieces;
use super::random::Random;
use super::step::Step;
use super::wire::{self, LINK};
use crate::path_rig::*;
use tidegate_dataplane::net::Mac;

/// Addresses that mean something to the gateway, or to nobody.
pub const ADDRESSES: [[u8; 4]; 18] = [
    CLIENT,
    VIP,
    OTHER_VIP,
    EMPTY_VIP,
    ELSEWHERE_VIP,
    LOCAL_VIP,
    UNROUTED_VIP,
    QUIET_VIP,
    HAIRPIN_VIP,
    UNALLOCATED,
    POD,
    QUIET_POD,
    GATEWAY,
    POD_SIDE_GATEWAY,
    [0; 4],
    [255; 4],
    [127, 0, 0, 1],
    [224, 0, 0, 1],
];
/// Ports that mean something, or are extreme. A client's that is a masquerade port keeps its number.
pub const PORTS: [u16; 8] = [80, 8080, 40_000, 61_000, 0, 53, 81, 65_535];

const C: ([u8; 4], u16) = (CLIENT, 40_000);
const V: ([u8; 4], u16) = (VIP, 80);
const P: ([u8; 4], u16) = (POD, 8080);

fn over_both<T>(seeds: impl Fn() -> Vec<T>) -> Vec<T> {
    let ipv6 = over_ipv6(&seeds);
    seeds().into_iter().chain(ipv6).collect()
}

/// Associations, connections, questions and answers; one input each.
pub fn conversations() -> Vec<Vec<Step>> {
    over_both(|| {
        let mut seeds = vec![
            association(),
            connection(),
            exchange(C, V),
            vec![
                Step::Client(ping(FROM_CLIENT, CLIENT, VIP, 64, false)),
                Step::Client(ping(FROM_CLIENT, CLIENT, UNALLOCATED, 64, false)),
            ],
        ];
        for vip in [EMPTY_VIP, ELSEWHERE_VIP, LOCAL_VIP, UNROUTED_VIP, QUIET_VIP, OTHER_VIP] {
            let mut steps = exchange(C, (vip, 80));
            steps.push(Step::Client(tcp(FROM_CLIENT, (C, (vip, 80)), 64, "S", b"")));
            steps.push(Step::Wait(5_000));
            seeds.push(steps);
        }
        let hairpin = ((CLIENT, 61_000), (HAIRPIN_VIP, 80));
        let back = ((CLIENT, 80), (GATEWAY, 61_000));
        seeds.push(vec![
            Step::Client(udp(FROM_CLIENT, hairpin, 64, b"to myself")),
            Step::Client(udp(FROM_CLIENT, back, 64, b"from myself")),
        ]);
        let mut without = udp(FROM_CLIENT, (C, V), 64, b"no checksum");
        without[LINK + ip_header_bytes() + 6..][..2].fill(0);
        seeds.push(vec![
            Step::Client(without),
            Step::Client(udp(FROM_CLIENT, (C, V), 1, b"no further")),
            Step::Client(tcp(FROM_CLIENT, (C, V), 64, "A", &[7; 1446])),
            Step::Client(tcp(FROM_CLIENT, (C, V), 64, "R", b"")),
            Step::Client(tcp(FROM_CLIENT, (C, (VIP, 81)), 64, "FA", b"nothing here")),
        ]);
        seeds
    })
}

fn exchange(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<Step> {
    vec![
        Step::Client(udp(FROM_CLIENT, (from, to), 64, b"question")),
        Step::Pod(udp(FROM_POD, (P, from), 64, b"answer")),
        Step::Client(udp(FROM_CLIENT, (from, to), 64, b"question, again")),
    ]
}

fn connection() -> Vec<Step> {
    let client = |flags, payload: &[u8]| Step::Client(tcp(FROM_CLIENT, (C, V), 64, flags, payload));
    let pod = |flags, payload: &[u8]| Step::Pod(tcp(FROM_POD, (P, C), 64, flags, payload));
    vec![
        client("S", b""),
        pod("SA", b""),
        client("A", b"GET /"),
        pod("A", b"200 OK"),
        pod("FA", b""),
        client("FA", b""),
        pod("A", b""),
        Step::Wait(1_000),
        client("S", b""),
    ]
}

fn association() -> Vec<Step> {
    let client = |tag, chunks: &[u8]| Step::Client(sctp(FROM_CLIENT, (C, V), tag, chunks));
    let pod = |tag, chunks: &[u8]| Step::Pod(sctp(FROM_POD, (P, C), tag, chunks));
    let init = |kind| [&[kind, 0, 0, 20, 0, 0, 0, 9, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1][..]].concat();
    vec![
        client([0; 4], &init(1)),
        pod([0, 0, 0, 9], &init(2)),
        client(
            [0, 0, 0, 9],
            &[10, 0, 0, 8, 1, 2, 3, 4, 0, 3, 0, 17, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0],
        ),
        pod([0, 0, 0, 9], &[11, 0, 0, 4]),
        client([0, 0, 0, 9], &[4, 0, 0, 8, 0, 1, 0, 4]),
        pod([0, 0, 0, 9], &[5, 0, 0, 8, 0, 1, 0, 4]),
        client([0, 0, 0, 9], &[7, 0, 0, 8, 0, 0, 0, 1]),
        pod([0, 0, 0, 9], &[8, 0, 0, 4]),
        client([0, 0, 0, 9], &[14, 0, 0, 4]),
        client([0, 0, 0, 9], &[6, 0, 0, 4]),
    ]
}

fn sctp(macs: (Mac, Mac), ends: Ends, tag: [u8; 4], chunks: &[u8]) -> Vec<u8> {
    let mut frame = udp(macs, ends, 64, &[&[0; 4], chunks].concat());
    let transport = LINK + ip_header_bytes();
    frame[transport + 4..transport + 8].copy_from_slice(&tag);
    frame[LINK + if is_ipv6() { 6 } else { 9 }] = 132;
    wire::mend(&mut frame, true);
    frame
}

/// Datagrams and segments in pieces, both ways; the flow first.
pub fn fragmented() -> Vec<Vec<Step>> {
    over_both(|| {
        let payload: Vec<u8> = (0..1_200_u16).map(|number| (number * 7) as u8).collect();
        let mut seeds = vec![];
        for turn in 0..4 {
            let mut random = Random::new(turn);
            let mut steps = exchange(C, V);
            let question = udp(FROM_CLIENT, (C, V), 64, &payload);
            let answer = udp(FROM_POD, (P, C), 64, &payload);
            let echo = ping(FROM_CLIENT, CLIENT, VIP, 64, false);
            let refused = udp(FROM_CLIENT, (C, (EMPTY_VIP, 80)), 64, &payload);
            steps.extend(pieces(&mut random, &question).into_iter().map(Step::Client));
            steps.push(Step::Wait(1_000));
            steps.extend(pieces(&mut random, &answer).into_iter().map(Step::Pod));
            steps.extend(pieces(&mut random, &echo).into_iter().map(Step::Client));
            steps.extend(pieces(&mut random, &refused).into_iter().map(Step::Client));
            steps.push(Step::Wait(31_000));
            seeds.push(steps);
        }
        seeds
    })
}

/// Errors about packets of flows, from the other end and from routers, both ways.
pub fn errors() -> Vec<Vec<Step>> {
    over_both(|| {
        let mut seeds = vec![];
        for says in [port_unreachable(), time_exceeded(), too_big(1280)] {
            let question = ip_of(&udp(TO_POD, (C, P), 63, b"question"));
            let answer = ip_of(&udp(TO_CLIENT, (V, C), 63, b"answer"));
            let segment = ip_of(&tcp(TO_POD, (C, P), 63, "A", b"a segment of some length"));
            let nested = ip_of(&icmp_error(FROM_POD, POD, CLIENT, 64, says, &question));
            let mut steps = exchange(C, V);
            steps.truncate(2);
            steps.push(Step::Client(tcp(FROM_CLIENT, (C, V), 64, "S", b"")));
            steps.push(Step::Pod(icmp_error(FROM_POD, POD, CLIENT, 64, says, &question)));
            steps.push(Step::Pod(icmp_error(FROM_POD, [192, 0, 2, 66], CLIENT, 64, says, &segment)));
            steps.push(Step::Pod(icmp_error(
                FROM_POD,
                POD,
                CLIENT,
                64,
                says,
                &segment[..segment.len() - 20],
            )));
            steps.push(Step::Client(icmp_error(FROM_CLIENT, CLIENT, VIP, 64, says, &answer)));
            steps.push(Step::Client(icmp_error(FROM_CLIENT, CLIENT, VIP, 64, says, &nested)));
            seeds.push(steps);
        }
        seeds
    })
}
