//! The packet path of one worker on real frames, with a wire that gives every frame back.

use std::sync::Arc;
use std::time::Duration;

use tidegate_dataplane::clock::Now;
use tidegate_dataplane::flows::{FlowTable, FlowTables, Key};
use tidegate_dataplane::neighbours::NextHop;
use tidegate_dataplane::net::{Mac, Protocol, tcp};
use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::snapshot::Snapshot;
use tidegate_dataplane::verdict::DropReason;
use tidegate_dataplane::worker::{BURST, Path, PuntAddresses, Wire};
use tidegate_dataplane::xsk::{Frame, FrameMemory};

use crate::bursts::time;
use crate::cluster;
use crate::packet::{self, PACKET_BYTES};

/// Frames of a worker: as many as fill the rings of two devices.
const FRAMES: u32 = 4096;

/// Keeps what leaves until its frames are taken back.
#[derive(Default)]
struct Returning(Vec<Frame>);

impl Wire for Returning {
    fn transmit(&mut self, _: DeviceIndex, frame: Frame) -> Result<(), (Frame, DropReason)> {
        self.0.push(frame);
        Ok(())
    }

    fn punt(&mut self, frame: Frame) -> Result<(), (Frame, DropReason)> {
        Err((frame, DropReason::NoTxQueue))
    }

    fn resolve(&mut self, _: NextHop) {}
}

/// A worker's path, its tables, and the flows it knows.
pub struct Gateway {
    /// The flow table, for benches that look into it.
    pub flows: Arc<FlowTables>,
    /// The tables in force.
    pub snapshot: Snapshot,
    path: Path,
    wire: Returning,
    burst: Vec<Frame>,
}

impl Gateway {
    /// Makes a gateway whose table has room for a third more than `flows`.
    ///
    /// # Panics
    /// If there is no memory for it.
    #[must_use]
    pub fn new(flows: u32) -> Self {
        let (memory, pool) = FrameMemory::new(FRAMES).expect("memory for frames");
        let ipv4 = FlowTable::in_memory(flows + flows / 3 + 64).expect("memory for flows");
        let flows = FlowTables { ipv4, ..FlowTables::in_memory(64).expect("memory for flows") };
        let flows = Arc::new(flows);
        let punt = PuntAddresses { source: Mac::default(), destination: Mac::default() };
        let path = Path::new(memory, pool, Arc::clone(&flows), punt);
        let wire = Returning(Vec::with_capacity(BURST));
        Self { flows, snapshot: cluster::snapshot(), path, wire, burst: Vec::with_capacity(BURST) }
    }

    /// Makes a gateway that knows flows 0 to `count` of a protocol, both directions seen.
    #[must_use]
    pub fn with_flows(count: u32, protocol: Protocol) -> Self {
        let mut gateway = Self::new(count);
        let numbers: Vec<u32> = (0..count).collect();
        let steps: [(bool, tcp::Flags); 3] = [
            (false, tcp::Flags::SYN),
            (true, tcp::Flags::SYN.with(tcp::Flags::ACK)),
            (false, tcp::Flags::ACK),
        ];
        for (is_reply, flags) in steps {
            for numbers in numbers.chunks(BURST) {
                let packets = numbers.iter().map(|number| {
                    let key = cluster::request(*number, protocol);
                    gateway.packet(if is_reply { gateway.reply(&key) } else { key }, flags)
                });
                let packets: Vec<_> = packets.collect();
                gateway.carry(packets);
            }
        }
        assert_eq!(gateway.flows.len(), count as usize, "every flow is in the table");
        gateway
    }

    /// Returns the key of the packets that come back to a flow.
    ///
    /// # Panics
    /// If the key is none of the cluster's.
    #[must_use]
    pub fn reply(&self, request: &Key) -> Key {
        cluster::reply(request, &self.snapshot).expect("every Service has backends")
    }

    /// Makes a packet of a flow; `flags` are for TCP alone.
    #[must_use]
    pub fn packet(&self, key: Key, flags: tcp::Flags) -> [u8; PACKET_BYTES] {
        match key.protocol {
            Protocol::Udp => packet::udp(&key),
            _ => packet::tcp(&key, flags),
        }
    }

    /// Carries up to [`BURST`] packets and returns how long that took, the reading of the clock included.
    ///
    /// # Panics
    /// If a packet is neither forwarded nor answered: then something else is measured than was meant.
    pub fn carry(&mut self, packets: impl IntoIterator<Item = [u8; PACKET_BYTES]>) -> Duration {
        for octets in packets {
            let mut frame = self.path.pool.pop().expect("the wire gives frames back");
            self.path.memory.octets_mut(&mut frame)[..PACKET_BYTES].copy_from_slice(&octets);
            frame.set_len(PACKET_BYTES);
            self.burst.push(frame);
        }
        let count = self.burst.len();
        let taken = time(|| {
            let now = Now::read();
            self.path.carry(cluster::CLIENT_SIDE, &mut self.burst, &self.snapshot, now, &mut self.wire);
        });
        assert_eq!(self.wire.0.len(), count, "{:?}", self.path.counters);
        self.wire.0.drain(..).for_each(|frame| self.path.pool.push(frame));
        taken
    }
}
