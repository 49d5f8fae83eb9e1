//! The mapping that holds a flow table: with `lanes`, the unsafe files of this module.
//!
//! One page of header, then three arrays of atomic words: buckets, records, identities. Everything behind this file
//! sees them as slices.
#![allow(unsafe_code)]

use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use core::slice;
use core::sync::atomic::AtomicU64;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::free::Stack;
use super::memory::{BUCKET_SLOTS, IDENTITY_WORDS, Memory, Word};
use super::record;
use crate::net::Address;

type Bucket<W> = [W; BUCKET_SLOTS];
type Line<W> = [W; LINE_WORDS];
type Identity<W> = [W; IDENTITY_WORDS];

/// Words of a cache line.
const LINE_WORDS: usize = 8;
/// Words of the header that are used.
pub(super) const HEADER_WORDS: usize = 9;
const HEADER_BYTES: usize = 4096;
/// Slots per flow of capacity; each flow fills two, so the index is at most half full.
const SLOTS_PER_FLOW: u32 = 4;
const MOST_CAPACITY: u32 = 1 << 28;

/// A word that may lie in a mapping.
///
/// # Safety
/// The type is an [`AtomicU64`] and nothing else in memory: itself, or transparent around one.
pub(super) unsafe trait Placed: Word {}

// SAFETY: it is itself.
unsafe impl Placed for AtomicU64 {}
// SAFETY: it is declared transparent around its only field.
#[cfg(test)]
unsafe impl Placed for super::tests::HookedWord {}

/// How many records and buckets a table has, and where they stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout<A> {
    pub(super) capacity: u32,
    pub(super) buckets: u32,
    family: PhantomData<A>,
}

impl<A: Address> Layout<A> {
    /// Cache lines of a record.
    const RECORD_LINES: u32 = (record::words::<A>() / LINE_WORDS) as u32;

    /// Returns the layout for a capacity; `None` unless it is from 1 to 2^28 flows.
    pub(super) const fn new(capacity: u32) -> Option<Self> {
        if capacity == 0 || capacity > MOST_CAPACITY {
            return None;
        }
        let buckets = (capacity * SLOTS_PER_FLOW).div_ceil(BUCKET_SLOTS as u32);
        let buckets = if buckets < 2 { 2 } else { buckets };
        Some(Self { capacity, buckets, family: PhantomData })
    }

    const fn index_at(self) -> usize {
        HEADER_BYTES
    }

    const fn records_at(self) -> usize {
        self.index_at() + self.buckets as usize * size_of::<Bucket<AtomicU64>>()
    }

    const fn identities_at(self) -> usize {
        self.records_at()
            + self.capacity as usize * Self::RECORD_LINES as usize * size_of::<Line<AtomicU64>>()
    }

    /// Returns the bytes of header and arrays.
    pub(super) const fn bytes(self) -> usize {
        self.identities_at() + self.capacity as usize * size_of::<Identity<AtomicU64>>()
    }
}

/// A mapping of at least `layout.bytes()` bytes, shared by all threads, unmapped when dropped.
pub(super) struct Mapping<A, W = AtomicU64> {
    base: NonNull<u8>,
    bytes: usize,
    layout: Layout<A>,
    word: PhantomData<W>,
}

// SAFETY: the mapping belongs to this value alone until it is dropped, and its octets are reached only as atomic words.
unsafe impl<A: Send, W: Send> Send for Mapping<A, W> {}
// SAFETY: as above; shared access to atomic words is what they are for.
unsafe impl<A: Sync, W: Sync> Sync for Mapping<A, W> {}

