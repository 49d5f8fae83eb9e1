//! The punt device: what is written into it is the kernel's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tempfile::TempDir;
use tidegate::frame_limit::MULTI_BUFFER_MTU;
use tidegate::instance::Instance;
use tidegate::netlink::{Link, Netlink};
use tidegate::punt_device::{INNER_ADDRESS, PuntDevice};

use crate::namespace::{Namespace, send_frame};

/// A client that the gateway reaches by `lan`, so that strict reverse-path filtering would drop it on
/// `tide1`.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 77);

fn claimed() -> (TempDir, Instance) {
    let directory = TempDir::new().unwrap();
    let instance = Instance::claim(directory.path()).unwrap();
    (directory, instance)
}

async fn created(netlink: &Netlink, instance: &mut Instance) -> anyhow::Result<PuntDevice> {
    let served: Vec<Link> = netlink.links().await?;
    PuntDevice::create(netlink, instance, 2, &served).await
}

/// An Ethernet frame with a UDP datagram, as a worker would hand it back.
fn udp_frame(
    punt: &PuntDevice,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    port: u16,
    payload: &[u8],
) -> Vec<u8> {
    let udp_length = 8 + payload.len() as u16;
    let mut ip = [0u8; 20];
    ip[..4].copy_from_slice(&[0x45, 0, 0, 0]);
    ip[2..4].copy_from_slice(&(20 + udp_length).to_be_bytes());
    ip[8..10].copy_from_slice(&[64, 17]);
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..].copy_from_slice(&destination.octets());
    let sum: u32 = ip.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = Vec::new();
    frame.extend(punt.receive_mac.0);
    frame.extend(punt.transmit_mac.0);
    frame.extend([0x08, 0x00]);
    frame.extend(ip);
    for word in [4321, port, udp_length, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

/// The same over IPv6, where UDP has a checksum.
fn udp_frame_ipv6(
    punt: &PuntDevice,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    port: u16,
    payload: &[u8],
) -> Vec<u8> {
    let udp_length = 8 + payload.len() as u16;
    let addresses = [source.octets(), destination.octets()].concat();
    let mut udp: Vec<u8> =
        [4321, port, udp_length, 0].iter().flat_map(|word: &u16| word.to_be_bytes()).collect();
    udp.extend(payload);
    let pseudo = [&addresses[..], &u32::from(udp_length).to_be_bytes(), &[0, 0, 0, 17], &udp].concat();
    let words =
        pseudo.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)])));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    udp[6..8].copy_from_slice(&(!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes());

    let mut frame = [&punt.receive_mac.0[..], &punt.transmit_mac.0, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend(udp_length.to_be_bytes());
    frame.extend([17, 64]);
    frame.extend(addresses);
    frame.extend(udp);
    frame
}

/// Waits for one datagram and returns it with its sender.
fn received(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut buffer = [0; 2048];
    let (length, sender) = socket.recv_from(&mut buffer).expect("a datagram within 5 s");
    (buffer[..length].to_vec(), sender)
}

#[test]
fn a_punted_packet_reaches_a_local_socket_and_is_forwarded_by_the_kernel() {
    let (Some(gateway), Some(client), Some(server)) = (Namespace::new(), Namespace::new(), Namespace::new())
    else {
        return;
    };
    gateway.join("lan", &client, "eth0");
    gateway.join("wan", &server, "eth0");
    gateway.ip("addr add 10.9.0.1/24 dev lan");
    gateway.ip("addr add 10.8.0.1/24 dev wan");
    server.ip("addr add 10.8.0.2/24 dev eth0");
    for name in ["all", "default"] {
        gateway.sysctl(&format!("ipv4/conf/{name}/rp_filter"), "1");
    }
    gateway.sysctl("ipv4/ip_forward", "1");
    let at_server = server.enter(|| UdpSocket::bind("10.8.0.2:5000").unwrap());

    gateway.enter_async(async || {
        let (_directory, mut instance) = claimed();
        let netlink = Netlink::connect().unwrap();
        let punt = created(&netlink, &mut instance).await.unwrap();

        let at_gateway = UdpSocket::bind("10.9.0.1:5000").unwrap();
        send_frame(punt.transmit, &udp_frame(&punt, CLIENT, Ipv4Addr::new(10, 9, 0, 1), 5000, b"to you"));
        assert_eq!(received(&at_gateway), (b"to you".to_vec(), SocketAddr::from((CLIENT, 4321))));

        send_frame(punt.transmit, &udp_frame(&punt, CLIENT, Ipv4Addr::new(10, 8, 0, 2), 5000, b"and on"));
        assert_eq!(received(&at_server), (b"and on".to_vec(), SocketAddr::from((CLIENT, 4321))));

        let own = Ipv4Addr::new(10, 9, 0, 1);
        send_frame(punt.transmit, &udp_frame(&punt, own, Ipv4Addr::new(10, 8, 0, 2), 5000, b"for me"));
        assert_eq!(received(&at_server), (b"for me".to_vec(), SocketAddr::from((own, 4321))));
    });
}

#[test]
fn a_punted_packet_of_ipv6_reaches_a_local_socket_and_is_forwarded_and_the_pair_stays_silent() {
    let (Some(gateway), Some(client), Some(server)) = (Namespace::new(), Namespace::new(), Namespace::new())
    else {
        return;
    };
    gateway.join("lan", &client, "eth0");
    gateway.join("wan", &server, "eth0");
    gateway.ip("-6 addr add fd09::1/64 dev lan nodad");
    gateway.ip("-6 addr add fd08::1/64 dev wan nodad");
    server.ip("-6 addr add fd08::2/64 dev eth0 nodad");
    gateway.sysctl("ipv6/conf/all/forwarding", "1");
    let at_server = server.enter(|| UdpSocket::bind("[fd08::2]:5000").unwrap());

    gateway.enter_async(async || {
        let (_directory, mut instance) = claimed();
        let netlink = Netlink::connect().unwrap();
        let punt = created(&netlink, &mut instance).await.unwrap();
        let client: Ipv6Addr = "fd09::77".parse().unwrap();
        let from_client = |bytes: &[u8]| (bytes.to_vec(), SocketAddr::from((client, 4321)));

        let at_gateway = UdpSocket::bind("[fd09::1]:5000").unwrap();
        let own = "fd09::1".parse().unwrap();
        send_frame(punt.transmit, &udp_frame_ipv6(&punt, client, own, 5000, b"to you"));
        assert_eq!(received(&at_gateway), from_client(b"to you"));

        let remote = "fd08::2".parse().unwrap();
        send_frame(punt.transmit, &udp_frame_ipv6(&punt, client, remote, 5000, b"and on"));
        assert_eq!(received(&at_server), from_client(b"and on"));

        for forwarding in ["0", "1"] {
            gateway.sysctl("ipv6/conf/all/forwarding", forwarding);
        }
        // A device that is told nothing speaks within a second: reports of its groups, a solicitation of routers.
        std::thread::sleep(Duration::from_millis(1500));
        for end in ["tide0", "tide1"] {
            let shown = &gateway.ip_json(&format!("-s link show {end}"))[0];
            let said = shown["stats64"]["tx"]["packets"].as_u64().unwrap();
            assert_eq!(said, if end == "tide0" { 2 } else { 0 }, "{end}: {shown}");
        }
        let addresses = netlink.addresses().await.unwrap();
        let tide1 = netlink.link("tide1").await.unwrap().expect("it is there").index;
        let pair = addresses.iter().filter(|own| [punt.transmit, tide1].contains(&own.device));
        let pair: Vec<IpAddr> = pair.map(|own| own.address).collect();
        assert_eq!(pair, [IpAddr::V4(INNER_ADDRESS)]);
        let routes = gateway.ip("-6 route show table all");
        assert!(!routes.contains("tide"), "the box's own multicast packets would leave by it: {routes}");
    });
}

#[test]
fn where_ipv6_is_off_it_stays_off() {
    let Some(gateway) = Namespace::new() else { return };
    gateway.sysctl("ipv6/conf/lo/disable_ipv6", "1");
    gateway.enter_async(async || {
        let (_directory, mut instance) = claimed();
        let netlink = Netlink::connect().unwrap();
        created(&netlink, &mut instance).await.unwrap();
        for end in ["tide0", "tide1"] {
            let disabled =
                std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6")).unwrap();
            assert_eq!(disabled.trim(), "1", "{end}");
        }
    });
}

#[test]
fn the_pair_is_up_and_silent_with_a_queue_per_worker_and_an_mtu_that_fits_a_frame() {
    let Some(gateway) = Namespace::new() else { return };
    gateway.enter_async(async || {
        let (_directory, mut instance) = claimed();
        let netlink = Netlink::connect().unwrap();
        let punt = created(&netlink, &mut instance).await.unwrap();
        assert_eq!(punt.mtu, MULTI_BUFFER_MTU, "lo has 65536");
        for (name, mac) in [("tide0", punt.transmit_mac), ("tide1", punt.receive_mac)] {
            let shown = &gateway.ip_json(&format!("-d link show {name}"))[0];
            assert_eq!(
                (&shown["mtu"], &shown["address"]),
                (&MULTI_BUFFER_MTU.into(), &mac.to_string().into())
            );
            assert_eq!((&shown["num_tx_queues"], &shown["num_rx_queues"]), (&2.into(), &2.into()));
            let flags = shown["flags"].as_array().unwrap();
            assert!(flags.contains(&"UP".into()) && flags.contains(&"NOARP".into()), "{flags:?}");
        }
        assert_eq!(gateway.ip_json("addr show tide0")[0]["addr_info"], serde_json::json!([]));
        let address = &gateway.ip_json("addr show tide1")[0]["addr_info"];
        assert_eq!(address.as_array().unwrap().len(), 1, "no IPv6: {address}");
        assert_eq!((&address[0]["local"], &address[0]["scope"]), (&"127.0.0.84".into(), &"host".into()));
        assert_eq!(netlink.link("tide0").await.unwrap().unwrap().index, punt.transmit);
        instance.end(&netlink, |_| Ok(())).await.unwrap();
        assert_eq!(netlink.link("tide0").await.unwrap(), None);
    });
}

#[test]
fn a_tide0_that_is_not_ours_is_an_error_that_names_it_and_stays() {
    for foreign in ["tide0", "tide1"] {
        let Some(gateway) = Namespace::new() else { return };
        gateway.ip(&format!("link add {foreign} type veth peer name other"));
        gateway.enter_async(async || {
            let (directory, mut instance) = claimed();
            let netlink = Netlink::connect().unwrap();
            let error = created(&netlink, &mut instance).await.unwrap_err();
            assert!(
                format!("{error:#}").starts_with(&format!("device {foreign} exists and is not")),
                "{error:#}"
            );
            drop(instance);
            let mut next = Instance::claim(directory.path()).unwrap();
            next.recover(&netlink, |_| Ok(())).await.unwrap();
            assert!(netlink.link(foreign).await.unwrap().is_some());
        });
    }
}

#[test]
fn a_pair_of_another_state_directory_is_not_ours() {
    let Some(gateway) = Namespace::new() else { return };
    gateway.enter_async(async || {
        let netlink = Netlink::connect().unwrap();
        let (_directory, mut running) = claimed();
        let punt = created(&netlink, &mut running).await.unwrap();
        let (_other_directory, mut second) = claimed();
        let error = created(&netlink, &mut second).await.unwrap_err();
        assert!(format!("{error:#}").contains(&running.directory().display().to_string()), "{error:#}");
        assert_eq!(netlink.link("tide0").await.unwrap().unwrap().index, punt.transmit);
    });
}

#[test]
fn a_pair_that_a_killed_run_left_is_replaced() {
    let Some(gateway) = Namespace::new() else { return };
    gateway.enter_async(async || {
        let netlink = Netlink::connect().unwrap();
        let (directory, mut killed) = claimed();
        let left = created(&netlink, &mut killed).await.unwrap();
        drop(killed);
        let mut next = Instance::claim(directory.path()).unwrap();
        let made = created(&netlink, &mut next).await.unwrap();
        assert_ne!(made.transmit, left.transmit);
    });
}
