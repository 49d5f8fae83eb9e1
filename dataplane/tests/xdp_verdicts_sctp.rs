//! The XDP program's decisions about SCTP, of both families. Its ports are where those of TCP are (RFC 9260 §3.1).
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

use std::net::Ipv6Addr;

use steer_rig::packet6::{Extension, Packet6};
use steer_rig::{CLIENT, CLIENT6, ENDPOINT, ENDPOINT6, OWN, OWN6, STRANGER, STRANGER6, VIP, VIP6};
use steer_rig::{Served, with_served};
use tidegate_dataplane::masquerade::PortRange;
use tidegate_dataplane::net::{Port, Protocol};
use xsk_rig::Packet;

const SCTP: u8 = 132;
const PORT: u16 = 3868;

/// A station's addresses of both families.
type Station = ([u8; 4], Ipv6Addr);

const THE_CLIENT: Station = (CLIENT, CLIENT6);
const THE_VIP: Station = (VIP, VIP6);
const THE_ENDPOINT: Station = (ENDPOINT, ENDPOINT6);
const THE_BOX: Station = (OWN, OWN6);
const A_STRANGER: Station = (STRANGER, STRANGER6);

/// The same packet of both families.
#[derive(Clone)]
struct Both(Packet, Packet6);

impl Both {
    fn sctp(source: (Station, u16), destination: (Station, u16)) -> Self {
        let ipv4 = Packet::udp((source.0.0, source.1), (destination.0.0, destination.1));
        let ipv6 = Packet6::udp((source.0.1, source.1), (destination.0.1, destination.1));
        Self(Packet { protocol: SCTP, ..ipv4 }, ipv6.of(SCTP))
    }

    /// Returns a fragment of the packet that begins at so many octets of it.
    fn fragment(&self, at: u16) -> Self {
        let ipv4 = Packet { fragment: 0x2000 | (at / 8), ..self.0.clone() };
        Self(ipv4, self.1.behind([Extension::fragment(at, true)]))
    }

    fn of(&self, protocol: u8) -> Self {
        Self(Packet { protocol, ..self.0.clone() }, self.1.of(protocol))
    }

    /// Returns an error to the client about the packet.
    fn error(&self) -> Self {
        Self(Packet::icmp(3, STRANGER, CLIENT, &self.0), Packet6::error(1, STRANGER6, CLIENT6, &self.1))
    }
}

/// Runs a test with the endpoint's port open for SCTP, and with masquerade ports.
fn with_sctp(test: impl FnOnce(Served) + Send) {
    with_served(|mut served| {
        served.steering.insert_endpoint(ENDPOINT.into(), Port::new(PORT), Protocol::Sctp).unwrap();
        served.steering.insert_endpoint(ENDPOINT6.into(), Port::new(PORT), Protocol::Sctp).unwrap();
        served.steering.set_masquerade_ports(PortRange::new(61_000, 62_000)).unwrap();
        test(served);
    });
}

#[track_caller]
fn expect(served: &mut Served, packet: &Both, taken: bool, counter: &str) {
    served.expect(&packet.0, taken, counter);
    served.expect(&packet.1, taken, counter);
}

#[test]
fn what_goes_to_a_vip_is_taken() {
    with_sctp(|mut served| {
        let to_vip = Both::sctp((THE_CLIENT, 40000), (THE_VIP, PORT));
        for packet in [to_vip.clone(), to_vip.fragment(0), to_vip.fragment(1448)] {
            expect(&mut served, &packet, true, "redirected_to_vip");
        }
    });
}

#[test]
fn what_comes_from_an_endpoint_is_taken_by_port_and_protocol_and_its_fragments_by_address() {
    with_sctp(|mut served| {
        let (taken, not_ours) = ("redirected_from_endpoint", "passed_not_ours");
        let reply = Both::sctp((THE_ENDPOINT, PORT), (THE_CLIENT, 40000));
        expect(&mut served, &reply, true, taken);
        expect(&mut served, &reply.of(6), false, not_ours);
        expect(&mut served, &reply.of(17), false, not_ours);
        let other_port = Both::sctp((THE_ENDPOINT, 8080), (THE_CLIENT, 40000));
        expect(&mut served, &other_port, false, not_ours);
        expect(&mut served, &other_port.of(17), true, taken);
        expect(&mut served, &other_port.fragment(0), true, taken);
        expect(&mut served, &other_port.fragment(1448), true, taken);
        let from_stranger = Both::sctp((A_STRANGER, PORT), (THE_CLIENT, 40000));
        expect(&mut served, &from_stranger, false, not_ours);
        expect(&mut served, &from_stranger.fragment(1448), false, not_ours);
    });
}

#[test]
fn what_comes_to_an_own_address_is_taken_only_by_an_endpoint_to_a_masquerade_port() {
    with_sctp(|mut served| {
        let (taken, own) = ("redirected_to_masquerade_port", "passed_own_address");
        expect(&mut served, &Both::sctp((THE_ENDPOINT, PORT), (THE_BOX, 61_500)), true, taken);
        expect(&mut served, &Both::sctp((THE_ENDPOINT, PORT), (THE_BOX, 60_999)), false, own);
        expect(&mut served, &Both::sctp((THE_ENDPOINT, 8080), (THE_BOX, 61_500)), false, own);
        expect(&mut served, &Both::sctp((A_STRANGER, PORT), (THE_BOX, 61_500)), false, own);
    });
}

#[test]
fn an_error_about_a_packet_to_an_endpoint_is_taken() {
    with_sctp(|mut served| {
        let sent = Both::sctp((THE_CLIENT, 40000), (THE_ENDPOINT, PORT));
        expect(&mut served, &sent.error(), true, "redirected_about_endpoint");
        expect(&mut served, &sent.fragment(0).error(), true, "redirected_about_endpoint");
        expect(&mut served, &sent.fragment(1448).error(), false, "passed_not_ours");
        expect(&mut served, &sent.of(6).error(), false, "passed_not_ours");
    });
}
