//! The other ends of the wires in the guest that `tools/zero-copy` boots: pods that answer, clients that compare.
//!
//! A pod inverts every octet, so that a packet that merely came back is no answer.

mod datagrams;
mod drain;
mod transfer;

use std::env;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

use anyhow::{Context, bail};

const USAGE: &str = "usage: guest_peer serve ADDR:PORT...         answer UDP and TCP there
       guest_peer datagrams ADDR:PORT COUNT      send datagrams, await and compare each answer
       guest_peer burst ADDR:PORT COUNT          send them without waiting, compare what is answered
       guest_peer stream ADDR:PORT COUNT         send one a millisecond, await nothing
       guest_peer transfer ADDR:PORT MEBIBYTES   the same octets both ways on one TCP connection, compared
       guest_peer drain DEVICE ADDR              empty and refill a zero-copy socket that gets a `stream`";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", addresses @ ..] if !addresses.is_empty() => serve(addresses),
        ["datagrams", service, count] => datagrams::exchange(parse(service)?, parse(count)?),
        ["burst", service, count] => datagrams::burst(parse(service)?, parse(count)?),
        ["stream", service, count] => datagrams::stream(parse(service)?, parse(count)?),
        ["transfer", service, mebibytes] => transfer::exchange(parse(service)?, parse(mebibytes)?),
        ["drain", device, address] => drain::drain(device, parse::<Ipv4Addr>(address)?),
        _ => bail!("{USAGE}"),
    }
}

fn parse<T: FromStr>(word: &str) -> anyhow::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    word.parse().with_context(|| format!("`{word}`"))
}

/// Answers at all addresses until it is killed.
fn serve(addresses: &[&str]) -> anyhow::Result<()> {
    let mut threads = Vec::new();
    for address in addresses {
        let address: SocketAddrV4 = parse(address)?;
        threads.extend([datagrams::serve(address)?, transfer::serve(address)?]);
    }
    for thread in threads {
        let _ended_by_a_panic = thread.join();
    }
    bail!("a server ended")
}

/// Octets that look random and follow from a seed.
struct Octets(u64);

impl Octets {
    fn new(seed: u64) -> Self {
        // Any odd factor spreads the seeds; the state must not be 0.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Fills `octets` with what comes next. Source: Marsaglia, "Xorshift RNGs", 2003, the 64-bit triple 13, 7, 17.
    fn fill(&mut self, octets: &mut [u8]) {
        for chunk in octets.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_be_bytes()[..chunk.len()]);
        }
    }
}

/// Makes an answer of what a client sent.
fn invert(octets: &mut [u8]) {
    octets.iter_mut().for_each(|octet| *octet = !*octet);
}