impl<A: Address, W: Placed> Mapping<A, W> {
    /// Maps private zeroed memory, all of it present.
    pub(super) fn anonymous(layout: Layout<A>) -> io::Result<Self> {
        Self::map(layout, layout.bytes(), libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// Maps the first `bytes` of a file, all of them present. The file must be that long and the table fit in.
    pub(super) fn of_file(file: &File, layout: Layout<A>, bytes: usize) -> io::Result<Self> {
        let length = file.metadata()?.len();
        if bytes < layout.bytes() || length < bytes as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is too short for the table"));
        }
        Self::map(layout, bytes, libc::MAP_SHARED, file.as_raw_fd())
    }

    fn map(layout: Layout<A>, bytes: usize, flags: libc::c_int, fd: libc::c_int) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Self { base, bytes, layout, word: PhantomData };
        // Huge pages are welcome but not everywhere to be had (tmpfs: `shmem_enabled`), so a refusal is no error.
        let _ = mapping.advise(libc::MADV_HUGEPAGE);
        // Present before the first packet, and an error here instead of a SIGBUS there if the memory is not to be had.
        mapping.advise(libc::MADV_POPULATE_WRITE)?;
        Ok(mapping)
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the range is this mapping, and neither advice in use changes what its octets hold.
        let status = unsafe { libc::madvise(self.base.as_ptr().cast(), self.bytes, advice) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Returns the length of the mapping.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the words of the header.
    pub(super) fn header(&self) -> Option<&[AtomicU64; HEADER_WORDS]> {
        self.array::<AtomicU64, HEADER_WORDS>(0, 1).first()
    }

    fn index(&self) -> &[Bucket<W>] {
        self.array(self.layout.index_at(), self.layout.buckets)
    }

    /// Returns the cache lines of all records.
    fn records(&self) -> &[Line<W>] {
        self.array(self.layout.records_at(), self.layout.capacity * Layout::<A>::RECORD_LINES)
    }

    fn identities(&self) -> &[Identity<W>] {
        self.array(self.layout.identities_at(), self.layout.capacity)
    }

    /// Views `count` groups of words that begin `at` bytes into the mapping.
    #[inline]
    fn array<T: Placed, const N: usize>(&self, at: usize, count: u32) -> &[[T; N]] {
        debug_assert!(at.is_multiple_of(align_of::<AtomicU64>()));
        debug_assert!(at + count as usize * size_of::<[AtomicU64; N]>() <= self.bytes);
        // SAFETY: the four callers name the header page and the three arrays of `self.layout`, which lie one after the
        // other within `layout.bytes()`, and both constructors map at least that many; the base is page-aligned and
        // every offset a multiple of 16. A word is an atomic one whatever its type ([`Placed`]). Zeroed or foreign octets are valid words. Threads change them through atomics
        // only. The file is ours alone while mapped (mode 0600, locked); should root cut it short nevertheless, access
        // ends in SIGBUS, not in wrong memory.
        unsafe { slice::from_raw_parts(self.base.as_ptr().add(at).cast(), count as usize) }
    }
}

impl<A, W> Drop for Mapping<A, W> {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map`, and no slice of it outlives the borrow of `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

impl<A: Address, W: Placed> Memory for Mapping<A, W> {
    type Word = W;
    type Address = A;
    type Free = Stack<AtomicU64>;
    type Due = AtomicU64;

    #[inline]
    fn capacity(&self) -> u32 {
        self.layout.capacity
    }

    #[inline]
    fn buckets(&self) -> u32 {
        self.layout.buckets
    }

    #[inline]
    fn bucket(&self, number: u32) -> Option<&Bucket<W>> {
        self.index().get(number as usize)
    }

    #[inline]
    fn record(&self, number: u32) -> Option<&[W]> {
        let lines = const { Layout::<A>::RECORD_LINES as usize };
        let first = number as usize * lines;
        self.records().get(first..first + lines).map(<[Line<W>]>::as_flattened)
    }

    #[inline]
    fn identity(&self, number: u32) -> Option<&Identity<W>> {
        self.identities().get(number as usize)
    }

    #[inline]
    fn prefetch_bucket(&self, number: u32) {
        if let Some(bucket) = self.bucket(number) {
            prefetch(bucket);
        }
    }

    #[inline]
    fn prefetch_record(&self, number: u32) {
        let (lines, _) = self.record(number).unwrap_or_default().as_chunks::<LINE_WORDS>();
        for line in lines {
            prefetch(line);
        }
    }

    #[inline]
    fn prefetch_identity(&self, number: u32) {
        if let Some(identity) = self.identity(number) {
            prefetch(identity);
        }
    }
}

/// Asks for a cache line into all levels; does nothing on processors without such an instruction in stable Rust.
#[inline]
fn prefetch<T>(line: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing the program can see, and every x86-64 processor has the instruction.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(ptr::from_ref(line).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Gives the first `bytes` of a file room on its file system, so that no later write can fail for want of it.
pub(super) fn reserve(file: &File, bytes: usize) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // SAFETY: takes numbers only; the descriptor is open as long as `file` is borrowed.
    let status = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns the effective user id of the process.
pub(super) fn effective_user() -> u32 {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::geteuid() }
}
