//! A bare AF_XDP loop on our socket layer: what came by one device leaves by another, with other MAC addresses.
//!
//! It tracks nothing and looks at nothing. What it carries in a second is the most that any worker on these sockets
//! can: the difference is what the worker does with a packet.

use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::xdp::{AttachPreference, Steering};
use tidegate_dataplane::xsk::{Frame, FrameMemory, Mode, Socket, SocketConfig};

/// As long as the product's: on a machine that is not quiet, how long a ring is decides how long a stall may be.
const RING: u32 = 4096;
const BURST: usize = 64;
const USAGE: &str =
    "usage: bare_loop FROM TO STATION CORE   carries IPv4 to 10.96.0.0/16 from device FROM to device TO";

fn config(device: DeviceIndex) -> SocketConfig {
    SocketConfig {
        device,
        queue: 0,
        rx_ring: RING,
        tx_ring: RING,
        fill_ring: RING,
        completion_ring: RING,
        receives: true,
        zero_copy: true,
        chains: false,
    }
}

fn device(name: &str) -> Result<DeviceIndex> {
    let file = format!("/sys/class/net/{name}/ifindex");
    let text = std::fs::read_to_string(&file).with_context(|| file.clone())?;
    Ok(DeviceIndex(text.trim().parse().context(file)?))
}

fn station(text: &str) -> Result<[u8; 6]> {
    let octets: Option<Vec<u8>> = text.split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets.and_then(|octets| octets.try_into().ok()).ok_or_else(|| anyhow!("{text:?} is no MAC address"))
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, destination, core] = arguments.as_slice() else { return Err(anyhow!(USAGE)) };
    let core = core_affinity::CoreId { id: core.parse().context("core")? };
    let (from_device, to_device) = (device(from)?, device(to)?);
    let source = std::fs::read_to_string(format!("/sys/class/net/{to}/address"))?;
    let mut addresses = [0; 12];
    addresses[..6].copy_from_slice(&station(destination)?);
    addresses[6..].copy_from_slice(&station(source.trim())?);

    let mut steering = Steering::load()?;
    let (memory, mut pool) = FrameMemory::new(4 * RING)?;
    let mut serve = |index, name: &str, steering: &mut Steering| -> Result<Socket> {
        steering.attach(index, name, 1, AttachPreference::NativeThenGeneric)?;
        let socket = Socket::bind(&memory, &config(index), &mut pool)?;
        steering.serve_queue(index, 0, socket.as_fd(), 0)?;
        Ok(socket)
    };
    let mut west = serve(from_device, from, &mut steering)?;
    let mut east = serve(to_device, to, &mut steering)?;
    steering.insert_vip(std::net::Ipv4Addr::new(10, 96, 0, 0).into(), 16)?;
    let heartbeat = steering.heartbeat(0)?;
    anyhow::ensure!(core_affinity::set_for_current(core), "no core {}", core.id);
    let mode = |socket: &Socket| if socket.mode() == Mode::ZeroCopy { "zero-copy" } else { "copy" };
    eprintln!("ready: {from} {} mode, {to} {} mode, polling without pause", mode(&west), mode(&east));

    let mut burst: Vec<Frame> = Vec::with_capacity(BURST);
    loop {
        heartbeat.beat(Now::read());
        west.receive(&mut burst, BURST);
        for frame in &burst {
            memory.prefetch(frame);
        }
        for mut frame in burst.drain(..) {
            memory.octets_mut(&mut frame)[..12].copy_from_slice(&addresses);
            if let Err(frame) = east.transmit(frame) {
                pool.push(frame);
            }
        }
        east.kick();
        east.complete(&mut pool);
        west.refill(&mut pool);
        east.refill(&mut pool);
    }
}

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("bare_loop: {error:#}");
    }
    ExitCode::FAILURE
}
