//! UDP: datagrams of every size, one answer each, every octet compared.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::{Octets, invert};

/// Sockets of a client: flows that are open at once, and datagrams under way.
const FLOWS: u32 = 32;
/// UDP payload of a packet of 1500 octets.
const LONGEST: u32 = 1472;
/// An answer takes milliseconds; under emulation on a busy machine some tenths of a second.
const PATIENCE: Duration = Duration::from_secs(5);
/// After this long without an answer no more are awaited.
const QUIET: Duration = Duration::from_secs(2);

/// Starts a pod's thread.
pub(crate) fn serve(address: SocketAddrV4) -> anyhow::Result<JoinHandle<()>> {
    let socket = UdpSocket::bind(address).with_context(|| format!("UDP {address}"))?;
    Ok(thread::spawn(move || {
        let mut octets = [0; 2048];
        while let Ok((length, client)) = socket.recv_from(&mut octets) {
            let answer = &mut octets[..length];
            invert(answer);
            // A full send queue loses the answer, as a network may; whoever awaits it says so.
            let _ = socket.send_to(answer, client);
        }
    }))
}

/// The payload of datagram `number`, of 1 to `longest` octets: sizes go up and down through the whole range.
fn payload(number: u32, longest: u32) -> Vec<u8> {
    let mut octets = vec![0; 1 + (number * 677 % longest) as usize];
    Octets::new(u64::from(number)).fill(&mut octets);
    octets
}

/// The payload of datagram `number` of a burst or stream: the number, and at most 200 octets that follow from it.
pub(crate) fn numbered(number: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], &payload(number, 200)].concat()
}

/// Returns the number that a payload made by [`numbered`] begins with.
pub(crate) fn number(payload: &[u8]) -> anyhow::Result<u32> {
    let number = payload.first_chunk().context("a payload too short for its number")?;
    Ok(u32::from_be_bytes(*number))
}

fn client(service: SocketAddrV4, patience: Duration) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(service)?;
    socket.set_read_timeout(Some(patience))?;
    Ok(socket)
}

/// Sends `count` datagrams over several flows, a few at a time; each must be answered, rightly.
pub(crate) fn exchange(service: SocketAddrV4, count: u32) -> anyhow::Result<()> {
    let sockets = (0..FLOWS).map(|_| client(service, PATIENCE)).collect::<Result<Vec<_>, _>>()?;
    let mut octets = [0; 2048];
    let (mut next, mut compared) = (0, 0);
    while next < count {
        let under_way = (next..count).zip(&sockets);
        for (number, socket) in under_way.clone() {
            socket.send(&payload(number, LONGEST))?;
        }
        for (number, socket) in under_way {
            let length = socket.recv(&mut octets).with_context(|| format!("answer to datagram {number}"))?;
            let mut expected = payload(number, LONGEST);
            invert(&mut expected);
            ensure!(octets[..length] == expected[..], "the answer to datagram {number} is not its inverse");
            compared += length;
        }
        next += FLOWS.min(count - next);
    }
    println!("{count} datagrams over {FLOWS} flows, {compared} octets compared, none lost");
    Ok(())
}

/// Sends `count` datagrams at once; compares what is answered, which need not be all.
pub(crate) fn burst(service: SocketAddrV4, count: u32) -> anyhow::Result<()> {
    let socket = client(service, QUIET)?;
    let sender = socket.try_clone()?;
    let sending =
        thread::spawn(move || (0..count).filter(|number| sender.send(&numbered(*number)).is_ok()).count());
    let mut octets = [0; 2048];
    let mut answered = vec![false; count as usize];
    while let Ok(length) = socket.recv(&mut octets) {
        invert(&mut octets[..length]);
        let number = number(&octets[..length])?;
        let known = answered.get_mut(number as usize);
        let known = known.with_context(|| format!("an answer to datagram {number}, which was never sent"))?;
        ensure!(!*known, "datagram {number} is answered twice");
        ensure!(octets[..length] == numbered(number), "the answer to datagram {number} is not its inverse");
        *known = true;
    }
    let sent = sending.join().ok().context("the sender panicked")?;
    let answered = answered.iter().filter(|answered| **answered).count();
    println!("{sent} datagrams at once, {answered} answered, every octet of those compared");
    Ok(())
}

/// Sends `count` numbered datagrams, one a millisecond.
pub(crate) fn stream(service: SocketAddrV4, count: u32) -> anyhow::Result<()> {
    let socket = client(service, QUIET)?;
    for number in 0..count {
        // Nobody answers, and an ICMP error of the other end is no reason to stop.
        let _ = socket.send(&numbered(number));
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
