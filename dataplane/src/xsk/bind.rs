//! How a socket comes to be: memory registered, rings made and mapped, fill ring filled, then bound to a queue.
//!
//! The fill ring is filled *before* bind: some drivers take their receive buffers at bind and do not ask again.
//! Source: `Documentation/networking/af_xdp.rst`; `net/xdp/xsk.c`, `xsk_bind`.
#![allow(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::mapping::Mapping;
use super::memory::{FRAME_BYTES, FrameMemory, FramePool};
use super::ring::{Consumer, Producer, RingAt};
use super::socket::{Kicks, Mode, Socket};
use crate::routes::DeviceIndex;

/// Attempts at a busy queue, together 1 s: the kernel frees a queue some 60 ms after its last socket was closed.
const BUSY_ATTEMPTS: u32 = 200;
/// How long to wait between two attempts.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// `XDP_MAX_TX_SKB_BUDGET` of `include/uapi/linux/if_xdp.h` (Linux 6.17), which `libc` does not have.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// `XDP_USE_SG` of `include/uapi/linux/if_xdp.h` (Linux 6.6): packets may come in several frames.
const XDP_USE_SG: u16 = 1 << 4;

/// What a socket is bound to and how long its rings are. Ring lengths are powers of two.
#[derive(Clone, Copy, Debug)]
pub struct SocketConfig {
    /// The device.
    pub device: DeviceIndex,
    /// The device's queue, from 0: packets of this RX queue are received, packets are sent on this TX queue.
    pub queue: u32,
    /// Packets received and not yet taken by [`Socket::receive`].
    pub rx_ring: u32,
    /// Packets handed over by [`Socket::transmit`] and not yet taken by the kernel.
    pub tx_ring: u32,
    /// Free frames for packets to come. The pool must have as many at bind.
    pub fill_ring: u32,
    /// Frames sent and not yet taken back by [`Socket::complete`]; at least as long as the tx ring.
    pub completion_ring: u32,
    /// Without it the socket only sends: no rx ring, an empty fill ring, and always copy mode, since in zero-copy
    /// mode the driver would have our empty fill ring for the kernel's own packets too.
    pub receives: bool,
    /// Whether zero-copy may be tried. Not with a program in generic mode.
    pub zero_copy: bool,
    /// Whether a packet may take several frames; else a longer one is dropped by the kernel. Takes a kernel that
    /// [`takes_chains`].
    pub chains: bool,
}

/// Asks the kernel whether sockets can have packets in several frames (Linux 6.6 and up). Binds nothing.
///
/// # Errors
/// The kernel's, if there can be no AF_XDP socket at all.
pub fn takes_chains() -> io::Result<bool> {
    // Source: net/xdp/xsk.c, `xsk_bind`: flags that are not known are EINVAL before anything else is looked at; this
    // device number is of none, and the socket has no rings, so that a known flag leads to another error.
    let fd = open()?;
    let error = bind_to(&fd, 0, 0, XDP_USE_SG).err();
    Ok(error.and_then(|error| error.raw_os_error()) != Some(libc::EINVAL))
}

/// Why a socket could not be bound.
#[derive(Debug)]
pub struct BindError {
    /// The device that was to be bound to.
    pub device: DeviceIndex,
    /// Its queue.
    pub queue: u32,
    /// What was being done.
    pub step: &'static str,
    /// What the kernel said.
    pub error: io::Error,
}

impl BindError {
    /// Returns what may be done about it, or an empty string.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match (self.error.raw_os_error(), self.step) {
            (Some(libc::EBUSY), _) => "another socket holds this queue: stop the program it belongs to",
            (Some(libc::EPERM | libc::EACCES), _) => "needs CAP_NET_RAW and CAP_NET_ADMIN: run as root",
            (Some(libc::EAFNOSUPPORT), _) => "the kernel is built without CONFIG_XDP_SOCKETS",
            (Some(libc::ENODEV), _) => "no such device in this network namespace",
            (Some(libc::ENOBUFS), REGISTER) => "too little locked memory: raise RLIMIT_MEMLOCK (ulimit -l)",
            (Some(libc::ENOMEM), REGISTER) => "the kernel is short of memory",
            (Some(libc::EINVAL), BIND_COPY) => "the device has no such queue: see ethtool -l",
            (Some(libc::EINVAL), BIND_ZERO_COPY) => "no such queue, or the MTU does not fit a frame",
            (Some(libc::EOPNOTSUPP), BIND_ZERO_COPY) => "the driver has no zero-copy",
            (Some(libc::EINVAL), _) => "ring lengths are powers of two",
            _ => "",
        }
    }

    /// Returns whether copy mode may succeed where this failed.
    fn may_copy_instead(&self) -> bool {
        let elsewhere = [libc::EBUSY, libc::ENODEV, libc::EPERM];
        self.step == BIND_ZERO_COPY
            && !self.error.raw_os_error().is_some_and(|errno| elsewhere.contains(&errno))
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device: DeviceIndex(device), queue, step, error } = self;
        write!(f, "AF_XDP socket on device {device} queue {queue}: {step}: {error}")?;
        let advice = self.advice();
        if advice.is_empty() { Ok(()) } else { write!(f, " ({advice})") }
    }
}

