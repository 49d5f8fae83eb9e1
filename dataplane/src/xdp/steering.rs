//! Loading the XDP program, attaching it to devices, and giving it the sockets of their queues.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use aya::maps::{Array, HashMap as KernelHashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::xdp::{XdpLinkId, XdpMode};
use aya::programs::{ProgramError, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

use super::attached::Link;
use super::entries::Room;
use super::error::{AttachError, AttachFailure, Error, kernel_error, unusable, unverified};
use super::heartbeat::{HEARTBEAT_BYTES, Heartbeat};
use super::sockets::{ADDRESS_BYTES, ENDPOINT_BYTES, SocketMaps};
use crate::net::Mac;
use crate::routes::DeviceIndex;
use crate::xsk::mapping::Mapping;

/// The most devices the program can be attached to.
pub const MAX_DEVICES: u32 = 16;
/// The most RX queues a device can have.
pub const MAX_QUEUES: u32 = 64;
/// The most workers there can be.
pub const MAX_WORKERS: u32 = 256;

/// Octets of `struct device` in `maps.bpf.h`.
const DEVICE_BYTES: usize = 12;

/// The program for devices whose packets come in one buffer, and the one for those with packets in several. The second
/// is loaded when a device wants it: the flag that it takes is unknown to kernels before 5.18.
const STEER: &str = "steer";
const STEER_CHAINS: &str = "steer_chains";

/// Source: `include/uapi/linux/bpf.h`, `enum xdp_action`.
const XDP_REDIRECT: u32 = 4;

/// The object, aligned as its ELF header wants it.
#[repr(C, align(8))]
struct Object<T: ?Sized>(T);
static OBJECT: &Object<[u8]> = &Object(*include_bytes!("steer.bpf.o"));

/// The loaded program, its maps and the devices it is attached to.
///
/// Links and maps are this process's: when it ends, by whatever end, devices are free of the program.
pub struct Steering {
    ebpf: Ebpf,
    attached: Vec<Attached>,
    devices: KernelHashMap<MapData, u32, [u8; DEVICE_BYTES]>,
    xsks: XskMap<MapData>,
    queue_worker: Array<MapData, u32>,
    /// Open for as long as a program may still be loaded, which names it by its descriptor.
    _heartbeat_map: MapData,
    heartbeats: Arc<Mapping>,
    pub(super) vip_prefixes: LpmTrie<MapData, [u8; ADDRESS_BYTES], u8>,
    pub(super) endpoints: SocketMaps,
    pub(super) own_addresses: KernelHashMap<MapData, [u8; ADDRESS_BYTES], u8>,
    pub(super) served: SocketMaps,
    pub(super) listeners: KernelHashMap<MapData, [u8; ENDPOINT_BYTES], u8>,
    pub(super) masquerade_ports: Array<MapData, u32>,
    pub(super) counters: PerCpuArray<MapData, u64>,
}

/// What way of attaching to try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachPreference {
    /// In the driver; where the driver cannot (`EOPNOTSUPP`), generic.
    NativeThenGeneric,
    /// After the kernel has made a socket buffer: slower, on any device.
    GenericOnly,
}

/// Where the program runs on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// After the kernel has made a socket buffer. GRO and LRO must be off ([`super::Offloads`]), and sockets in copy
    /// mode.
    Generic,
}

#[derive(Debug)]
struct Attached {
    device: DeviceIndex,
    program: &'static str,
    queues: u32,
    /// The slot of the device's queue 0.
    first_slot: u32,
    link: XdpLinkId,
}

impl Steering {
    /// Loads the program and makes its maps, empty: attached now, it would pass everything.
    pub fn load() -> Result<Self, Error> {
        Self::load_with(Room::default())
    }

