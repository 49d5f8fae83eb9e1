//! The XDP program's decisions, packet by packet, each with the counter it counts in.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

mod steer_rig;
mod xsk_rig;

use std::net::Ipv4Addr;

use steer_rig::{CLIENT, ENDPOINT, LONE_VIP, OWN, STRANGER, VIP, with_served};
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::masquerade::PortRange;
use tidegate_dataplane::net::{Mac, Port, Protocol};
use tidegate_dataplane::routes::DeviceIndex;
use xsk_rig::{Packet, STATION, now};

const MORE_FRAGMENTS: u16 = 0x2000;

#[test]
fn what_goes_to_a_vip_is_taken_whatever_it_is() {
    with_served(|mut served| {
        let vip = Packet::udp((CLIENT, 40000), (VIP, 53));
        let mut expect = |packet: Packet| served.expect(&packet, true, "redirected_to_vip");
        expect(vip.clone());
        expect(Packet::udp((CLIENT, 40000), (LONE_VIP, 80)));
        expect(Packet { protocol: 6, ..vip.clone() });
        expect(Packet { protocol: 1, ..vip.clone() });
        expect(Packet { fragment: MORE_FRAGMENTS, ..vip.clone() });
        expect(Packet { fragment: 185, ..vip.clone() });
        expect(Packet { options: vec![1; 40], ..vip.clone() });
        expect(Packet { cut_at: Some(34), ..vip.clone() });
        expect(Packet { cut_at: Some(37), ..vip.clone() });
        expect(Packet { header_length: Some(2), ..vip.clone() });
        expect(Packet { header_length: Some(15), ..vip.clone() });
        expect(Packet { total_length: Some(0), ..vip });
    });
}

#[test]
fn what_comes_from_an_endpoint_is_taken_by_port_and_its_fragments_by_address() {
    with_served(|mut served| {
        let reply = Packet::udp((ENDPOINT, 8080), (CLIENT, 40000));
        let (taken, not_ours) = ("redirected_from_endpoint", "passed_not_ours");
        served.expect(&reply, true, taken);
        served.expect(&Packet { options: vec![1; 8], ..reply.clone() }, true, taken);
        served.expect(&Packet { fragment: MORE_FRAGMENTS, ..reply.clone() }, true, taken);
        served.expect(&Packet { fragment: 185, ..reply.clone() }, true, taken);
        let other_port = Packet { ports: (8081, 40000), ..reply.clone() };
        served.expect(&other_port, false, not_ours);
        served.expect(&Packet { fragment: MORE_FRAGMENTS, ..other_port.clone() }, true, taken);
        served.expect(&Packet { fragment: 185, protocol: 50, ..other_port }, true, taken);
        served.expect(&Packet { protocol: 6, ..reply.clone() }, false, not_ours);
        served.expect(&Packet { protocol: 1, ..reply.clone() }, false, not_ours);
        served.expect(&Packet { cut_at: Some(37), ..reply.clone() }, false, not_ours);
        served.expect(&Packet { total_length: Some(23), ..reply.clone() }, false, not_ours);
        served.expect(&Packet { header_length: Some(4), ..reply.clone() }, false, not_ours);
        served.expect(&Packet { header_length: Some(15), ..reply.clone() }, false, not_ours);
        served.expect(&Packet::udp((STRANGER, 8080), (CLIENT, 40000)), false, not_ours);
        served.expect(&Packet::udp((CLIENT, 40000), (ENDPOINT, 8080)), false, not_ours);
    });
}