impl Error for BindError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

const REGISTER: &str = "register the frame memory";
const BIND_ZERO_COPY: &str = "bind in zero-copy mode";
const BIND_COPY: &str = "bind in copy mode";

impl Socket {
    /// Makes a socket over `memory` and binds it, in zero-copy mode if allowed and possible, else in copy mode.
    ///
    /// Takes `fill_ring` frames from `pool` if the socket receives; on failure they are back. Waits up to 1 s
    /// for a queue that another socket has just left.
    pub fn bind(
        memory: &Arc<FrameMemory>,
        config: &SocketConfig,
        pool: &mut FramePool,
    ) -> Result<Self, BindError> {
        let mut refusal = None;
        if config.zero_copy && config.receives {
            match Self::bind_in(Mode::ZeroCopy, memory, config, pool) {
                Err(error) if error.may_copy_instead() => refusal = error.error.raw_os_error(),
                bound_or_failed => return bound_or_failed,
            }
        }
        let mut socket = Self::bind_in(Mode::Copy, memory, config, pool)?;
        socket.zero_copy_refusal = refusal;
        Ok(socket)
    }

    fn bind_in(
        mode: Mode,
        memory: &Arc<FrameMemory>,
        config: &SocketConfig,
        pool: &mut FramePool,
    ) -> Result<Self, BindError> {
        let (device, queue) = (config.device, config.queue);
        let at = |step| move |error| BindError { device, queue, step, error };
        let mut socket = Self::unbound(memory, config).map_err(|(step, error)| at(step)(error))?;
        if config.receives && pool.len() < config.fill_ring as usize {
            let short = format!("the pool has {} frames for {} entries", pool.len(), config.fill_ring);
            return Err(at("fill the fill ring")(io::Error::new(io::ErrorKind::InvalidInput, short)));
        }
        socket.stage_fill(pool);
        let (flag, step) = match mode {
            Mode::ZeroCopy => (libc::XDP_ZEROCOPY, BIND_ZERO_COPY),
            Mode::Copy => (libc::XDP_COPY, BIND_COPY),
        };
        let chains = if config.chains { XDP_USE_SG } else { 0 };
        if let Err(error) = bind_when_free(&socket.fd, config, flag | libc::XDP_USE_NEED_WAKEUP | chains) {
            socket.undo_fill(pool);
            return Err(at(step)(error));
        }
        socket.mode = socket.bound_mode().map_err(at("read the mode"))?;
        Ok(socket)
    }

    fn unbound(memory: &Arc<FrameMemory>, config: &SocketConfig) -> Result<Self, (&'static str, io::Error)> {
        let at = |step| move |error| (step, error);
        let fd = open().map_err(at("open a socket"))?;
        register(&fd, memory).map_err(at(REGISTER))?;
        set_option(&fd, libc::XDP_UMEM_FILL_RING, &config.fill_ring).map_err(at("make the fill ring"))?;
        set_option(&fd, libc::XDP_UMEM_COMPLETION_RING, &config.completion_ring)
            .map_err(at("make the completion ring"))?;
        set_option(&fd, libc::XDP_TX_RING, &config.tx_ring).map_err(at("make the tx ring"))?;
        if config.receives {
            set_option(&fd, libc::XDP_RX_RING, &config.rx_ring).map_err(at("make the rx ring"))?;
        }
        // One call then sends the whole ring instead of 32 packets; kernels before 6.17 know no such option.
        let _older_kernel = set_option(&fd, XDP_MAX_TX_SKB_BUDGET, &config.tx_ring);
        // SAFETY: the option is answered with this struct.
        let offsets: libc::xdp_mmap_offsets =
            unsafe { read_option(&fd, libc::XDP_MMAP_OFFSETS) }.map_err(at("read the ring offsets"))?;
        let fill_offset = libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t;
        let completion_offset = libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t;
        let (fill, fill_map) =
            ring(&fd, config.fill_ring, &offsets.fr, fill_offset).map_err(at("map the fill ring"))?;
        let (completion, completion_map) = ring(&fd, config.completion_ring, &offsets.cr, completion_offset)
            .map_err(at("map the completion ring"))?;
        let (tx, tx_map) =
            ring(&fd, config.tx_ring, &offsets.tx, libc::XDP_PGOFF_TX_RING).map_err(at("map the tx ring"))?;
        let rx = config.receives.then(|| ring(&fd, config.rx_ring, &offsets.rx, libc::XDP_PGOFF_RX_RING));
        let (rx, rx_map) = rx.transpose().map_err(at("map the rx ring"))?.unzip();
        Ok(Self {
            fd,
            // SAFETY: each ring is mapped as the kernel laid it out, its mapping lives in `_rings` as long as the
            // socket, the kernel is the one other side, and the socket is new, so nobody else took this one.
            rx: rx.map(|at| unsafe { Consumer::new(at) }),
            // SAFETY: as above.
            tx: unsafe { Producer::new(tx) },
            // SAFETY: as above.
            fill: unsafe { Producer::new(fill) },
            // SAFETY: as above.
            completion: unsafe { Consumer::new(completion) },
            _rings: [Some(fill_map), Some(completion_map), Some(tx_map), rx_map],
            memory: Arc::clone(memory),
            borrower: memory.borrower(),
            mode: Mode::Copy,
            chains: config.chains,
            unfinished: None,
            zero_copy_refusal: None,
            busy_polls: false,
            lent_to_receive: 0,
            lent_to_transmit: 0,
            strays: 0,
            kicks: Kicks::default(),
        })
    }

