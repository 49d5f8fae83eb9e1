//! How histories are drawn. What is usual is drawn often enough that flows live, and everything else now and then.

use proptest::prelude::*;

use super::{
    BACKENDS, Body, CLIENTS, Complaint, DESTINATIONS, Ends, Extension, LEADS, Lie, PORTS, Quirk, SERVICES,
    Sketch, Step, hops,
};
use crate::path_rig::POD_MAC;
use crate::slow_gateway::chain;
use crate::slow_gateway::links::Station;
use crate::slow_gateway::packets::Segment;

/// Octets that go up in equal steps: as good as random ones for a checksum, and easier to read.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let lengths = prop_oneof![
        20 => 0..40_usize,
        1 => 500..600_usize,
        1 => 1200..1260_usize,
        2 => 1400..1500_usize,
    ];
    let steps = prop_oneof![1 => Just(0), 4 => any::<u8>()];
    (lengths, steps).prop_map(|(length, step)| (0..length).map(|n| (n as u8).wrapping_mul(step)).collect())
}

fn flags() -> impl Strategy<Value = u8> {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    let usual = prop::sample::select(vec![SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK]);
    prop_oneof![9 => usual, 1 => any::<u8>()]
}

fn body() -> impl Strategy<Value = Body> {
    let segment = (any::<u32>(), any::<u32>(), flags(), any::<u16>(), payload()).prop_map(
        |(sequence, acknowledgment, flags, window, payload)| Segment {
            sequence,
            acknowledgment,
            flags,
            window,
            payload,
        },
    );
    let echo = (payload(), any::<bool>(), any::<u8>()).prop_map(|(payload, is_zero, number)| {
        let identity = if is_zero { [0; 4] } else { [0, 1, 2, number] };
        Body::Echo([&[0; 4], &identity[..], &payload].concat())
    });
    let wrong_by = prop_oneof![9 => Just(0), 1 => any::<u32>()];
    prop_oneof![
        12 => segment.prop_map(Body::Tcp),
        12 => (payload(), prop::bool::weighted(0.9))
            .prop_map(|(payload, has_checksum)| Body::Udp { payload, has_checksum }),
        3 => echo,
        1 => prop::collection::vec(any::<u8>(), 8..40).prop_map(Body::Icmp),
        8 => complaint().prop_map(Body::IcmpError),
        8 => (chunks(), wrong_by).prop_map(|(chunks, wrong_by)| Body::Sctp { chunks, wrong_by }),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Body::Noise),
    ]
}

/// Chunks as they stand together in a packet, and now and then any.
fn chunks() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let value = || prop_oneof![9 => 0..20_usize, 1 => 1300..1440_usize].prop_map(|length| vec![0xab; length]);
    let alone = prop::sample::select(vec![1_u8, 1, 1, 2, 2, 2, 14]);
    let first = prop::option::of(prop::sample::select(vec![10_u8, 11]));
    let others = prop::collection::vec(prop::sample::select(vec![0_u8, 3, 4, 5, 6, 7, 8, 9, 100]), 0..3);
    let together = (first, others).prop_map(|(first, others)| first.into_iter().chain(others).collect());
    let any = prop::collection::vec(0..20_u8, 0..20);
    let kinds = prop_oneof![4 => alone.prop_map(|kind| vec![kind]), 6 => together, 1 => any];
    (kinds, value()).prop_map(|(kinds, value)| {
        let (mut values, small) = (vec![value], vec![1; 5]);
        kinds.into_iter().map(|kind| (kind, values.pop().unwrap_or_else(|| small.clone()))).collect()
    })
}

fn complaint() -> impl Strategy<Value = Complaint> {
    // Unreachable, time exceeded, parameter problem; too long, quench and redirect, and one that nobody has defined.
    let kinds = prop_oneof![
        10 => prop::sample::select(vec![[3, 1], [11, 3], [12, 4]]),
        2 => prop::sample::select(vec![[3, 2], [4, 2], [5, 100]]),
    ];
    let flips = prop::collection::vec((0..90_usize, any::<u8>()), 0..3);
    let flips = prop_oneof![4 => Just(vec![]), 1 => flips];
    let quoted = prop_oneof![1 => 0..80_usize, 2 => 28..550_usize, 1 => 500..1300_usize];
    let protocol = prop_oneof![9 => prop::sample::select(vec![6_u8, 17, 132]), 1 => Just(1)];
    (kinds, any::<(u8, [u8; 4], bool)>(), protocol, payload(), extensions(), flips, quoted).prop_map(
        |(kinds, (code, rest, is_by_end), protocol, payload, extensions, flips, quoted)| Complaint {
            kinds,
            code,
            rest,
            is_by_end,
            protocol,
            payload,
            extensions,
            flips,
            quoted,
        },
    )
}

/// Mostly none; else a few short ones, as many as are walked and more, or one about as long as is walked.
fn extensions() -> impl Strategy<Value = Vec<Extension>> {
    let usual =
        vec![chain::DESTINATION_OPTIONS, chain::AUTHENTICATION, chain::ROUTING, chain::DESTINATION_OPTIONS];
    let kind = prop_oneof![
        12 => prop::sample::select(usual),
        1 => Just(chain::FRAGMENT),
        1 => Just(chain::HOP_BY_HOP),
    ];
    let says = prop_oneof![12 => Just(0_u8), 1 => 0..10_u8];
    let short = (kind, 0..4_u8, says).prop_map(|(kind, length, says)| Extension { kind, length, says });
    let long = (120..132_u8).prop_map(|length| {
        let hop_by_hop = Extension { kind: chain::HOP_BY_HOP, length: 0, says: 0 };
        vec![hop_by_hop, Extension { kind: chain::DESTINATION_OPTIONS, length, says: 0 }]
    });
    let first = prop::option::weighted(0.3, Just(Extension { kind: chain::HOP_BY_HOP, length: 0, says: 0 }));
    let few = (first, prop::collection::vec(short.clone(), 1..4))
        .prop_map(|(first, others)| first.into_iter().chain(others).collect());
    let many = prop::collection::vec(short, 6..10);
    prop_oneof![40 => Just(vec![]), 8 => few, 1 => many, 1 => long]
}

