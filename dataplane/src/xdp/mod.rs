//! The XDP program that decides which packets the workers get, and its loader.
//!
//! One program serves all devices; each (device, queue) has a slot. All that the program does not take passes to
//! the kernel. It decides in this order, for IPv4 and IPv6 without a VLAN tag:
//!
//! 1. multicast or broadcast, or to a link-local address of IPv6: passes;
//! 2. to another station than the device, whose MAC the frame does not bear: passes;
//! 3. ICMPv6 of the link, neighbour and router discovery and MLD, whoever it is to: passes;
//! 4. to one of our listeners (address, port, protocol), as cluster DNS: passes;
//! 5. to one of the box's own addresses: taken if it is from an endpoint and to a masquerade port, or an ICMP error that
//!    quotes a packet from such a port to an endpoint; or if it is to a served socket (address, port, protocol), as a
//!    NodePort, or an ICMP error that quotes a packet from one, or a fragment to the address of one; else passes;
//! 6. to an address in a VIP prefix, whatever the protocol, fragments included: taken;
//! 7. from an endpoint (address, port, protocol), or a fragment from an endpoint's address: taken;
//! 8. an ICMP error that quotes a packet to an endpoint (address, port, protocol): taken;
//! 9. else: passes.
//!
//! Ports are those of TCP, UDP and SCTP. A packet too short for them, or lying about its length, has none: it is taken
//! only by 6. So has a packet whose chain of extension headers goes on behind its end. Hop-by-hop, routing and
//! destination options, fragment and authentication headers are walked, up to 8 of them and 1,024 octets; a packet
//! that has more is treated as a fragment: by its addresses alone.
//!
//! Taken means: redirected to the socket of the queue it came by, if the worker of that queue wrote its heartbeat
//! in the last 500 ms, and passed otherwise. Each way out has a counter.
//!
//! Both families share the maps: an IPv4 address is entered as the IPv6 address that stands for it, `::ffff:a.b.c.d`,
//! and an IPv6 packet that bears such an address, which none on a wire may, passes. So an entry of one family cannot be
//! met by a packet of the other.
//!
//! The program is C, its object is committed, and the loader is Rust, so that building takes no clang. `build.sh`
//! regenerates the object; a test rebuilds it and compares. Its licence is the project's: it uses no helper that
//! the kernel keeps for GPL programs.
//!
//! Reading order: `maps.bpf.h`, `headers.bpf.h` and `steer.bpf.c`, [`steering`] (load, attach, serve), [`entries`] (what
//! the program decides by; `sockets` for those that have ports), [`heartbeat`], [`counters`], [`error`]; [`offloads`] is what generic mode needs switched off, [`features`] what drivers
//! can.

mod attached;
pub mod counters;
pub mod entries;
pub mod error;
pub mod features;
pub mod heartbeat;
pub mod offloads;
mod sockets;
pub mod steering;

pub use entries::Room;
pub use error::{AttachError, AttachFailure, Error};
pub use features::DriverFeatures;
pub use heartbeat::{HEARTBEAT_LIMIT, Heartbeat};
pub use offloads::{Offloads, Restore, rx_queues, strips_vlan_tags};
pub use steering::{AttachMode, AttachPreference, Steering};