#[test]
fn an_error_about_a_packet_to_an_endpoint_is_taken() {
    with_served(|mut served| {
        let sent = Packet::udp((CLIENT, 40000), (ENDPOINT, 8080));
        let (taken, not_ours) = ("redirected_about_endpoint", "passed_not_ours");
        let error = |quote: &Packet| Packet::icmp(3, STRANGER, CLIENT, quote);
        for kind in [3, 4, 5, 11, 12] {
            served.expect(&Packet::icmp(kind, ENDPOINT, CLIENT, &sent), true, taken);
        }
        for kind in [0, 1, 2, 6, 8, 9, 10, 13, 255] {
            served.expect(&Packet::icmp(kind, ENDPOINT, CLIENT, &sent), false, not_ours);
        }
        served.expect(&Packet { options: vec![1; 40], ..error(&sent) }, true, taken);
        served.expect(&error(&Packet { options: vec![1; 40], ..sent.clone() }), true, taken);
        served.expect(&error(&Packet { fragment: MORE_FRAGMENTS, ..sent.clone() }), true, taken);
        served.expect(&Packet { cut_at: Some(14 + 28 + 24), ..error(&sent) }, true, taken);

        served.expect(&Packet { cut_at: Some(14 + 28 + 23), ..error(&sent) }, false, not_ours);
        served.expect(&Packet { cut_at: Some(14 + 28 + 19), ..error(&sent) }, false, not_ours);
        served.expect(&Packet { total_length: Some(28 + 19), ..error(&sent) }, false, not_ours);
        served.expect(&Packet { header_length: Some(4), ..error(&sent) }, false, not_ours);
        served.expect(&Packet { fragment: MORE_FRAGMENTS, ..error(&sent) }, false, not_ours);
        served.expect(&Packet { fragment: 185, ..error(&sent) }, false, not_ours);
        served.expect(&error(&Packet { fragment: 185, ..sent.clone() }), false, not_ours);
        served.expect(&error(&Packet { ports: (40000, 8081), ..sent.clone() }), false, not_ours);
        served.expect(&error(&Packet { protocol: 6, ..sent.clone() }), false, not_ours);
        served.expect(&error(&Packet { protocol: 1, ..sent.clone() }), false, not_ours);
        served.expect(&error(&Packet { total_length: Some(23), ..sent.clone() }), false, not_ours);
        served.expect(&error(&Packet { header_length: Some(4), ..sent.clone() }), false, not_ours);
        served.expect(&error(&Packet::udp((ENDPOINT, 8080), (CLIENT, 40000))), false, not_ours);
    });
}

#[test]
fn an_error_goes_first_where_its_own_destination_belongs() {
    with_served(|mut served| {
        let sent = Packet::udp((OWN, 40000), (ENDPOINT, 8080));
        served.expect(&Packet::icmp(3, ENDPOINT, OWN, &sent), false, "passed_own_address");
        let reply = Packet::udp((VIP, 80), (CLIENT, 40000));
        served.expect(&Packet::icmp(3, STRANGER, VIP, &reply), true, "redirected_to_vip");
        served.expect(&Packet::icmp(3, STRANGER, CLIENT, &reply), false, "passed_not_ours");
    });
}

#[test]
fn the_boxs_own_traffic_passes_also_from_endpoints() {
    with_served(|mut served| {
        served.expect(&Packet::udp((CLIENT, 40000), (OWN, 22)), false, "passed_own_address");
        served.expect(&Packet::udp((ENDPOINT, 8080), (OWN, 40000)), false, "passed_own_address");
        let fragment = Packet { fragment: 185, ..Packet::udp((ENDPOINT, 8080), (OWN, 40000)) };
        served.expect(&fragment, false, "passed_own_address");
        served.steering.insert_own_address(VIP.into()).unwrap();
        served.expect(&Packet::udp((CLIENT, 40000), (VIP, 80)), false, "passed_own_address");
    });
}

