//! What packets cost that are dropped, one for each reason there is.

use super::*;

/// Its endpoint has an IPv6 address only.
const IPV6_VIP: [u8; 4] = [10, 96, 0, 9];

#[test]
fn no_drop_that_packets_can_cause_asks_anything_of_the_allocator() {
    let mut rig = warm_rig(16_384);
    rig.snapshot.masquerade.mode = Mode::Never;
    rig.snapshot.services = rig.snapshot.services.with([(ip(IPV6_VIP), Some(ipv6_only()))]);
    let ipv6 = over_ipv6(|| (ip(VIP), both(10, &[(POD, 8080)])));
    rig.snapshot.services = rig.snapshot.services.with([(ipv6.0, Some(ipv6.1))]);
    assert_eq!(carry(&mut rig, CLIENT_SIDE, &hopeless_packets()), 0);
    assert_eq!(carry(&mut rig, CLIENT_SIDE, &over_ipv6(hopeless_ipv6_packets)), 0);

    rig.wire.full = true;
    let refused = [
        udp(FROM_CLIENT, (C, V), 64, b"x"),
        ping(FROM_CLIENT, CLIENT, VIP, 64, false),
        udp(FROM_CLIENT, (C, (VIP, 81)), 64, b"x"),
    ];
    assert_eq!(carry(&mut rig, CLIENT_SIDE, &refused), 0);
    rig.wire.full = false;

    let ended = many(1100, |_| udp(FROM_CLIENT, (C, V), 1, b""));
    assert_eq!(carry(&mut rig, CLIENT_SIDE, &ended), 999, "the limit's thousandth was the refusal");
    hold_in_vain(&mut rig);
    send_fragments_in_vain(&mut rig);
    exhaust_source_ports(&mut rig);
    masquerade_in_vain(&mut rig);

    let mut full = warm_rig(16);
    for n in 0..200 {
        carry(&mut full, CLIENT_SIDE, &[udp(FROM_CLIENT, ((CLIENT, 100 + n), V), 64, b"")]);
        carry(&mut full, POD_SIDE, &[udp(FROM_POD, (P, (CLIENT, 100 + n)), 64, b"")]);
    }
    assert!(full.path.counters.flows_evicted > 0, "a flow that nobody answered gave way");

    let seen = [&rig.path.counters, &full.path.counters, &rules::call_in_vain()];
    let unseen: BTreeSet<&str> = DropReason::ALL
        .iter()
        .filter(|reason| seen.iter().all(|counters| counters.drops(**reason) == 0))
        .map(|reason| reason.name())
        .collect();
    // The first two take a second worker, the third and fourth a socket that is missing or for others, the fifth an SCTP
    // Service, the sixth a driver that puts headers apart; for the last no frame is short enough.
    assert_eq!(
        unseen,
        BTreeSet::from([
            "drop_flow_contended",
            "drop_hand_over_full",
            "drop_no_tx_queue",
            "drop_no_multi_buffer",
            "drop_sctp_fragment",
            "drop_short_first_frame",
            "drop_answer_too_long",
        ])
    );
}

/// Packets that are each dropped for a reason of their own, or one known before.
fn hopeless_packets() -> Vec<Vec<u8>> {
    let changed = |mut packet: Vec<u8>, place: usize, octet: u8| {
        packet[place] = octet;
        set_ip_checksum(&mut packet);
        packet
    };
    let plain = || udp(FROM_CLIENT, (C, V), 64, b"payload");
    let first = ip_of(&udp(TO_CLIENT, (V, (CLIENT, 9)), 63, b"to the flow of the warm rig"));
    let about_first =
        |ttl, kind, quote: &[u8]| icmp_error(FROM_CLIENT, CLIENT, VIP, ttl, Says(kind, 0, [0; 4]), quote);
    let to = |vip| udp(FROM_CLIENT, (C, (vip, 80)), 64, b"");
    vec![
        plain()[..20].to_vec(),
        changed(plain(), 14, 0x4f),
        changed(plain(), 39, 7),
        changed(tcp(FROM_CLIENT, (C, V), 64, "S", b""), 46, 0xf0),
        changed(plain(), 20, 0x20),
        changed(plain(), 23, 50),
        ping(FROM_CLIENT, CLIENT, VIP, 64, true),
        udp(FROM_CLIENT, (([127, 0, 0, 1], 1), V), 64, b""),
        about_first(1, 3, &first),
        about_first(64, 4, &first),
        about_first(64, 5, &first),
        about_first(64, 3, &first[..27]),
        about_first(64, 3, &ip_of(&about_first(64, 3, &first))),
        changed(about_first(64, 3, &first), 70, 0xff),
        to(UNALLOCATED),
        ping(FROM_CLIENT, CLIENT, UNALLOCATED, 64, false),
        tcp(FROM_CLIENT, (C, (EMPTY_VIP, 80)), 64, "RA", b""),
        to(IPV6_VIP),
        to(HAIRPIN_VIP),
        to(UNROUTED_VIP),
        udp(FROM_CLIENT, (C, V), 64, &[7; 9_300]),
        about_first(64, 3, &[7; 5_000]),
    ]
}

