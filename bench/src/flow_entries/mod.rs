//! An experiment: established flows rewritten and redirected in the XDP program, by entries such as a worker would
//! install. What it brings is in the README; the product does not do it.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use aya::maps::{HashMap, MapData};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use tidegate_dataplane::net::checksum::Difference;

use crate::traffic::targets::{Addressing, ENDPOINT_PORT, ENDPOINTS, Protocol, SERVICE_PORT, Targets};

/// The octets of an object file, aligned as its reader wants them.
#[repr(C, align(8))]
struct Object<T: ?Sized>(T);

static OBJECT: &Object<[u8]> = &Object(*include_bytes!("carry.bpf.o"));

const KEY_BYTES: usize = 16;
const REWRITE_BYTES: usize = 32;

/// Where packets leave.
#[derive(Clone, Copy, Debug)]
pub struct WayOut {
    /// Index of the device.
    pub device: u32,
    /// Its station.
    pub source: [u8; 6],
    /// The next hop's.
    pub destination: [u8; 6],
}

/// The attached program and its entries.
pub struct FlowEntries {
    flows: HashMap<MapData, [u8; KEY_BYTES], [u8; REWRITE_BYTES]>,
    _program: Ebpf,
}

impl FlowEntries {
    /// Attaches the program to a device in the namespace of the calling thread.
    pub fn attach(device: &str) -> Result<Self> {
        let mut program = EbpfLoader::new().load(&OBJECT.0).context("the experiment's program")?;
        let carry: &mut Xdp = program.program_mut("carry").context("carry")?.try_into()?;
        carry.load()?;
        carry.attach(device, XdpMode::Driver)?;
        let flows = program.take_map("flows").context("map flows")?.try_into()?;
        Ok(Self { flows, _program: program })
    }

    /// Installs the request direction of the first `count` UDP flows.
    pub fn install(&mut self, targets: Targets, count: u32, way_out: WayOut) -> Result<()> {
        for number in 0..count {
            let flow = targets.flow(number, Protocol::Udp);
            let endpoint = targets.endpoint(targets.service_of(number, Protocol::Udp), number % ENDPOINTS);
            self.flows.insert(key(&flow), rewrite(&flow, endpoint, way_out), 0).context("map flows")?;
        }
        Ok(())
    }
}

fn key(flow: &Addressing) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..4].copy_from_slice(&flow.client.octets());
    key[4..8].copy_from_slice(&flow.service.octets());
    key[8..10].copy_from_slice(&flow.client_port.to_be_bytes());
    key[10..12].copy_from_slice(&SERVICE_PORT.to_be_bytes());
    key[12..].copy_from_slice(&u32::from(Protocol::Udp.number()).to_ne_bytes());
    key
}

fn rewrite(flow: &Addressing, endpoint: Ipv4Addr, way_out: WayOut) -> [u8; REWRITE_BYTES] {
    let header = Difference::NONE.octets(flow.service.octets(), endpoint.octets());
    let transport = header.octets(SERVICE_PORT.to_be_bytes(), ENDPOINT_PORT.to_be_bytes());
    let mut rewrite = [0; REWRITE_BYTES];
    rewrite[..4].copy_from_slice(&endpoint.octets());
    rewrite[4..6].copy_from_slice(&ENDPOINT_PORT.to_be_bytes());
    rewrite[6..8].copy_from_slice(&header.0.to_be_bytes());
    rewrite[8..10].copy_from_slice(&transport.0.to_be_bytes());
    rewrite[10..16].copy_from_slice(&way_out.destination);
    rewrite[16..22].copy_from_slice(&way_out.source);
    rewrite[24..28].copy_from_slice(&way_out.device.to_ne_bytes());
    rewrite
}