    /// Loads the program as [`Steering::load`] does, with maps of that size.
    pub fn load_with(room: Room) -> Result<Self, Error> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("vip_prefixes", room.vip_prefixes)
            .map_max_entries("endpoints", room.endpoints)
            .map_max_entries("endpoint_addrs", room.endpoints)
            .load(&OBJECT.0)
            .map_err(|error| Error::Load(Box::new(error)))?;
        program(&mut ebpf, STEER).and_then(Xdp::load).map_err(unverified)?;
        let heartbeat_map = match ebpf.take_map("heartbeats") {
            Some(Map::Array(map)) => map,
            _ => return Err(Error::Missing("map heartbeats")),
        };
        let bytes = MAX_WORKERS as usize * HEARTBEAT_BYTES;
        let heartbeats = Mapping::shared(heartbeat_map.fd().as_fd(), bytes, 0).map_err(Error::Heartbeats)?;
        Ok(Self {
            devices: take(&mut ebpf, "devices")?,
            xsks: take(&mut ebpf, "xsks")?,
            queue_worker: take(&mut ebpf, "queue_worker")?,
            _heartbeat_map: heartbeat_map,
            heartbeats: Arc::new(heartbeats),
            vip_prefixes: take(&mut ebpf, "vip_prefixes")?,
            endpoints: SocketMaps::take(&mut ebpf, ["endpoints", "endpoint_addrs"])?,
            own_addresses: take(&mut ebpf, "own_addresses")?,
            served: SocketMaps::take(&mut ebpf, ["served_sockets", "served_addrs"])?,
            listeners: take(&mut ebpf, "listeners")?,
            masquerade_ports: take(&mut ebpf, "masquerade_ports")?,
            counters: take(&mut ebpf, "counters")?,
            attached: Vec::new(),
            ebpf,
        })
    }

    /// Attaches the program to a device with `queues` RX queues; `name` is for messages.
    ///
    /// Until queues are served it passes all. A device with another XDP program is refused, naming that program.
    /// Frames are taken that bear the MAC which the device has now, or that [`Self::set_mac`] told last.
    pub fn attach(
        &mut self,
        device: DeviceIndex,
        name: &str,
        queues: u32,
        want: AttachPreference,
    ) -> Result<AttachMode, AttachError> {
        let attached = self.attach_device(STEER, device, queues, want);
        attached.map_err(|failure| AttachError { device, name: name.to_owned(), failure })
    }

    /// Attaches as [`Self::attach`] does, for a device whose packets may come in several buffers, as those of an MTU that
    /// does not fit one do. The driver must have that ([`super::DriverFeatures`]), and sockets must be bound for it.
    pub fn attach_for_chains(
        &mut self,
        device: DeviceIndex,
        name: &str,
        queues: u32,
        want: AttachPreference,
    ) -> Result<AttachMode, AttachError> {
        let attached = self.attach_device(STEER_CHAINS, device, queues, want);
        attached.map_err(|failure| AttachError { device, name: name.to_owned(), failure })
    }

    fn attach_device(
        &mut self,
        program: &'static str,
        device: DeviceIndex,
        queues: u32,
        want: AttachPreference,
    ) -> Result<AttachMode, AttachFailure> {
        if queues == 0 || queues > MAX_QUEUES {
            return Err(AttachFailure::Queues { queues, limit: MAX_QUEUES });
        }
        if self.attached.iter().any(|attached| attached.device == device) {
            return Err(AttachFailure::Twice);
        }
        let found = Link::read(device).map_err(AttachFailure::Kernel)?;
        if let Some(id) = found.program {
            return Err(AttachFailure::OtherProgram { id });
        }
        let mac = found.mac.ok_or(AttachFailure::NotEthernet)?;
        let first_slot = (0..MAX_DEVICES)
            .map(|number| number * MAX_QUEUES)
            .find(|slot| self.attached.iter().all(|attached| attached.first_slot != *slot))
            .ok_or(AttachFailure::TooManyDevices { limit: MAX_DEVICES })?;
        self.devices
            .insert(device.0, device_value(first_slot, mac), 0)
            .map_err(|error| AttachFailure::Maps(Box::new(map_error("devices", device.0, error))))?;
        match self.attach_program(program, device, want) {
            Ok((link, mode)) => {
                self.attached.push(Attached { device, program, queues, first_slot, link });
                Ok(mode)
            }
            Err(failure) => {
                let _was_just_inserted = self.devices.remove(&device.0);
                Err(failure)
            }
        }
    }

    fn attach_program(
        &mut self,
        name: &str,
        device: DeviceIndex,
        want: AttachPreference,
    ) -> Result<(XdpLinkId, AttachMode), AttachFailure> {
        let refused = |error| AttachFailure::Maps(Box::new(error));
        let xdp = program(&mut self.ebpf, name).map_err(unusable).map_err(refused)?;
        if xdp.fd().is_err() {
            xdp.load().map_err(unverified).map_err(refused)?;
        }
        if want == AttachPreference::NativeThenGeneric {
            match xdp.attach_to_if_index(device.0, XdpMode::Driver).map_err(kernel_error) {
                Ok(link) => return Ok((link, AttachMode::Native)),
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => return Err(AttachFailure::Kernel(error)),
            }
        }
        let link = xdp.attach_to_if_index(device.0, XdpMode::Skb).map_err(kernel_error);
        Ok((link.map_err(AttachFailure::Kernel)?, AttachMode::Generic))
    }

    /// Takes the program off a device, which the kernel then has to itself again.
    pub fn detach(&mut self, device: DeviceIndex) -> Result<(), Error> {
        let position = self.attached.iter().position(|attached| attached.device == device);
        let attached = self.attached.swap_remove(position.ok_or(Error::NotAttached(device))?);
        program(&mut self.ebpf, attached.program)
            .and_then(|xdp| xdp.detach(attached.link))
            .map_err(unusable)?;
        for slot in attached.first_slot..attached.first_slot + attached.queues {
            self.queue_worker.set(slot, 0, 0).map_err(|error| map_error("queue_worker", slot, error))?;
            self.xsks.unset(slot).map_err(|error| map_error("xsks", slot, error))?;
        }
        self.devices.remove(&device.0).map_err(|error| map_error("devices", device.0, error))
    }

    /// Has frames taken that bear this MAC, after that of the device was changed.
    ///
    /// Setting the MAC it has already changes nothing. Cost: one system call.
    pub fn set_mac(&mut self, device: DeviceIndex, mac: Mac) -> Result<(), Error> {
        let first_slot = self.attached(device)?.first_slot;
        self.devices
            .insert(device.0, device_value(first_slot, mac), 0)
            .map_err(|error| map_error("devices", device.0, error))
    }

    fn attached(&self, device: DeviceIndex) -> Result<&Attached, Error> {
        let attached = self.attached.iter().find(|attached| attached.device == device);
        attached.ok_or(Error::NotAttached(device))
    }

    /// Sends the packets taken from a device's queue to `socket`, which `worker` reads.
    ///
    /// The kernel drops the entry when the socket is closed, and then the queue passes.
    pub fn serve_queue(
        &mut self,
        device: DeviceIndex,
        queue: u32,
        socket: BorrowedFd<'_>,
        worker: u32,
    ) -> Result<(), Error> {
        let attached = self.attached(device)?;
        if queue >= attached.queues {
            return Err(Error::OutOfRange { what: "RX queue", value: queue, limit: attached.queues });
        }
        if worker >= MAX_WORKERS {
            return Err(Error::OutOfRange { what: "worker", value: worker, limit: MAX_WORKERS });
        }
        let slot = attached.first_slot + queue;
        let name = format!("{slot} (device {} queue {queue})", device.0);
        self.queue_worker
            .set(slot, worker + 1, 0)
            .map_err(|error| map_error("queue_worker", &name, error))?;
        self.xsks.set(slot, socket.as_raw_fd(), 0).map_err(|error| map_error("xsks", &name, error))
    }

    /// Returns what `worker` writes its signs of life to.
    pub fn heartbeat(&self, worker: u32) -> Result<Heartbeat, Error> {
        Heartbeat::new(Arc::clone(&self.heartbeats), worker)
    }

    /// Runs the program on `packet` as if it had come by a queue of `device`, and says whether it would be taken.
    ///
    /// The packet goes nowhere; the counters count it. A packet has at least 14 octets.
    pub fn would_take(&mut self, packet: &[u8], device: DeviceIndex, queue: u32) -> Result<bool, Error> {
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, packet.len() as u32, 0, device.0, queue, 0].map(u32::to_ne_bytes);
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.ctx_in = Some(context.as_flattened());
        let result =
            program(&mut self.ebpf, STEER).and_then(|xdp| xdp.test_run(options)).map_err(unusable)?;
        Ok(result.return_value == XDP_REDIRECT)
    }
}