/// Packets that can go nowhere because of what only IPv6 has.
fn hopeless_ipv6_packets() -> Vec<Vec<u8>> {
    let plain = || udp(FROM_CLIENT, (C, V), 64, b"payload");
    let link_local = |mut packet: Vec<u8>| {
        packet[22..24].copy_from_slice(&[0xfe, 0x80]);
        packet
    };
    vec![
        plain()[..60].to_vec(),
        chained(&plain(), &vec![destination_options(1); 9]),
        chained(&plain(), &[destination_options(1), hop_by_hop(1)]),
        chained(&plain(), &[routing(1)]),
        link_local(plain()),
    ]
}

/// Lets packets wait for a next hop that stays unknown, then for one that fails.
fn hold_in_vain(rig: &mut Rig) {
    let quiet = next_hop(POD_SIDE, QUIET_POD);
    let waiting = many(40, |_| udp(FROM_CLIENT, (C, (QUIET_VIP, 80)), 64, b"wait"));
    assert_eq!(carry(rig, CLIENT_SIDE, &waiting), 0);
    rig.now = Now::from_seconds(400);
    assert_eq!(release(rig), 0);
    assert_eq!(carry(rig, CLIENT_SIDE, &waiting), 0);
    let mut known = neighbours();
    known.push((quiet, NeighbourState::Failed));
    rig.learn(&known);
    assert_eq!(release(rig), 0);
}

/// Drops fragments for each reason there is, and a packet that there are no frames to cut into.
fn send_fragments_in_vain(rig: &mut Rig) {
    let whole = |number| fragmentable(udp(FROM_CLIENT, (C, V), 64, &[7; 4000]), number);
    let refused = fragmentable(udp(FROM_CLIENT, (C, (VIP, 81)), 64, &[7; 4000]), 5);
    let segment = fragmentable(tcp(FROM_CLIENT, (C, V), 64, "S", &[7; 400]), 6);
    let lying = [
        raw_piece(&whole(1), 1480, &[], false),
        piece(&segment, 0, 8),
        piece(&whole(2), 0, 1480),
        piece(&whole(2), 0, 1480),
        piece(&whole(2), 1472, 2960),
        raw_piece(&whole(3), 1480, &[7; 8], false),
        raw_piece(&whole(3), 2960, &[7; 8], false),
    ];
    carry(rig, CLIENT_SIDE, &lying);
    carry(rig, CLIENT_SIDE, &cut(&refused));
    let early = |number: u16, client: u8| {
        let client = ([10, 1, 7, client], 7);
        let whole = fragmentable(udp(FROM_CLIENT, (client, V), 64, &[7; 4000]), number);
        piece(&whole, 1480, 2960)
    };
    let from_one = many(70, |number| early(number, 0));
    carry(rig, CLIENT_SIDE, &from_one);
    let from_many = many(200, |number| early(number, number as u8));
    carry(rig, CLIENT_SIDE, &from_many);
    rig.now = Now::from_seconds(500);
    for _ in 0..40 {
        let Rig { path, snapshot, now, wire, .. } = rig;
        without_allocator(|| path.expire_fragments(snapshot, *now, wire));
    }
    rig.collect();
    send_too_long_packets(rig);
}

