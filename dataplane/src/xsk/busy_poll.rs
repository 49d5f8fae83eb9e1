//! Busy polling: the worker runs the receive side of the driver itself, on its own core, instead of an interrupt's softirq
//! on whichever core that hits.
//!
//! Source: `Documentation/networking/napi.rst`, "Busy polling"; `net/xdp/xsk.c`, `__xsk_recvmsg`. To keep the softirq
//! off the queue for good, a device wants `napi_defer_hard_irqs` and `gro_flush_timeout` set as well, which are its
//! owner's to set.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use super::socket::Socket;

/// How long one call polls while nothing comes, in microseconds; a socket that does not block polls once.
const POLL_MICROSECONDS: libc::c_int = 20;
/// Packets that the driver handles in one call, at most.
const BUDGET: libc::c_int = 64;

impl Socket {
    /// Has the kernel let this socket drive its queue: from now on [`Self::poll_device`] does.
    ///
    /// # Errors
    /// The kernel's, if it was built without busy polling or the process may not (CAP_NET_ADMIN). The socket then
    /// works on as before.
    pub fn prefer_busy_poll(&mut self) -> io::Result<()> {
        set_option(&self.fd, libc::SO_PREFER_BUSY_POLL, 1)?;
        set_option(&self.fd, libc::SO_BUSY_POLL, POLL_MICROSECONDS)?;
        set_option(&self.fd, libc::SO_BUSY_POLL_BUDGET, BUDGET)?;
        self.busy_polls = true;
        Ok(())
    }

    /// Says whether the socket drives its queue.
    #[must_use]
    pub const fn busy_polls(&self) -> bool {
        self.busy_polls
    }

    /// Runs the driver's receive side here and now, for a queue that had nothing: what it finds is in the rx ring
    /// afterwards. One system call; none unless the socket busy-polls.
    pub fn poll_device(&self) {
        if self.busy_polls {
            self.wake_receive();
        }
    }

    /// Asks the kernel to look after the receive side of the queue.
    pub(super) fn wake_receive(&self) {
        let (fd, flags) = (self.fd.as_raw_fd(), libc::MSG_DONTWAIT);
        // SAFETY: no buffer and no room for an address are given.
        unsafe { libc::recvfrom(fd, ptr::null_mut(), 0, flags, ptr::null_mut(), ptr::null_mut()) };
    }
}

fn set_option(fd: &OwnedFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let bytes = size_of::<libc::c_int>() as libc::socklen_t;
    let value = (&raw const value).cast();
    // SAFETY: `value` is live and `bytes` long; the kernel only reads it.
    match unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, value, bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