/// Lays a device out as `struct device` in `maps.bpf.h`.
fn device_value(first_slot: u32, mac: Mac) -> [u8; DEVICE_BYTES] {
    let ([a, b, c, d], Mac([m0, m1, m2, m3, m4, m5])) = (first_slot.to_ne_bytes(), mac);
    [a, b, c, d, m0, m1, m2, m3, m4, m5, 0, 0]
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, ProgramError> {
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
}

pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    map: &'static str,
) -> Result<T, Error> {
    let taken = ebpf.take_map(map).ok_or(Error::Missing(map))?;
    T::try_from(taken).map_err(|error| map_error(map, "(any)", error))
}

pub(super) fn map_error(map: &'static str, key: impl ToString, error: MapError) -> Error {
    Error::Map { map, key: key.to_string(), error }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::net::header_chain::{CHAIN_BYTES_MAX, HEADERS_MAX};
    use crate::net::{Port, Protocol};
    use crate::xdp::HEARTBEAT_LIMIT;
    use crate::xdp::entries::{
        MAX_ENDPOINTS, MAX_LISTENERS, MAX_OWN_ADDRESSES, MAX_SERVED_SOCKETS, MAX_VIP_PREFIXES,
    };

    #[test]
    fn the_object_is_aligned_for_its_headers() {
        assert_eq!(OBJECT.0.as_ptr().align_offset(8), 0);
    }

    /// Linux 6.1 and up look at a million and give up (`BPF_COMPLEXITY_LIMIT_INSNS`, `include/linux/bpf.h`); how many
    /// are needed differs between kernels.
    #[test]
    fn the_verifier_looks_at_a_tenth_of_the_instructions_that_it_may() {
        let mut steering = match Steering::load() {
            Ok(steering) => steering,
            Err(error) => {
                assert!(error.to_string().contains("run as root"), "{error}");
                println!("skipped: needs root");
                return;
            }
        };
        let info = program(&mut steering.ebpf, STEER).unwrap().info().unwrap();
        let looked_at = info.verified_instruction_count().unwrap();
        println!("{looked_at} instructions verified");
        assert!((1..100_000).contains(&looked_at), "{looked_at}");
    }

    #[test]
    fn maps_have_the_room_that_is_asked_for_and_say_when_they_are_full() {
        let room = Room { vip_prefixes: 2, endpoints: 3 };
        let mut steering = match Steering::load_with(room) {
            Ok(steering) => steering,
            Err(error) => {
                assert!(error.to_string().contains("run as root"), "{error}");
                println!("skipped: needs root");
                return;
            }
        };
        let address = |last| IpAddr::from([10, 244, 0, last]);
        let mut insert = |last| steering.insert_endpoint(address(last), Port::new(80), Protocol::Tcp);
        (1..=3).for_each(|last| insert(last).unwrap());
        let error = insert(4).unwrap_err().to_string();
        assert!(error.contains("10.244.0.4:80/TCP") && error.contains("the map is full"), "{error}");
        insert(3).unwrap();
        (1..=2).for_each(|last| steering.insert_vip(address(last), 32).unwrap());
        let error = steering.insert_vip(address(3), 32).unwrap_err().to_string();
        assert!(error.contains("10.244.0.3") && error.contains("the map is full"), "{error}");
    }

    #[test]
    fn the_sizes_are_those_of_the_program() {
        let source =
            concat!(include_str!("maps.bpf.h"), include_str!("headers.bpf.h"), include_str!("steer.bpf.c"));
        let sizes = [
            ("MAX_DEVICES", MAX_DEVICES),
            ("MAX_QUEUES", MAX_QUEUES),
            ("MAX_WORKERS", MAX_WORKERS),
            ("MAX_VIP_PREFIXES", MAX_VIP_PREFIXES),
            ("MAX_ENDPOINTS", MAX_ENDPOINTS),
            ("MAX_OWN_ADDRESSES", MAX_OWN_ADDRESSES),
            ("MAX_LISTENERS", MAX_LISTENERS),
            ("MAX_SERVED_SOCKETS", MAX_SERVED_SOCKETS),
            ("MAX_EXTENSION_HEADERS", HEADERS_MAX as u32),
            ("MAX_EXTENSION_BYTES", CHAIN_BYTES_MAX as u32),
        ];
        for (name, size) in sizes {
            let line = source.lines().find(|line| line.starts_with(&format!("#define {name} "))).unwrap();
            assert_eq!(line, format!("#define {name} {size}"));
        }
        assert!(source.contains(&format!("unused[{}]", HEARTBEAT_BYTES / 8 - 1)));
        let limit = format!("#define HEARTBEAT_LIMIT_NS {}LL", HEARTBEAT_LIMIT.as_nanos());
        assert!(source.lines().any(|line| line == limit));
    }
}
