//! Time as an argument: the worker reads the clock once per burst and hands it down.
#![allow(unsafe_code)]

/// A moment of `CLOCK_MONOTONIC`, in nanoseconds since boot (suspended time not counted).
///
/// The flow table outlives the process but not the boot, so this clock stays comparable for it; and it is the
/// clock of `bpf_ktime_get_ns`, so that the XDP program can judge a worker's heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Now(u64);

impl Now {
    /// Reads the clock; no system call on the platforms that we run on (vDSO).
    #[must_use]
    pub fn read() -> Self {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to our own value of the type that the call writes. It can fail only for an
        // unknown clock or a bad pointer, and neither is the case.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        Self(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    /// Makes a moment from nanoseconds since boot.
    #[must_use]
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// Makes a moment from whole seconds since boot.
    #[must_use]
    pub const fn from_seconds(seconds: u32) -> Self {
        Self(seconds as u64 * 1_000_000_000)
    }

    /// Returns nanoseconds since boot.
    #[must_use]
    pub const fn ns(self) -> u64 {
        self.0
    }

    /// Returns whole seconds since boot; wraps after 136 years.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        (self.0 / 1_000_000_000) as u32
    }
}
