//! Handing whole tables to the workers by one pointer swap.
//!
//! The invariant: a table that a worker may still read is never freed, and it is freed by the control thread.
//! A worker refreshes between bursts and acknowledges the generation it now uses. Before it sleeps it parks: it
//! promises to refresh before its first packet, so publication need not wait for it. The publisher keeps each
//! retired snapshot until every worker has acknowledged a later one (a parked worker still holds what it saw
//! last, so for freeing, parking does not count).

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use arc_swap::{ArcSwap, Cache};
use crossbeam::utils::CachePadded;

use crate::departed::Departed;
use crate::masquerade::Masquerade;
use crate::neighbours::Neighbours;
use crate::net::{Address, Mac, Port, Prefix, Protocol};
use crate::routes::{DeviceIndex, Routes};
use crate::services::{Called, Destination, Services};

/// A device that we serve, as the packet path needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// The kernel's number.
    pub index: DeviceIndex,
    /// The address that frames leave with.
    pub mac: Mac,
    /// Longest IP packet of the link, in octets.
    pub mtu: usize,
    /// Its primary addresses of global scope with their networks, of both families, in the kernel's order.
    pub addresses: Arc<[Prefix]>,
}

impl Device {
    /// Returns the box's own address of a family on that link: the sender of ICMP errors of ours that leave by it.
    #[must_use]
    pub fn address<A: Address>(&self) -> Option<A> {
        self.addresses.iter().find_map(|own| A::of(own.address))
    }
}

/// Everything that a worker needs to decide, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counts publications.
    pub generation: u64,
    /// Counts publications that changed routes, neighbours or devices: the tag of cached next hops.
    pub links_generation: u32,
    /// Virtual addresses and their backends.
    pub services: Services,
    /// The kernel's routes.
    pub routes: Arc<Routes>,
    /// The kernel's neighbours that we use.
    pub neighbours: Arc<Neighbours>,
    /// The devices that we serve.
    pub devices: Arc<[Device]>,
    /// Which new flows take an address of ours.
    pub masquerade: Masquerade,
    /// Endpoints that have left their Service port.
    pub departed: Arc<Departed>,
    /// The box's own addresses that have NodePorts, sorted (K16).
    pub node_addresses: Arc<[IpAddr]>,
    /// Networks of Pods, whose flows are not bound to this node's endpoints (K20).
    pub pod_networks: Arc<[Prefix]>,
}

impl Snapshot {
    /// Makes the first snapshot: nothing known but the Services table's CIDRs.
    #[must_use]
    pub fn empty(services: Services) -> Self {
        Self {
            generation: 0,
            links_generation: 0,
            services,
            routes: Arc::default(),
            neighbours: Arc::default(),
            devices: Arc::new([]),
            masquerade: Masquerade::default(),
            departed: Arc::default(),
            node_addresses: Arc::new([]),
            pod_networks: Arc::new([]),
        }
    }

    /// Says whether an address is a Pod's.
    #[must_use]
    pub fn is_pod(&self, address: IpAddr) -> bool {
        self.pod_networks.iter().any(|network| network.contains(address))
    }

    /// Says what a packet to that address and port calls.
    #[must_use]
    pub fn called(&self, address: IpAddr, protocol: Protocol, port: Port) -> Called<'_> {
        let found = self.services.lookup(address);
        match found {
            Destination::Service(own) => match own.port(protocol, port) {
                Some(port) => return Called::Port(port),
                None if own.is_cluster_ip() => return Called::UndefinedPort,
                None => {}
            },
            Destination::Removed => return Called::UndefinedPort,
            Destination::Unallocated => return Called::UnallocatedAddress,
            Destination::Other => {}
        }
        let is_node = self.node_addresses.binary_search(&address).is_ok();
        let node_port = is_node.then(|| self.services.node_port(address, protocol, port)).flatten();
        node_port.map_or(Called::Nothing, Called::Port)
    }

    /// Returns the device of that number, if we serve it.
    #[must_use]
    pub fn device(&self, index: DeviceIndex) -> Option<&Device> {
        self.devices.iter().find(|device| device.index == index)
    }
}

#[derive(Debug, Default)]
struct Acknowledgement {
    generation: AtomicU64,
    parked: AtomicBool,
}

/// The control thread's side.
#[derive(Debug)]
pub struct Publisher {
    current: Arc<ArcSwap<Snapshot>>,
    acknowledgements: Arc<[CachePadded<Acknowledgement>]>,
    retired: VecDeque<Arc<Snapshot>>,
}

