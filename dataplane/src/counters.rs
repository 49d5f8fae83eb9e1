//! Every packet is accounted for: what a worker counts, and how others read it.
//!
//! Two laws hold whenever no burst is under way, so at every scrape:
//! `rx_packets + taken_over = forwarded + answered_* + punted + handed_over + held + every drop_*` and
//! `tx_packets = forwarded + answered_* + punted + originated`; and `frames_total` is the sum of its places.
//!
//! A packet that leaves in pieces is forwarded once, when the last piece left; the other pieces are originated.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::verdict::{Answer, DropReason};

/// Declares each counter once: field, and what it counts.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $field:ident,)+) => {
        /// What one worker has counted since its start. Names and meanings: [`Counters::NAMES`].
        #[derive(Clone, PartialEq, Eq, Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $field: u64,)+
            drops: Drops,
        }

        const PLAIN: usize = [$(stringify!($field)),+].len();

        impl Counters {
            /// Names and meanings of the plain counters, in the order of [`Counters::words`].
            pub const NAMES: [(&'static str, &'static str); PLAIN] =
                [$((stringify!($field), concat!($($doc),+)),)+];

            /// Returns all values as words: the plain counters, then the drops.
            pub fn words(&self) -> impl Iterator<Item = u64> {
                [$(self.$field),+].into_iter().chain(self.drops.0)
            }

            fn from_words(mut words: impl Iterator<Item = u64>) -> Self {
                let mut next = || words.next().unwrap_or_default();
                Self { $($field: next(),)+ drops: Drops(std::array::from_fn(|_| next())) }
            }
        }
    };
}

/// Packets dropped for each reason.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Drops([u64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

counters! {
    /// Packets taken from receive rings.
    rx_packets,
    /// Octets of those packets, Ethernet header included.
    rx_bytes,
    /// Packets given to transmit rings.
    tx_packets,
    /// Octets of those packets, Ethernet header included.
    tx_bytes,
    /// Packets sent on to their next hop.
    forwarded,
    /// ICMP Echo Requests to virtual addresses, answered.
    answered_echo,
    /// TCP segments answered by RST.
    answered_reset,
    /// Datagrams answered by ICMP port unreachable.
    answered_port_unreachable,
    /// Packets whose TTL ended here, answered by ICMP time exceeded.
    answered_time_exceeded,
    /// Packets too long for the next link, answered by ICMP fragmentation needed.
    answered_fragmentation_needed,
    /// Packets handed to the kernel by the punt device.
    punted,
    /// Packets that we made and sent of our own accord; pieces of a packet too long for its link but the last.
    originated,
    /// Fragments handed to the worker that they belong to.
    handed_over,
    /// Fragments taken over from the workers that received them.
    taken_over,
    /// Packets that wait now: for their next hop, or for the first fragment of their datagram.
    held,
    /// Flows inserted.
    flows_inserted,
    /// Flows removed when their time was over.
    flows_expired,
    /// Flows that were half-open, one-way or over and gave way to another because the table was full.
    flows_evicted,
    /// Flows whose client port was changed because the reply key was taken.
    flows_port_changed,
    /// Flows inserted with an address of ours as their source.
    flows_masqueraded,
    /// Flows inserted in mid-stream: a segment with ACK that belonged to none.
    flows_picked_up,
    /// Flows without a connection that left an endpoint which no longer serves, and connections that were not open yet.
    flows_repicked,
    /// Connections reset because their endpoint is gone.
    flows_reset,
    /// Packets lost in the kernel because our receive ring was full (XDP_STATISTICS).
    xsk_rx_ring_full,
    /// Packets lost in the kernel because the fill ring was empty (XDP_STATISTICS).
    xsk_fill_ring_empty,
    /// Packets lost in the kernel for other reasons (XDP_STATISTICS).
    xsk_rx_dropped,
    /// Descriptors of ours that the kernel refused (XDP_STATISTICS).
    xsk_invalid_descriptors,
    /// Frames of the worker's memory.
    frames_total,
    /// Frames in the pool now.
    frames_free,
    /// Frames in fill and receive rings now.
    frames_fill,
    /// Frames in transmit and completion rings now.
    frames_tx,
    /// Frames of held packets now.
    frames_held,
}

