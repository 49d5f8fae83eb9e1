//! Time as an argument: the worker reads the clock once per burst and hands it down.

/// A moment of `CLOCK_MONOTONIC`, in nanoseconds since boot (suspended time not counted).
///
/// The flow table outlives the process but not the boot, so this clock stays comparable for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Now(u64);

impl Now {
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