impl Publisher {
    /// Makes a publisher and one subscriber for each worker.
    #[must_use]
    pub fn new(first: Snapshot, workers: usize) -> (Self, Vec<Subscriber>) {
        let current = Arc::new(ArcSwap::from_pointee(first));
        let acknowledgements: Arc<[CachePadded<Acknowledgement>]> =
            (0..workers).map(|_| CachePadded::default()).collect();
        let subscribers = (0..workers)
            .map(|worker| Subscriber {
                cache: Cache::new(Arc::clone(&current)),
                acknowledgements: Arc::clone(&acknowledgements),
                worker,
            })
            .collect();
        (Self { current, acknowledgements, retired: VecDeque::new() }, subscribers)
    }

    /// Returns the snapshot in force.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Puts a snapshot in force and returns its generation; its generation field is set here.
    pub fn publish(&mut self, mut next: Snapshot) -> u64 {
        next.generation = self.current.load().generation + 1;
        let generation = next.generation;
        self.retired.push_back(self.current.swap(Arc::new(next)));
        fence(Ordering::SeqCst);
        self.free_retired();
        generation
    }

    /// Says whether every worker uses that generation, or will before its next packet.
    #[must_use]
    pub fn is_acknowledged(&self, generation: u64) -> bool {
        fence(Ordering::SeqCst);
        self.acknowledgements.iter().all(|worker| {
            worker.parked.load(Ordering::SeqCst) || worker.generation.load(Ordering::SeqCst) >= generation
        })
    }

    /// Frees what no worker can read any more; call it now and then.
    pub fn free_retired(&mut self) {
        let oldest =
            self.acknowledgements.iter().map(|worker| worker.generation.load(Ordering::SeqCst)).min();
        while let (Some(oldest), Some(front)) = (oldest, self.retired.front())
            && front.generation < oldest
        {
            self.retired.pop_front();
        }
    }

    /// Returns how many retired snapshots wait to be freed.
    #[must_use]
    pub fn retired(&self) -> usize {
        self.retired.len()
    }
}

/// A worker's side.
#[derive(Debug)]
pub struct Subscriber {
    cache: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    acknowledgements: Arc<[CachePadded<Acknowledgement>]>,
    worker: usize,
}

impl Subscriber {
    /// Returns the snapshot in force and acknowledges it; a quarter of a nanosecond if nothing changed.
    pub fn refresh(&mut self) -> &Snapshot {
        let snapshot = self.cache.load();
        if let Some(own) = self.acknowledgements.get(self.worker)
            && own.generation.load(Ordering::Relaxed) != snapshot.generation
        {
            own.generation.store(snapshot.generation, Ordering::SeqCst);
        }
        snapshot
    }

    /// Promises to refresh before the next packet.
    pub fn park(&mut self) {
        if let Some(own) = self.acknowledgements.get(self.worker) {
            own.parked.store(true, Ordering::SeqCst);
        }
    }

    /// Ends the promise; the caller refreshes next.
    pub fn unpark(&mut self) {
        if let Some(own) = self.acknowledgements.get(self.worker) {
            own.parked.store(false, Ordering::SeqCst);
            fence(Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publisher(workers: usize) -> (Publisher, Vec<Subscriber>) {
        Publisher::new(Snapshot::empty(Services::new([])), workers)
    }

    #[test]
    fn a_snapshot_is_freed_only_after_every_worker_acknowledged_a_later_one() {
        let (mut publisher, mut workers) = publisher(2);
        let first = Arc::downgrade(&publisher.current());
        let generation = publisher.publish((*publisher.current()).clone());
        workers[0].refresh();
        assert!(!publisher.is_acknowledged(generation));
        publisher.free_retired();
        assert!(first.upgrade().is_some());
        workers[1].refresh();
        assert!(publisher.is_acknowledged(generation));
        publisher.free_retired();
        assert!(first.upgrade().is_none());
    }

    #[test]
    fn a_parked_worker_holds_up_no_publication_but_keeps_its_snapshot() {
        let (mut publisher, mut workers) = publisher(1);
        workers[0].park();
        let first = Arc::downgrade(&publisher.current());
        let generation = publisher.publish((*publisher.current()).clone());
        assert!(publisher.is_acknowledged(generation));
        publisher.free_retired();
        assert!(first.upgrade().is_some());
        workers[0].unpark();
        assert!(!publisher.is_acknowledged(generation));
        assert_eq!(workers[0].refresh().generation, generation);
        publisher.free_retired();
        assert!(first.upgrade().is_none());
    }
}