#[test]
fn an_endpoints_reply_to_a_masquerade_port_of_ours_is_taken_and_nothing_else_to_our_addresses() {
    with_served(|mut served| {
        let (taken, own) = ("redirected_to_masquerade_port", "passed_own_address");
        let reply = |port| Packet::udp((ENDPOINT, 8080), (OWN, port));
        served.expect(&reply(0), false, own);
        served.expect(&reply(61_500), false, own);
        served.steering.set_masquerade_ports(PortRange::new(61_000, 62_000)).unwrap();
        for (port, is_taken) in
            [(60_999, false), (61_000, true), (61_500, true), (62_000, true), (62_001, false), (0, false)]
        {
            served.expect(&reply(port), is_taken, if is_taken { taken } else { own });
        }
        let reply = reply(61_500);
        served.expect(&Packet { options: vec![1; 8], ..reply.clone() }, true, taken);
        served.expect(&Packet { fragment: MORE_FRAGMENTS, ..reply.clone() }, true, taken);
        served.expect(&Packet { fragment: 185, ..reply.clone() }, true, taken);
        served.expect(&Packet { fragment: MORE_FRAGMENTS, ports: (8081, 53), ..reply.clone() }, true, taken);
        let from_stranger = Packet::udp((STRANGER, 8080), (OWN, 61_500));
        served.expect(&Packet { fragment: MORE_FRAGMENTS, ..from_stranger.clone() }, false, own);
        served.expect(&Packet { fragment: 185, ..from_stranger }, false, own);
        served.expect(&Packet { protocol: 6, ..reply.clone() }, false, own);
        served.expect(&Packet { protocol: 1, ..reply.clone() }, false, own);
        served.expect(&Packet { ports: (8081, 61_500), ..reply.clone() }, false, own);
        served.expect(&Packet { cut_at: Some(37), ..reply.clone() }, false, own);
        served.expect(&Packet { total_length: Some(23), ..reply.clone() }, false, own);
        served.expect(&Packet::udp((STRANGER, 8080), (OWN, 61_500)), false, own);
        served.expect(&Packet::udp((ENDPOINT, 8080), (CLIENT, 61_500)), true, "redirected_from_endpoint");
        served.steering.insert_listener(OWN.into(), Port::new(61_500), Protocol::Udp).unwrap();
        served.expect(&reply, false, "passed_listener");
        served.steering.set_masquerade_ports(None).unwrap();
        served.expect(&Packet { ports: (8080, 61_501), ..reply }, false, own);
    });
}

#[test]
fn an_error_to_an_address_of_ours_is_taken_if_it_quotes_a_masqueraded_packet() {
    with_served(|mut served| {
        let sent = Packet::udp((OWN, 61_500), (ENDPOINT, 8080));
        let error = |quote: &Packet| Packet::icmp(3, STRANGER, OWN, quote);
        served.expect(&error(&sent), false, "passed_own_address");
        served.steering.set_masquerade_ports(PortRange::new(61_000, 62_000)).unwrap();
        served.expect(&error(&sent), true, "redirected_about_endpoint");
        for other in [
            Packet { ports: (60_999, 8080), ..sent.clone() },
            Packet { ports: (61_500, 8081), ..sent.clone() },
            Packet { protocol: 6, ..sent.clone() },
            Packet { fragment: 185, ..sent.clone() },
        ] {
            served.expect(&error(&other), false, "passed_own_address");
        }
        served.expect(&Packet::icmp(8, STRANGER, OWN, &sent), false, "passed_own_address");
    });
}

#[test]
fn k16_a_served_socket_of_an_own_address_is_taken_with_fragments_and_errors_and_nothing_else() {
    with_served(|mut served| {
        let (taken, own) = ("redirected_to_served_socket", "passed_own_address");
        let call = Packet::udp((CLIENT, 40000), (OWN, 30_080));
        let sent = Packet::udp((OWN, 30_080), (CLIENT, 40000));
        served.expect(&call, false, own);
        served.steering.insert_served(OWN.into(), Port::new(30_080), Protocol::Udp).unwrap();
        served.expect(&call, true, taken);
        served.expect(&Packet { options: vec![1; 8], ..call.clone() }, true, taken);
        served.expect(&Packet { fragment: MORE_FRAGMENTS, ..call.clone() }, true, taken);
        served.expect(&Packet { fragment: 185, ..call.clone() }, true, taken);
        served.expect(&Packet::icmp(3, STRANGER, OWN, &sent), true, "redirected_about_endpoint");
        for other in [
            Packet { ports: (40000, 30_081), ..call.clone() },
            Packet { protocol: 6, ..call.clone() },
            Packet { protocol: 1, ..call.clone() },
            Packet { cut_at: Some(37), ..call.clone() },
            Packet::icmp(3, STRANGER, OWN, &Packet { ports: (30_081, 40000), ..sent.clone() }),
            Packet::icmp(8, STRANGER, OWN, &sent),
        ] {
            served.expect(&other, false, own);
        }
        served.expect(&Packet::udp((CLIENT, 40000), (STRANGER, 30_080)), false, "passed_not_ours");
        served.steering.remove_served(OWN.into(), Port::new(30_080), Protocol::Udp).unwrap();
        served.expect(&call, false, own);
        served.expect(&Packet { fragment: 185, ..call }, false, own);
    });
}

