//! The one ring type of the fill, rx, tx and completion rings, seen from the producing and the consuming side.
//!
//! Two free-running 32-bit indices, each written by one side. A descriptor is written before the producer's index
//! is stored with Release and read after it was loaded with Acquire; the consumer's index likewise returns the
//! place. Source: `Documentation/networking/af_xdp.rst`; `net/xdp/xsk_queue.h`.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where a ring lies in memory that both sides see.
#[derive(Debug)]
pub(super) struct RingAt<T> {
    /// Written by the producing side: the index after the last descriptor.
    pub(super) producer: NonNull<AtomicU32>,
    /// Written by the consuming side: the index of the next descriptor it takes.
    pub(super) consumer: NonNull<AtomicU32>,
    /// `XDP_RING_NEED_WAKEUP` and whatever else the kernel tells.
    pub(super) flags: NonNull<AtomicU32>,
    /// The first of `entries` descriptors.
    pub(super) descriptors: NonNull<T>,
    /// A power of two.
    pub(super) entries: u32,
}

/// One side's view of a ring: the shared words, its own index and its last look at the other side's.
///
/// Indices wrap at 2^32; only their difference counts.
#[derive(Debug)]
struct Ring<T> {
    at: RingAt<T>,
    /// The index this side writes, ahead of the shared word until it is published.
    own: u32,
    /// The other side's index when last looked at.
    peer: u32,
}

/// The producing side (fill and tx rings).
#[derive(Debug)]
pub(super) struct Producer<T>(Ring<T>);

/// The consuming side (rx and completion rings).
#[derive(Debug)]
pub(super) struct Consumer<T>(Ring<T>);

// SAFETY: the words are in memory that belongs to no thread, and a side is used by whoever owns it, mutably.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: `RingAt`'s words are valid for the ring's life (contract of `new`) and are only used atomically.
        unsafe { self.at.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.at.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as in `producer`.
        let flags = unsafe { self.at.flags.as_ref() };
        flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn descriptor(&self, index: u32) -> NonNull<T> {
        // SAFETY: masking by `entries - 1`, a power of two less one, keeps it within the `entries` descriptors.
        unsafe { self.at.descriptors.add((index & (self.at.entries - 1)) as usize) }
    }
}

impl<T: Copy> Producer<T> {
    /// Takes the producing side, at the index that stands in the ring.
    ///
    /// # Safety
    /// All of `at` is valid and shared with one consuming side for as long as the value lives, aligned, with
    /// `entries` descriptors, a power of two; there is no other producing side.
    pub(super) unsafe fn new(at: RingAt<T>) -> Self {
        let mut ring = Ring { at, own: 0, peer: 0 };
        ring.own = ring.producer().load(Ordering::Relaxed);
        ring.peer = ring.consumer().load(Ordering::Acquire);
        Self(ring)
    }

    /// Returns how many descriptors fit now.
    pub(super) fn room(&mut self) -> u32 {
        self.0.peer = self.0.consumer().load(Ordering::Acquire);
        self.cached_room()
    }

    /// Returns how many descriptors fit by the last look at the consumer: cheap, and never too many.
    pub(super) fn cached_room(&self) -> u32 {
        self.0.at.entries.saturating_sub(self.0.own.wrapping_sub(self.0.peer))
    }

    /// Writes a descriptor behind the others, unseen until [`Self::publish`]; `false` if the ring is full.
    pub(super) fn stage(&mut self, descriptor: T) -> bool {
        if self.cached_room() == 0 && self.room() == 0 {
            return false;
        }
        // SAFETY: there is room, so the consumer is done with this place (its index was loaded with Acquire) and
        // will not look at it before the producer's index is stored.
        unsafe { self.0.descriptor(self.0.own).write(descriptor) };
        self.0.own = self.0.own.wrapping_add(1);
        true
    }

    /// Lets the consumer see all that was staged.
    pub(super) fn publish(&mut self) {
        let shared = self.0.producer();
        if shared.load(Ordering::Relaxed) != self.0.own {
            shared.store(self.0.own, Ordering::Release);
        }
    }

    /// Returns how many descriptors the consumer has not taken yet.
    pub(super) fn waiting(&mut self) -> u32 {
        self.0.peer = self.0.consumer().load(Ordering::Acquire);
        self.0.own.wrapping_sub(self.0.peer)
    }

    /// Returns how many descriptors fit the ring.
    pub(super) fn entries(&self) -> u32 {
        self.0.at.entries
    }

    /// Returns whether the kernel asks to be woken by a system call.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.0.needs_wakeup()
    }

    /// Reads back the `n`th last descriptor that was staged, counted from 0.
    pub(super) fn staged(&self, n: u32) -> T {
        // SAFETY: within the ring by `descriptor`; only this side writes descriptors, and not during this read.
        unsafe { self.0.descriptor(self.0.own.wrapping_sub(n).wrapping_sub(1)).read() }
    }
}

impl<T: Copy> Consumer<T> {
    /// Takes the consuming side, at the index that stands in the ring.
    ///
    /// # Safety
    /// As for [`Producer::new`], with the sides exchanged.
    pub(super) unsafe fn new(at: RingAt<T>) -> Self {
        let mut ring = Ring { at, own: 0, peer: 0 };
        ring.own = ring.consumer().load(Ordering::Relaxed);
        ring.peer = ring.own;
        Self(ring)
    }

