//! Memory on the heap whose words call the test before each write: to stop the thread, or to pass the turn on.

use core::cell::RefCell;
use core::sync::atomic::{AtomicU64, Ordering};

use super::super::free::Stack;
use super::super::mapping::Layout;
use super::super::memory::{BUCKET_SLOTS, IDENTITY_WORDS, Memory, Word};
use super::super::record;
use crate::net::Address;

/// What a thread is about to do to a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    Read,
    Write,
}

type Hook = Box<dyn FnMut(Access)>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Runs `body` with `hook` called before each access of this thread.
pub(super) fn hooked<T>(hook: impl FnMut(Access) + 'static, body: impl FnOnce() -> T) -> T {
    struct Unhook;
    impl Drop for Unhook {
        fn drop(&mut self) {
            HOOK.take();
        }
    }
    HOOK.set(Some(Box::new(hook)));
    let _unhook = Unhook;
    body()
}

fn announce(access: Access) {
    // Taken out for the call, so that a hook which unwinds leaves no borrow behind.
    if let Some(mut hook) = HOOK.take() {
        hook(access);
        HOOK.set(Some(hook));
    }
}

/// A word that calls the hook before each access.
#[derive(Default, Debug)]
#[repr(transparent)]
pub(in super::super) struct HookedWord(AtomicU64);

impl Word for HookedWord {
    fn load(&self, order: Ordering) -> u64 {
        announce(Access::Read);
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        announce(Access::Write);
        self.0.store(value, order);
    }

    fn replace(&self, current: u64, new: u64, order: Ordering) -> bool {
        announce(Access::Write);
        self.0.compare_exchange(current, new, order, Ordering::Relaxed).is_ok()
    }
}

#[derive(Debug)]
pub(super) struct Heap<A> {
    layout: Layout<A>,
    index: Vec<[HookedWord; BUCKET_SLOTS]>,
    records: Vec<Vec<HookedWord>>,
    identities: Vec<[HookedWord; IDENTITY_WORDS]>,
}

impl<A: Address> Heap<A> {
    pub(super) fn new(capacity: u32) -> Self {
        fn zeroed<T: Default>(count: u32) -> Vec<T> {
            (0..count).map(|_| T::default()).collect()
        }
        let layout = Layout::new(capacity).unwrap();
        let records = (0..capacity).map(|_| zeroed(record::words::<A>() as u32)).collect();
        let index = zeroed(layout.buckets);
        Self { layout, index, records, identities: zeroed(capacity) }
    }
}

impl<A: Address> Memory for &Heap<A> {
    type Word = HookedWord;
    type Address = A;
    type Free = Stack<AtomicU64>;
    type Due = AtomicU64;

    fn capacity(&self) -> u32 {
        self.layout.capacity
    }

    fn buckets(&self) -> u32 {
        self.layout.buckets
    }

    fn bucket(&self, number: u32) -> Option<&[HookedWord; BUCKET_SLOTS]> {
        self.index.get(number as usize)
    }

    fn record(&self, number: u32) -> Option<&[HookedWord]> {
        self.records.get(number as usize).map(Vec::as_slice)
    }

    fn identity(&self, number: u32) -> Option<&[HookedWord; IDENTITY_WORDS]> {
        self.identities.get(number as usize)
    }
}