/// Names of the counters whose value can fall: Prometheus calls them gauges.
pub const GAUGES: [&str; 6] =
    ["held", "frames_total", "frames_free", "frames_fill", "frames_tx", "frames_held"];

const WORDS: usize = PLAIN + DropReason::ALL.len();

impl Counters {
    /// Counts a dropped packet.
    pub fn count_drop(&mut self, reason: DropReason) {
        if let Some(count) = self.drops.0.get_mut(reason as usize) {
            *count += 1;
        }
    }

    /// Returns how many packets were dropped for a reason.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops.0.get(reason as usize).copied().unwrap_or_default()
    }

    /// Counts an answer that was sent.
    pub const fn count_answer(&mut self, answer: Answer) {
        match answer {
            Answer::EchoReply => self.answered_echo += 1,
            Answer::Reset => self.answered_reset += 1,
            Answer::PortUnreachable => self.answered_port_unreachable += 1,
            Answer::TimeExceeded => self.answered_time_exceeded += 1,
            Answer::FragmentationNeeded => self.answered_fragmentation_needed += 1,
        }
    }

    /// Returns all answers.
    #[must_use]
    pub const fn answered(&self) -> u64 {
        self.answered_echo
            + self.answered_reset
            + self.answered_port_unreachable
            + self.answered_time_exceeded
            + self.answered_fragmentation_needed
    }

    /// Says whether received, sent and frames all balance.
    #[must_use]
    pub fn balances(&self) -> bool {
        let dropped: u64 = self.drops.0.iter().sum();
        let out = self.forwarded + self.answered() + self.punted;
        self.rx_packets + self.taken_over == out + self.handed_over + self.held + dropped
            && self.tx_packets == out + self.originated
            && self.frames_total == self.frames_free + self.frames_fill + self.frames_tx + self.frames_held
    }

    /// Iterates over `(name, meaning, value)` of every counter.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let drops = DropReason::ALL.iter().map(|reason| (reason.name(), reason.meaning()));
        Self::NAMES.into_iter().chain(drops).zip(self.words()).map(|((name, meaning), n)| (name, meaning, n))
    }
}

/// Where a worker publishes its counters, as one block at the end of a burst, for any reader.
///
/// A sequence lock: the number is odd while the block is being written; a reader that saw it change tries again.
/// Source of the orderings: Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012.
#[derive(Debug)]
pub struct Published {
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Default for Published {
    fn default() -> Self {
        Self { sequence: AtomicU64::new(0), words: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Published {
    /// Writes a block if it differs from the last; only the one worker it belongs to calls this.
    ///
    /// A round without packets mostly changes nothing; then the block is only compared, and stays in readers' caches.
    pub fn publish(&self, counters: &Counters) {
        let mut pairs = self.words.iter().zip(counters.words());
        if pairs.all(|(place, word)| place.load(Ordering::Relaxed) == word) {
            return;
        }
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (place, word) in self.words.iter().zip(counters.words()) {
            place.store(word, Ordering::Relaxed);
        }
        self.sequence.store(sequence + 2, Ordering::Release);
    }

    /// Reads a whole block; waits while one is being written (for less than a microsecond).
    #[must_use]
    pub fn read(&self) -> Counters {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let counters = Counters::from_words(self.words.iter().map(|word| word.load(Ordering::Relaxed)));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before {
                return counters;
            }
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_read_as_it_was_published() {
        let mut counters = Counters { rx_packets: 3, forwarded: 2, tx_packets: 2, ..Counters::default() };
        counters.count_drop(DropReason::NoRoute);
        let published = Published::default();
        published.publish(&counters);
        assert_eq!(published.read(), counters);
        assert!(counters.balances());
    }

    #[test]
    fn a_packet_that_nobody_counted_breaks_the_balance() {
        assert!(!Counters { rx_packets: 1, ..Counters::default() }.balances());
        assert!(!Counters { frames_total: 1, ..Counters::default() }.balances());
    }

    #[test]
    fn a_reader_never_sees_half_a_block() {
        let published = Published::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..200_000 {
                    let counters =
                        Counters { rx_packets: n, forwarded: n, tx_packets: n, ..Default::default() };
                    published.publish(&counters);
                }
            });
            for _ in 0..50_000 {
                assert!(published.read().balances());
            }
        });
    }
}
