//! TCP: a stream of octets there and back on one connection, compared as it arrives.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::{Octets, invert};

const MEBIBYTE: usize = 1 << 20;
/// Octets that are made and compared at a time; a multiple of 8, so that both sides cut the stream alike.
const CHUNK: usize = 32 << 10;
/// Longest silence of a connection, that of a gateway's restart included.
const PATIENCE: Duration = Duration::from_secs(20);
const SEED: u64 = 7;

/// Starts a pod's thread; each connection gets one of its own.
pub(crate) fn serve(address: SocketAddrV4) -> anyhow::Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address).with_context(|| format!("TCP {address}"))?;
    Ok(thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || answer(connection));
        }
    }))
}

fn answer(mut connection: TcpStream) {
    let mut octets = vec![0; CHUNK];
    while let Ok(length @ 1..) = connection.read(&mut octets) {
        let answer = &mut octets[..length];
        invert(answer);
        if connection.write_all(answer).is_err() {
            return;
        }
    }
}

/// Sends `mebibytes` and compares as many that come back.
pub(crate) fn exchange(service: SocketAddrV4, mebibytes: usize) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut connection = TcpStream::connect_timeout(&service.into(), PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut upstream = connection.try_clone()?;
    let chunks = mebibytes * MEBIBYTE / CHUNK;
    let sending = thread::spawn(move || {
        let (mut octets, mut source) = (vec![0; CHUNK], Octets::new(SEED));
        for _ in 0..chunks {
            source.fill(&mut octets);
            upstream.write_all(&octets)?;
        }
        upstream.shutdown(Shutdown::Write)
    });
    let (mut octets, mut expected, mut source) = (vec![0; CHUNK], vec![0; CHUNK], Octets::new(SEED));
    for chunk in 0..chunks {
        connection.read_exact(&mut octets).with_context(|| format!("chunk {chunk} of {chunks}"))?;
        source.fill(&mut expected);
        invert(&mut expected);
        ensure!(octets == expected, "chunk {chunk} of {chunks} is not the inverse of what was sent");
    }
    ensure!(connection.read(&mut octets)? == 0, "more came back than was sent");
    sending.join().ok().context("the sender panicked")?.context("sending")?;
    println!(
        "{mebibytes} MiB there and back in {:.1} s, every octet compared",
        start.elapsed().as_secs_f32()
    );
    Ok(())
}