/// Cuts what is too long for a link, also without the frames for it, and drops what may not be cut.
fn send_too_long_packets(rig: &mut Rig) {
    let devices = Arc::clone(&rig.snapshot.devices);
    let narrow = |device: &Device| Device { mtu: 576, ..device.clone() };
    rig.snapshot.devices = devices.iter().map(narrow).collect();
    let mut pieces = cut(&fragmentable(udp(FROM_CLIENT, (C, V), 64, &[7; 4000]), 8));
    assert_eq!(carry(rig, CLIENT_SIDE, &pieces[..1]), 3);
    pieces[1][20] |= 0x40;
    set_ip_checksum(&mut pieces[1]);
    assert_eq!(carry(rig, CLIENT_SIDE, &pieces[1..]), 2);
    let kept: Vec<_> =
        std::iter::from_fn(|| (rig.path.pool.len() > 2).then(|| rig.path.pool.pop())).collect();
    let packet = [fragmentable(udp(FROM_CLIENT, (C, V), 64, &[7; 1400]), 9)];
    rig.path.counters.frames_total -= kept.len() as u64;
    assert_eq!(carry(rig, CLIENT_SIDE, &packet), 0);
    rig.path.counters.frames_total += kept.len() as u64;
    kept.into_iter().flatten().for_each(|frame| rig.path.pool.push(frame));
    rig.snapshot.devices = devices;
}

/// Asks so many Services with one backend from one client port that no other source port is tried for the last.
fn exhaust_source_ports(rig: &mut Rig) {
    let vips = many(150, |n| vec![10, 96, 1, n as u8]);
    let vips: Vec<[u8; 4]> = vips.into_iter().map(|octets| octets.try_into().unwrap()).collect();
    rig.snapshot.services = rig.snapshot.services.with(
        vips.iter().zip(1000_u64..).map(|(vip, number)| (ip(*vip), Some(both(number * 2, &[(POD, 8080)])))),
    );
    let packets: Vec<_> =
        vips.iter().map(|vip| udp(FROM_CLIENT, ((CLIENT, 7), (*vip, 80)), 64, b"")).collect();
    carry(rig, CLIENT_SIDE, &packets);
}

/// Masquerades to a destination that has all ports of a small range in use, of one too wide to search at once, and by
/// a device without an address.
fn masquerade_in_vain(rig: &mut Rig) {
    let address = POD_SIDE_GATEWAY.into();
    for port in 1..=9_000 {
        let (source_port, destination_port) = (Port::new(8080), Port::new(port));
        let reply = Key::new((POD.into(), source_port), (address, destination_port), Protocol::Udp);
        let request = reply.with_source([192, 0, 2, 1].into());
        let (service, endpoint, state) = (ServicePortId(1), EndpointId(1), State::UdpStream);
        let taken = NewFlow {
            request,
            reply,
            service,
            endpoint,
            state,
            ip_difference: 0,
            transport_difference: 0,
            account: 0,
        };
        rig.flows.ipv4.insert(&taken, rig.now).unwrap();
    }
    let packet = [udp(FROM_CLIENT, ((CLIENT, 44_444), V), 64, b"x")];
    for last in [10, 9_000] {
        let ports = PortRange::new(1, last).unwrap();
        rig.snapshot.masquerade = Masquerade { mode: Mode::Always, ports };
        assert_eq!(carry(rig, CLIENT_SIDE, &packet), 0);
    }
    let bare = |device: &Device| Device { addresses: Arc::new([]), ..device.clone() };
    rig.snapshot.devices = rig.snapshot.devices.iter().map(bare).collect();
    assert_eq!(carry(rig, CLIENT_SIDE, &packet), 0);
}

fn ipv6_only() -> VirtualAddress {
    let backend = Backend { address: Ipv6Addr::LOCALHOST.into(), port: Port::new(8080), id: EndpointId(6) };
    VirtualAddress::new(vec![ServicePort {
        protocol: Protocol::Udp,
        port: Port::new(80),
        id: ServicePortId(6),
        backends: Arc::new(Backends::new(vec![backend])),
        terms: Terms::default(),
    }])
}
