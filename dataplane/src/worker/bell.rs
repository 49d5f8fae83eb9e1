//! The bell by which the control thread ends a worker's sleep: an eventfd that the worker polls.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Wakes whoever polls it. Source: eventfd(2).
#[derive(Debug)]
pub struct Bell(File);

impl Bell {
    /// Makes a bell that is silent.
    ///
    /// # Errors
    /// The kernel's, if it has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointer; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made for us and nobody else owns it.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self(File::from(owned)))
    }

    /// Rings. Ringing a bell that already rings changes nothing.
    pub fn ring(&self) {
        // The one possible failure, a full counter, means that it rings already.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Silences the bell and says whether it rang.
    pub fn silence(&self) -> bool {
        (&self.0).read(&mut [0; 8]).is_ok()
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The descriptors that end a worker's sleep.
pub(super) struct Alarm(Vec<libc::pollfd>);

impl Alarm {
    pub(super) fn new(descriptors: impl IntoIterator<Item = RawFd>) -> Self {
        let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        Self(descriptors.into_iter().map(entry).collect())
    }

    /// Sleeps until one of the descriptors is readable, at most `limit`.
    pub(super) fn sleep(&mut self, limit: Duration) {
        let milliseconds = limit.as_millis().min(1000) as libc::c_int;
        // SAFETY: pointer and length are those of our own vector, which outlives the call; an error or a signal
        // only ends the sleep early.
        unsafe { libc::poll(self.0.as_mut_ptr(), self.0.len() as libc::nfds_t, milliseconds) };
    }
}