#[test]
fn a_listener_passes_before_any_service_rule() {
    with_served(|mut served| {
        served.steering.insert_listener(VIP.into(), Port::new(53), Protocol::Udp).unwrap();
        let query = Packet::udp((CLIENT, 40000), (VIP, 53));
        served.expect(&query, false, "passed_listener");
        served.expect(&Packet { protocol: 6, ..query.clone() }, true, "redirected_to_vip");
        served.expect(&Packet::udp((CLIENT, 40000), (VIP, 9153)), true, "redirected_to_vip");
        served.expect(&Packet { fragment: 185, ..query.clone() }, true, "redirected_to_vip");
        served.steering.remove_listener(VIP.into(), Port::new(53), Protocol::Udp).unwrap();
        served.expect(&query, true, "redirected_to_vip");
    });
}

#[test]
fn what_is_not_unicast_passes() {
    with_served(|mut served| {
        let vip = Packet::udp((CLIENT, 40000), (VIP, 53));
        for ethertype in [0x0806, 0x8100, 0x88a8, 0x88cc] {
            served.expect(&Packet { ethertype, ..vip.clone() }, false, "passed_not_ip");
        }
        served.expect(&Packet { ethertype: 0x86dd, ..vip.clone() }, false, "passed_not_ip");
        served.expect(&Packet { cut_at: Some(33), ..vip.clone() }, false, "passed_not_ip");
        served.expect(&Packet { cut_at: Some(14), ..vip.clone() }, false, "passed_not_ip");
        let group = "passed_group_destination";
        served.expect(&Packet { ethernet_destination: [0xff; 6], ..vip.clone() }, false, group);
        served.expect(&Packet { ethernet_destination: [1, 0, 0x5e, 0, 0, 1], ..vip.clone() }, false, group);
        served.steering.insert_vip(Ipv4Addr::UNSPECIFIED.into(), 0).unwrap();
        served.expect(&Packet { destination: [224, 0, 0, 1], ..vip.clone() }, false, group);
        served.expect(&Packet { destination: [239, 255, 255, 255], ..vip.clone() }, false, group);
        served.expect(&Packet { destination: [255; 4], ..vip.clone() }, false, group);
        served.expect(&Packet { destination: [240, 0, 0, 1], ..vip }, true, "redirected_to_vip");
    });
}

#[test]
fn what_another_station_is_meant_to_have_passes() {
    with_served(|mut served| {
        let vip = Packet::udp((CLIENT, 40000), (VIP, 53));
        let reply = Packet::udp((ENDPOINT, 8080), (CLIENT, 40000));
        for octet in 0..6 {
            let mut station = STATION;
            station[octet] ^= 0x80 >> octet;
            for packet in [&vip, &reply] {
                let packet = Packet { ethernet_destination: station, ..packet.clone() };
                served.expect(&packet, false, "passed_other_station");
            }
        }
    });
}

#[test]
fn a_device_whose_mac_was_changed_takes_what_bears_the_new_one() {
    with_served(|mut served| {
        let to_old = Packet::udp((CLIENT, 40000), (VIP, 53));
        let to_new = Packet { ethernet_destination: [2, 0, 0, 0, 0, 9], ..to_old.clone() };
        served.expect(&to_new, false, "passed_other_station");
        served.steering.set_mac(served.device, Mac([2, 0, 0, 0, 0, 9])).unwrap();
        served.expect(&to_new, true, "redirected_to_vip");
        served.expect(&to_old, false, "passed_other_station");
        let unknown = served.steering.set_mac(DeviceIndex(9999), Mac(STATION)).unwrap_err().to_string();
        assert!(unknown.contains("not attached to device 9999"), "{unknown}");
    });
}

#[test]
fn a_heartbeat_has_the_age_of_the_last_beat() {
    with_served(|served| {
        let (ours, another) = (served.steering.heartbeat(3).unwrap(), served.steering.heartbeat(4).unwrap());
        assert_eq!(ours.age(Now::from_ns(1)), None);
        ours.beat(Now::from_ns(1_000));
        ours.beat(Now::from_ns(2_000));
        let age = |ns| served.steering.heartbeat(3).unwrap().age(Now::from_ns(ns)).unwrap().as_nanos();
        assert_eq!((age(2_000), age(502_000), age(1_500)), (0, 500_000, 0));
        assert_eq!(another.age(Now::from_ns(502_000)), None);
    });
}