    /// Takes the frames of a socket that could not be bound back from its fill ring, and closes it.
    fn undo_fill(self, pool: &mut FramePool) {
        let Self { fd, fill, memory, borrower, lent_to_receive, _rings, .. } = self;
        drop(fd);
        for n in 0..lent_to_receive {
            // SAFETY: these addresses were staged by this socket, which was never bound: no driver has seen its
            // fill ring, and it is closed.
            if let Some(frame) = unsafe { memory.take_back(fill.staged(n), 0, borrower) } {
                pool.push(frame);
            }
        }
    }

    fn bound_mode(&self) -> io::Result<Mode> {
        // SAFETY: the option is answered with this struct.
        let options: libc::xdp_options = unsafe { read_option(&self.fd, libc::XDP_OPTIONS) }?;
        let zero_copy = options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
        Ok(if zero_copy { Mode::ZeroCopy } else { Mode::Copy })
    }
}

fn open() -> io::Result<OwnedFd> {
    // SAFETY: makes a descriptor, touches no memory.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn register(fd: &OwnedFd, memory: &FrameMemory) -> io::Result<()> {
    let (start, bytes) = memory.extent();
    let registration = libc::xdp_umem_reg {
        addr: start.as_ptr() as u64,
        len: bytes as u64,
        chunk_size: FRAME_BYTES as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(fd, libc::XDP_UMEM_REG, &registration)
}

/// Maps a ring of `entries` descriptors, which the kernel keeps at `page_offset` of the socket.
fn ring<T>(
    fd: &OwnedFd,
    entries: u32,
    offsets: &libc::xdp_ring_offset,
    page_offset: libc::off_t,
) -> io::Result<(RingAt<T>, Mapping)> {
    let bytes = offsets.desc as usize + entries as usize * size_of::<T>();
    let mapping = Mapping::shared(fd.as_fd(), bytes, page_offset)?;
    let word = |offset: u64| -> io::Result<NonNull<u8>> {
        let offset = usize::try_from(offset).ok().filter(|offset| *offset < mapping.bytes());
        let offset = offset.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        // SAFETY: the offset is within the mapping.
        Ok(unsafe { mapping.start().add(offset) })
    };
    let at = RingAt {
        producer: word(offsets.producer)?.cast(),
        consumer: word(offsets.consumer)?.cast(),
        flags: word(offsets.flags)?.cast(),
        descriptors: word(offsets.desc)?.cast(),
        entries,
    };
    Ok((at, mapping))
}

fn bind_when_free(fd: &OwnedFd, config: &SocketConfig, flags: u16) -> io::Result<()> {
    let DeviceIndex(device) = config.device;
    let mut attempts = 0;
    loop {
        let Err(error) = bind_to(fd, device, config.queue, flags) else { return Ok(()) };
        attempts += 1;
        if error.raw_os_error() != Some(libc::EBUSY) || attempts > BUSY_ATTEMPTS {
            return Err(error);
        }
        thread::sleep(BUSY_PAUSE);
    }
}

fn bind_to(fd: &OwnedFd, device: u32, queue: u32, flags: u16) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: device,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    let bytes = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    // SAFETY: the address is a live `sockaddr_xdp` of the length given.
    match unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_option<T>(fd: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let bytes = size_of::<T>() as libc::socklen_t;
    let value = (&raw const *value).cast();
    // SAFETY: `value` is live and `bytes` long; the kernel only reads it.
    match unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_XDP, option, value, bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads an option of an AF_XDP socket.
///
/// # Safety
/// The kernel answers `option` with a `T`, a C struct of integers.
pub(super) unsafe fn read_option<T>(fd: &OwnedFd, option: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` octets to `value`, which has as many.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, option, value.as_mut_ptr().cast(), &raw mut bytes)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if bytes as usize != size_of::<T>() {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    // SAFETY: zeroed, then written by the kernel; any octets are a value of such a struct.
    Ok(unsafe { value.assume_init() })
}
