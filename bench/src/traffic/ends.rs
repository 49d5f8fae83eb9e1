//! Loads the programs at both ends of the traffic and reads what they counted.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, anyhow};
use aya::maps::{Array, MapData, PerCpuArray, XskMap};
use aya::programs::{SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::latency::{histogram, middle_of_bucket};
use super::targets::CLIENTS;
use crate::netns;

/// The octets of an object file, aligned as its reader wants them.
#[repr(C, align(8))]
struct Object<T: ?Sized>(T);

static OBJECT: &Object<[u8]> = &Object(*include_bytes!("ends.bpf.o"));

/// Where the counts stand in their map, as the program has them.
const COUNTS: u32 = 6;

/// A device in a namespace.
#[derive(Clone, Debug)]
pub struct Place {
    /// The namespace's name.
    pub namespace: String,
    /// The device's name.
    pub device: String,
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, device) =
            text.split_once(':').ok_or_else(|| format!("{text:?} is not NAMESPACE:DEVICE"))?;
        Ok(Self { namespace: namespace.to_owned(), device: device.to_owned() })
    }
}

/// What the sink counted since it was attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Packets with a stamp.
    pub received: u64,
    /// Of these, packets that came after a later one of their flow, or twice.
    pub reordered: u64,
    /// SYNs.
    pub opened: u64,
    /// FINs.
    pub closed: u64,
    /// Segments without a stamp that neither open nor close.
    pub without_data: u64,
}

impl Counts {
    /// Returns what came since `earlier`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            received: self.received - earlier.received,
            reordered: self.reordered - earlier.reordered,
            opened: self.opened - earlier.opened,
            closed: self.closed - earlier.closed,
            without_data: self.without_data - earlier.without_data,
        }
    }
}

/// The two attached programs; detached when the value goes.
pub struct Ends {
    settings: Array<MapData, [u8; 16]>,
    counts: PerCpuArray<MapData, u64>,
    latencies: PerCpuArray<MapData, u64>,
    sockets: XskMap<MapData>,
    _programs: Ebpf,
}

impl Ends {
    /// Attaches `collect` to the client's device and `arrive` to the sink's.
    pub fn attach(client: &Place, sink: &Place) -> Result<Self> {
        let mut programs = EbpfLoader::new().load(&OBJECT.0).context("programs of the traffic's ends")?;
        netns::within(&sink.namespace, || {
            let arrive: &mut SchedClassifier =
                programs.program_mut("arrive").context("arrive")?.try_into()?;
            arrive.load()?;
            arrive.attach(&sink.device, TcAttachType::Ingress)?;
            Ok(())
        })
        .with_context(|| format!("sink {sink:?}"))?;
        netns::within(&client.namespace, || {
            let collect: &mut Xdp = programs.program_mut("collect").context("collect")?.try_into()?;
            collect.load()?;
            collect.attach(&client.device, XdpMode::default())?;
            Ok(())
        })
        .with_context(|| format!("client {client:?}"))?;
        let mut take = |name| programs.take_map(name).ok_or_else(|| anyhow!("map {name}"));
        let mut ends = Self {
            settings: take("settings")?.try_into()?,
            counts: take("counts")?.try_into()?,
            latencies: take("latencies")?.try_into()?,
            sockets: take("sockets")?.try_into()?,
            _programs: programs,
        };
        ends.echo_below(0)?;
        Ok(ends)
    }

    /// Lets the sink send datagrams back whose sequence number is lower than this.
    pub fn echo_below(&mut self, sequence: u32) -> Result<()> {
        let mask = Ipv4Addr::from_bits(u32::MAX << (32 - CLIENTS.1));
        let mut settings = [0; 16];
        settings[..4].copy_from_slice(&CLIENTS.0.octets());
        settings[4..8].copy_from_slice(&mask.octets());
        settings[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Ok(self.settings.set(0, settings, 0)?)
    }

    /// Gives the replies of a queue of the client's device to a socket.
    pub fn give_replies(&mut self, queue: u32, socket: &impl AsRawFd) -> Result<()> {
        Ok(self.sockets.set(queue, socket.as_raw_fd(), 0)?)
    }

    /// Reads what the sink counted so far.
    pub fn counts(&self) -> Result<Counts> {
        let mut all = [0; COUNTS as usize];
        for (place, count) in (0..).zip(&mut all) {
            *count = self.counts.get(&place, 0)?.iter().sum();
        }
        let [received, reordered, opened, closed, without_data, _not_ours] = all;
        Ok(Counts { received, reordered, opened, closed, without_data })
    }

    /// Reads how many packets fell into each bucket of latencies so far.
    pub fn buckets(&self) -> Result<Buckets> {
        let all: Result<Vec<u64>, _> =
            self.latencies.iter().map(|cpus| cpus.map(|cpus| cpus.iter().sum())).collect();
        Ok(Buckets(all?))
    }
}

/// The program `collect` alone, on a device all of whose UDP and TCP goes to sockets.
pub struct Collector {
    sockets: XskMap<MapData>,
    _program: Ebpf,
}

impl Collector {
    /// Attaches it to a device in the namespace of the calling thread.
    pub fn attach(device: &str) -> Result<Self> {
        let mut program = EbpfLoader::new().load(&OBJECT.0).context("programs of the traffic's ends")?;
        let collect: &mut Xdp = program.program_mut("collect").context("collect")?.try_into()?;
        collect.load()?;
        collect.attach(device, XdpMode::default())?;
        let sockets = program.take_map("sockets").context("map sockets")?.try_into()?;
        Ok(Self { sockets, _program: program })
    }

    /// Gives what comes by a queue to a socket.
    pub fn give(&mut self, queue: u32, socket: &impl AsRawFd) -> Result<()> {
        Ok(self.sockets.set(queue, socket.as_raw_fd(), 0)?)
    }
}

/// How many packets fell into each bucket of latencies.
#[derive(Clone, Debug)]
pub struct Buckets(Vec<u64>);

impl Buckets {
    /// Returns the latencies that came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Histogram<u64> {
        let mut all = histogram();
        for (bucket, (now, before)) in (0..).zip(self.0.iter().zip(&earlier.0)) {
            // A record of none would count for the longest.
            if now > before {
                all.saturating_record_n(middle_of_bucket(bucket).max(1), now - before);
            }
        }
        all
    }
}