    /// Takes the next descriptor. Its place stays taken until [`Self::release`].
    pub(super) fn take(&mut self) -> Option<T> {
        if self.0.peer == self.0.own {
            self.0.peer = self.0.producer().load(Ordering::Acquire);
            if self.0.peer == self.0.own {
                return None;
            }
        }
        // SAFETY: the producer's index, loaded with Acquire, is past this place, so the descriptor is written, and
        // the producer leaves it alone until the consumer's index is stored.
        let descriptor = unsafe { self.0.descriptor(self.0.own).read() };
        self.0.own = self.0.own.wrapping_add(1);
        Some(descriptor)
    }

    /// Returns the places of all that was taken to the producer.
    pub(super) fn release(&mut self) {
        let shared = self.0.consumer();
        if shared.load(Ordering::Relaxed) != self.0.own {
            shared.store(self.0.own, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::UnsafeCell;
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// A ring in plain memory, with the test as the kernel on its other side.
    struct FakeRing {
        producer: AtomicU32,
        consumer: AtomicU32,
        flags: AtomicU32,
        descriptors: Box<[UnsafeCell<u64>]>,
    }

    // SAFETY: the indices order all access to the descriptors; that is what is tested.
    unsafe impl Sync for FakeRing {}

    impl FakeRing {
        fn new(entries: u32, start: u32) -> Self {
            Self {
                producer: AtomicU32::new(start),
                consumer: AtomicU32::new(start),
                flags: AtomicU32::new(0),
                descriptors: (0..entries).map(|_| UnsafeCell::new(0)).collect(),
            }
        }

        fn at(&self) -> RingAt<u64> {
            RingAt {
                producer: NonNull::from(&self.producer),
                consumer: NonNull::from(&self.consumer),
                flags: NonNull::from(&self.flags),
                descriptors: NonNull::new(UnsafeCell::raw_get(self.descriptors.as_ptr())).unwrap(),
                entries: self.descriptors.len() as u32,
            }
        }

        fn sides(&self) -> (Producer<u64>, Consumer<u64>) {
            // SAFETY: the fake outlives both sides in every test, and each is taken once.
            let producer = unsafe { Producer::new(self.at()) };
            // SAFETY: as above.
            let consumer = unsafe { Consumer::new(self.at()) };
            (producer, consumer)
        }
    }

    #[test]
    fn a_staged_descriptor_is_unseen_until_published() {
        let ring = FakeRing::new(4, 0);
        let (mut producer, mut consumer) = ring.sides();
        assert!(producer.stage(7));
        assert_eq!(consumer.take(), None);
        producer.publish();
        assert_eq!(consumer.take(), Some(7));
        assert_eq!(consumer.take(), None);
    }

    #[test]
    fn a_taken_place_is_free_only_when_released() {
        let ring = FakeRing::new(2, 0);
        let (mut producer, mut consumer) = ring.sides();
        assert!(producer.stage(1) && producer.stage(2) && !producer.stage(3));
        producer.publish();
        assert_eq!(consumer.take(), Some(1));
        assert!(!producer.stage(3));
        assert_eq!(producer.waiting(), 2);
        consumer.release();
        assert_eq!(producer.waiting(), 1);
        assert!(producer.stage(3) && !producer.stage(4));
        assert_eq!((producer.staged(0), producer.staged(1)), (3, 2));
    }

    #[test]
    fn the_wakeup_flag_is_what_the_kernel_wrote() {
        let ring = FakeRing::new(2, 0);
        let (producer, _consumer) = ring.sides();
        assert!(!producer.needs_wakeup());
        ring.flags.store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
    }

    #[test]
    fn two_threads_see_every_descriptor_once_and_in_order_across_the_wrap() {
        const DESCRIPTORS: u64 = 200_000;
        let ring = FakeRing::new(64, u32::MAX - 1000);
        let (mut producer, mut consumer) = ring.sides();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut next = 0;
                while next < DESCRIPTORS {
                    while next < DESCRIPTORS && producer.stage(next) {
                        next += 1;
                    }
                    producer.publish();
                    std::thread::yield_now();
                }
            });
            let mut expected = 0;
            while expected < DESCRIPTORS {
                while let Some(descriptor) = consumer.take() {
                    assert_eq!(descriptor, expected);
                    expected += 1;
                }
                consumer.release();
                std::thread::yield_now();
            }
        });
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Stage,
        Publish,
        Take,
        Release,
    }

    proptest! {
        #[test]
        fn a_ring_behaves_as_a_bounded_queue_wherever_its_indices_stand(
            start in prop_oneof![Just(0), Just(u32::MAX - 3), any::<u32>()],
            steps in proptest::collection::vec(
                prop_oneof![Just(Step::Stage), Just(Step::Stage), Just(Step::Publish), Just(Step::Take), Just(Step::Release)],
                0..400,
            ),
        ) {
            let ring = FakeRing::new(8, start);
            let (mut producer, mut consumer) = ring.sides();
            let (mut staged, mut queued, mut taken) = (VecDeque::new(), VecDeque::new(), 0);
            let mut next = 0;
            for step in steps {
                match step {
                    Step::Stage => {
                        let fits = staged.len() + queued.len() + taken < 8;
                        prop_assert_eq!(producer.stage(next), fits);
                        if fits {
                            staged.push_back(next);
                            next += 1;
                        }
                    }
                    Step::Publish => {
                        producer.publish();
                        queued.append(&mut staged);
                    }
                    Step::Take => {
                        let expected = queued.pop_front();
                        prop_assert_eq!(consumer.take(), expected);
                        taken += usize::from(expected.is_some());
                    }
                    Step::Release => {
                        consumer.release();
                        taken = 0;
                    }
                }
                prop_assert_eq!(producer.waiting() as usize, staged.len() + queued.len() + taken);
                prop_assert_eq!(producer.room() as usize, 8 - staged.len() - queued.len() - taken);
            }
        }
    }
}