#[test]
fn a_queue_passes_without_a_fresh_heartbeat_or_without_a_socket() {
    with_served(|mut served| {
        let vip = Packet::udp((CLIENT, 40000), (VIP, 53)).octets();
        let heartbeat = served.steering.heartbeat(3).unwrap();
        let ago = |ms: u64| Now::from_ns(now().ns() - ms * 1_000_000);
        assert_eq!(served.verdict_of(&vip, 0), (false, "passed_no_heartbeat"));
        heartbeat.beat(ago(100));
        assert_eq!(served.verdict_of(&vip, 0), (true, "redirected_to_vip"));
        heartbeat.beat(ago(501));
        assert_eq!(served.verdict_of(&vip, 0), (false, "passed_no_heartbeat"));
        heartbeat.beat(Now::from_ns(now().ns() + 1_000_000));
        assert_eq!(served.verdict_of(&vip, 0), (true, "redirected_to_vip"));
        assert_eq!(served.verdict_of(&vip, 1), (false, "passed_no_socket"));
        drop(served.socket);
        served.steering.heartbeat(3).unwrap().beat(now());
        let taken = served.steering.would_take(&vip, served.device, 0).unwrap();
        assert!(!taken, "a closed socket leaves its queue to the kernel");
    });
}

#[test]
fn entries_come_and_go_and_an_address_stays_while_one_endpoint_has_it() {
    with_served(|mut served| {
        let fragment = Packet { fragment: 185, ..Packet::udp((ENDPOINT, 8080), (CLIENT, 40000)) };
        let (first, second) = (Port::new(8080), Port::new(9090));
        served.steering.insert_endpoint(ENDPOINT.into(), second, Protocol::Tcp).unwrap();
        served.steering.insert_endpoint(ENDPOINT.into(), second, Protocol::Tcp).unwrap();
        served.steering.remove_endpoint(ENDPOINT.into(), first, Protocol::Udp).unwrap();
        served.steering.remove_endpoint(ENDPOINT.into(), first, Protocol::Udp).unwrap();
        served.expect(&fragment, true, "redirected_from_endpoint");
        served.steering.remove_endpoint(ENDPOINT.into(), second, Protocol::Tcp).unwrap();
        served.expect(&fragment, false, "passed_not_ours");

        let vip = Packet::udp((CLIENT, 40000), (VIP, 53));
        served.steering.insert_vip(VIP.into(), 32).unwrap();
        served.steering.remove_vip([10, 96, 255, 255].into(), 16).unwrap();
        served.expect(&vip, true, "redirected_to_vip");
        served.steering.remove_vip(VIP.into(), 32).unwrap();
        served.steering.remove_vip(VIP.into(), 32).unwrap();
        served.expect(&vip, false, "passed_not_ours");

        served.steering.insert_own_address(OWN.into()).unwrap();
        served.steering.remove_own_address(OWN.into()).unwrap();
        served.expect(&Packet::udp((CLIENT, 40000), (OWN, 22)), false, "passed_not_ours");
    });
}

#[test]
fn numbers_out_of_range_are_errors_that_name_them() {
    with_served(|mut served| {
        let error = |result: Result<(), tidegate_dataplane::xdp::Error>| result.unwrap_err().to_string();
        assert_eq!(
            error(served.steering.insert_vip(VIP.into(), 33)),
            "XDP program: VIP prefix length 33: must be below 33"
        );
        assert!(error(served.steering.heartbeat(256).map(|_| ())).contains("worker 256: must be below 256"));
        use std::os::fd::AsFd;
        let socket = served.socket.as_fd();
        assert!(
            error(served.steering.serve_queue(served.device, 2, socket, 0))
                .contains("RX queue 2: must be below 2")
        );
        let unknown = served.steering.serve_queue(DeviceIndex(9999), 0, socket, 0);
        assert!(error(unknown).contains("not attached to device 9999"));
        let not_xdp = std::fs::File::open("/dev/null").unwrap();
        let refused = error(served.steering.serve_queue(served.device, 1, not_xdp.as_fd(), 0));
        assert!(refused.starts_with("XDP map xsks, key 1 (device "), "{refused}");
    });
}
