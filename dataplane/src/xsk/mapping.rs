//! A memory mapping that ends with its value.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

/// Size of a huge page as asked for by `MAP_HUGE_2MB`.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Pages of this process, unmapped on drop.
///
/// It only gives out its bounds: who reads or writes through them argues for that at the place.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a `Mapping` is an address range; moving it to another thread moves no access to what is in it.
unsafe impl Send for Mapping {}
// SAFETY: its methods only read the two fields.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of fresh memory on pages of 2 MiB, which must be free in the kernel's pool (`vm.nr_hugepages`).
    pub(crate) fn huge(bytes: usize) -> io::Result<Self> {
        let rounded = bytes
            .checked_next_multiple_of(HUGE_PAGE_BYTES)
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let flags = libc::MAP_PRIVATE
            | libc::MAP_ANONYMOUS
            | libc::MAP_HUGETLB
            | libc::MAP_HUGE_2MB
            | libc::MAP_POPULATE;
        Self::map(rounded, flags, None, 0)
    }

    /// Maps `bytes` of fresh memory on ordinary pages, asks for transparent huge ones and touches them all.
    pub(crate) fn ordinary(bytes: usize) -> io::Result<Self> {
        let mapping = Self::map(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None, 0)?;
        // SAFETY: the range is the mapping just made; the advice changes no content.
        unsafe { libc::madvise(mapping.start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        // SAFETY: as above; faulting pages in for writing leaves their content (zeros) as it is.
        let populated =
            unsafe { libc::madvise(mapping.start.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) };
        if populated == 0 { Ok(mapping) } else { Err(io::Error::last_os_error()) }
    }

    /// Maps `bytes` of what `file` stands for (a ring of a socket, the values of a BPF array), shared and faulted in.
    pub(crate) fn shared(file: BorrowedFd<'_>, bytes: usize, offset: libc::off_t) -> io::Result<Self> {
        Self::map(bytes, libc::MAP_SHARED | libc::MAP_POPULATE, Some(file), offset)
    }

    fn map(
        bytes: usize,
        flags: libc::c_int,
        file: Option<BorrowedFd<'_>>,
        offset: libc::off_t,
    ) -> io::Result<Self> {
        let fd = file.map_or(-1, |file| file.as_raw_fd());
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: no address is asked for, so the kernel picks a range that nothing in this process uses.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::Other))?;
        Ok(Self { start, bytes })
    }

    /// Returns the first octet; page-aligned.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Returns how many octets are mapped.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map` and is unmapped once; every borrow of its octets is tied to the
        // owner of this value, so none is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
