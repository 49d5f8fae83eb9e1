//! AF_XDP sockets: packets in memory that the NIC, the kernel and this process share.
//!
//! **The invariant: frames are conserved.** A [`FrameMemory`] is cut into frames of [`FRAME_BYTES`]; at every
//! moment each frame is in exactly one place:
//!
//! ```text
//!            pop                     refill                    packet arrives
//!   pool ──────────▶ in hand   pool ─────────▶ fill ring ─────────────────────▶ rx ring
//!    ▲  ◀──────────    │  ▲                                                        │
//!    │       push      │  └──────────────────── receive ───────────────────────────┘
//!    │                 └── transmit ──▶ tx ring ── kick, packet leaves ──▶ completion ring
//!    └──────────────────────────────── complete ───────────────────────────────────┘
//!
//!   frames = pool + in hand + Σ over sockets (fill + rx + tx + completion)
//! ```
//!
//! The sum over a socket's rings, and what driver and kernel have in between, is [`Outstanding`]. A [`Frame`] is
//! a move-only handle: giving it to a socket moves it, so touching a packet after it was handed over does not
//! compile. Only this module makes frames, once per index at start and afterwards only for an index that the
//! kernel gave back. A packet that does not fit one frame is in hand by its first ([`chain`]); the others are where that is.
//!
//! Reading order: [`memory`] (frames, their octets, the pool), [`chain`] (packets in several frames), `ring` (the one ring
//! type of all four rings),
//! [`bind`] (how a socket comes to be), [`socket`] (what a worker does with it), `busy_poll` (who runs the driver). `mapping` is the mmap beneath.
//!
//! The module knows nothing of packets: octets in, octets out.

pub mod bind;
mod busy_poll;
pub mod chain;
pub(crate) mod mapping;
pub mod memory;
mod ring;
pub mod socket;

pub use bind::{BindError, SocketConfig, takes_chains};
pub use chain::{PACKET_BYTES_MAX, PACKET_FRAMES_MAX};
pub use memory::{FRAME_BYTES, Frame, FrameMemory, FramePool};
pub use socket::{Kicks, Mode, Outstanding, Socket, Statistics};