fn lie() -> impl Strategy<Value = Lie> {
    let flips = prop::collection::vec((0..90_usize, any::<u8>()), 0..4);
    (flips, prop::option::weighted(0.3, 0..120_usize), any::<bool>())
        .prop_map(|(flips, length, is_mended)| Lie { flips, length, is_mended })
}

fn ends() -> impl Strategy<Value = Ends> {
    let martian = CLIENTS.len() - 1;
    let client = prop_oneof![60 => 0..martian - 1, 2 => Just(martian - 1), 1 => Just(martian)];
    let port = prop::sample::select(vec![40_000, 40_001, 40_002, 1]);
    let service_port = prop::sample::select(vec![80, 80, 80, 53, 81]);
    let fresh = (any::<bool>(), client, port, 0..DESTINATIONS.len(), service_port).prop_map(
        |(is_ipv6, client, port, destination, service_port)| Ends::Fresh {
            is_ipv6,
            client,
            port,
            destination,
            service_port,
        },
    );
    let of_flow = (any::<usize>(), prop::bool::weighted(0.6))
        .prop_map(|(place, is_reply)| Ends::OfFlow { place, is_reply });
    prop_oneof![1 => fresh, 1 => of_flow]
}

fn quirk() -> impl Strategy<Value = Quirk> {
    let pieces =
        (0..4_usize, prop::collection::vec(1..30_usize, 1..4), 0..4_usize, prop::bool::weighted(0.2));
    prop_oneof![
        20 => Just(Quirk::None),
        1 => (1..20_usize).prop_map(Quirk::Padding),
        1 => any::<u16>().prop_map(Quirk::Fragment),
        1 => (0..32_u16).prop_map(|word| Quirk::Fragment(word >> 3 << 13 | word & 7)),
        2 => pieces.prop_map(|(behind, blocks, turn, is_twice)| Quirk::Pieces { behind, blocks, turn, is_twice }),
        1 => Just(Quirk::MayBeCut),
        1 => Just(Quirk::Tagged),
    ]
}

fn sketch() -> impl Strategy<Value = Sketch> {
    let ttl = prop_oneof![10 => Just(64_u8), 1 => 0..3_u8];
    (ends(), body(), ttl, extensions(), quirk(), prop::option::weighted(0.15, lie())).prop_map(
        |(ends, body, ttl, extensions, quirk, lie)| Sketch { ends, body, ttl, extensions, quirk, lie },
    )
}

fn burst() -> impl Strategy<Value = Step> {
    // Enough copies to fill the queue of a next hop, if it is unknown.
    let copies = prop_oneof![25 => Just(1), 1 => 30..50_usize];
    let packets = prop_oneof![
        2 => prop::collection::vec(sketch(), 1..2),
        1 => prop::collection::vec(sketch(), 2..8),
    ];
    (any::<bool>(), prop::bool::weighted(0.05), packets, copies).prop_map(
        |(is_client_side, is_wire_full, packets, copies)| Step::Burst {
            is_client_side,
            is_wire_full,
            packets,
            copies,
        },
    )
}

/// One thing that happens.
pub fn step() -> impl Strategy<Value = Step> {
    let station = prop_oneof![
        3 => prop::sample::select(vec![POD_MAC.0, [2, 0, 0, 0, 7, 7]]).prop_map(|mac| Some(Station::Known(mac))),
        1 => Just(Some(Station::Asked)),
        1 => Just(Some(Station::Silent)),
        1 => Just(None),
    ];
    // Times of which the waits for next hops are made, and those of the flows in their states.
    let timeouts = prop::sample::select(vec![1, 10, 30, 60, 120, 300, 3_600, 86_400]);
    let wait = prop_oneof![
        1 => 0..4_000_000_000_u64,
        1 => (timeouts, 0..2_u64).prop_map(|(seconds, more)| (seconds + more) * 1_000_000_000),
    ];
    let backends = prop_oneof![
        3 => (0..16_u16).prop_map(Some),
        3 => (0..1_u16 << BACKENDS.len()).prop_map(Some),
        1 => Just(None),
    ];
    let is_ipv6 = any::<bool>;
    prop_oneof![
        20 => burst(),
        3 => (is_ipv6(), 0..SERVICES, 0..PORTS.len(), backends).prop_map(|(is_ipv6, destination, port, backends)| {
            Step::Service { is_ipv6, destination, port, backends }
        }),
        3 => (is_ipv6(), 0..hops(false).len(), station)
            .prop_map(|(is_ipv6, hop, station)| Step::Neighbour { is_ipv6, hop, station }),
        1 => (is_ipv6(), prop::option::of(0..LEADS)).prop_map(|(is_ipv6, lead)| Step::Route { is_ipv6, lead }),
        2 => wait.prop_map(|ns| Step::Wait { ns }),
        2 => prop::bool::weighted(0.05).prop_map(|is_wire_full| Step::Release { is_wire_full }),
        2 => Just(Step::Expire),
    ]
}
