//! The file of a flow table: whose it is, whether it fits, and how a new one is made.

use core::fmt;
use core::sync::atomic::Ordering::{Relaxed, Release};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::mapping::{self, HEADER_WORDS, Layout, Mapping, Placed};
use crate::net::Address;

/// The first eight octets of a table's file.
const MAGIC: u64 = u64::from_le_bytes(*b"tidegate");
/// Raised with every change of what stands where in the file.
const LAYOUT_VERSION: u64 = 3;
const MODE: u32 = 0o600;

/// The random name that the kernel gives to each boot; moments of different boots do not compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BootId(pub(super) u128);

impl BootId {
    /// Reads the id of this boot. Source: `Documentation/admin-guide/sysctl/kernel.rst`, `random`.
    pub(super) fn read() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        u128::from_str_radix(&text.trim().replace('-', ""), 16).map(Self).map_err(io::Error::other)
    }
}

/// Why a table could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The capacity is zero or more than 2^28 flows.
    Capacity(u32),
    /// Another process has the file open.
    InUse(PathBuf),
    /// The file belongs to another user.
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        user: u32,
    },
    /// The file can be read or written by others, or is no regular file.
    Mode {
        /// The file.
        path: PathBuf,
        /// Its type and permissions (`st_mode`).
        mode: u32,
    },
    /// A system call failed.
    System {
        /// The file, or what stands for it.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What came back.
        error: io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity(capacity) => {
                write!(f, "flow table: capacity {capacity} is not from 1 to 2^28 flows")
            }
            Self::InUse(path) => write!(f, "flow table {}: in use by another process", path.display()),
            Self::Owner { path, user } => write!(f, "flow table {}: owned by user {user}", path.display()),
            Self::Mode { path, mode } => {
                write!(f, "flow table {}: mode {mode:o} is not that of a file with 0600", path.display())
            }
            Self::System { path, action, error } => {
                write!(f, "flow table {}: cannot {action}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Why the content of a file was not taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The file does not begin as a flow table does, or its making was cut short.
    Foreign,
    /// The table was written by a version with other records.
    LayoutVersion {
        /// The number in the file; ours is another.
        found: u64,
    },
    /// The table is from before the last boot.
    OtherBoot,
    /// The table is for flows of the other family.
    Family {
        /// The number in the file: the IP version.
        found: u64,
    },
    /// The table is for another number of flows.
    Capacity {
        /// The number in the file.
        found: u64,
    },
    /// The file is shorter or longer than its capacity needs.
    Length {
        /// The file's length in bytes.
        found: u64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("not a flow table"),
            Self::LayoutVersion { found } => write!(f, "layout version {found}, this is {LAYOUT_VERSION}"),
            Self::OtherBoot => f.write_str("from another boot"),
            Self::Family { found } => write!(f, "flows of IP version {found}"),
            Self::Capacity { found } => write!(f, "capacity {found} flows"),
            Self::Length { found } => write!(f, "length {found} bytes"),
        }
    }
}

/// Returns the IP version of a family.
fn family<A: Address>() -> u64 {
    if A::UNSPECIFIED.into().is_ipv4() { 4 } else { 6 }
}

/// The words at the head of the file.
struct Header([u64; HEADER_WORDS]);

impl Header {
    fn new<A: Address>(layout: Layout<A>, boot: BootId, secret: [u64; 2]) -> Self {
        let [first, second] = secret;
        let (boot_high, boot_low) = ((boot.0 >> 64) as u64, boot.0 as u64);
        let (capacity, buckets) = (u64::from(layout.capacity), u64::from(layout.buckets));
        Self([MAGIC, LAYOUT_VERSION, boot_high, boot_low, family::<A>(), capacity, buckets, first, second])
    }

    fn read(file: &File) -> io::Result<Self> {
        let mut octets = [0; HEADER_WORDS * 8];
        file.read_exact_at(&mut octets, 0)?;
        let (chunks, _) = octets.as_chunks::<8>();
        let mut words = [0; HEADER_WORDS];
        for (word, chunk) in words.iter_mut().zip(chunks) {
            *word = u64::from_ne_bytes(*chunk);
        }
        Ok(Self(words))
    }

    /// Returns the hash secret if all else is as it must be.
    fn accept<A: Address>(&self, layout: Layout<A>, boot: BootId) -> Result<[u64; 2], Refusal> {
        let [magic, layout_version, boot_high, boot_low, version, capacity, buckets, first, second] = self.0;
        if magic != MAGIC {
            return Err(Refusal::Foreign);
        }
        if layout_version != LAYOUT_VERSION {
            return Err(Refusal::LayoutVersion { found: layout_version });
        }
        if u128::from(boot_high) << 64 | u128::from(boot_low) != boot.0 {
            return Err(Refusal::OtherBoot);
        }
        if version != family::<A>() {
            return Err(Refusal::Family { found: version });
        }
        if (capacity, buckets) != (u64::from(layout.capacity), u64::from(layout.buckets)) {
            return Err(Refusal::Capacity { found: capacity });
        }
        Ok([first, second])
    }

    /// Writes the magic last, so that a header cut short is none.
    fn write<A: Address, W: Placed>(&self, mapping: &Mapping<A, W>) {
        let Some([magic, rest @ ..]) = mapping.header() else { return };
        let [value, values @ ..] = self.0;
        for (word, value) in rest.iter().zip(values) {
            word.store(value, Relaxed);
        }
        magic.store(value, Release);
    }
}

/// An open, locked and mapped file.
pub(super) struct OpenFile<A, W> {
    pub(super) mapping: Mapping<A, W>,
    pub(super) lock: File,
    pub(super) secret: [u64; 2],
    pub(super) refusal: Option<Refusal>,
}

/// Opens the file of a table, or makes it; content that does not fit is thrown away and the reason given.
pub(super) fn open<A: Address, W: Placed>(
    path: &Path,
    capacity: u32,
    boot: BootId,
) -> Result<OpenFile<A, W>, OpenError> {
    let failed = |action| move |error| OpenError::System { path: path.to_owned(), action, error };
    let layout = Layout::new(capacity).ok_or(OpenError::Capacity(capacity))?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(MODE).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path).map_err(failed("open"))?;
    let metadata = file.metadata().map_err(failed("examine"))?;
    if metadata.uid() != mapping::effective_user() {
        return Err(OpenError::Owner { path: path.to_owned(), user: metadata.uid() });
    }
    if metadata.mode() != libc::S_IFREG | MODE {
        return Err(OpenError::Mode { path: path.to_owned(), mode: metadata.mode() });
    }
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::InUse(path.to_owned()),
        TryLockError::Error(error) => failed("lock")(error),
    })?;

    let length = file.metadata().map_err(failed("examine"))?.len();
    let bytes = layout.bytes().next_multiple_of(usize::try_from(metadata.blksize()).unwrap_or(1).max(1));
    let refusal = match examine(&file, length, bytes, layout, boot).map_err(failed("read"))? {
        Ok(secret) => {
            let mapping = Mapping::of_file(&file, layout, bytes).map_err(failed("map"))?;
            return Ok(OpenFile { mapping, lock: file, secret, refusal: None });
        }
        Err(refusal) => refusal,
    };
    let secret = random_secret().map_err(failed("get random numbers for"))?;
    file.set_len(0).map_err(failed("empty"))?;
    file.set_len(bytes as u64).map_err(failed("size"))?;
    mapping::reserve(&file, bytes).map_err(failed("reserve room for"))?;
    let mapping = Mapping::of_file(&file, layout, bytes).map_err(failed("map"))?;
    Header::new(layout, boot, secret).write(&mapping);
    Ok(OpenFile { mapping, lock: file, secret, refusal })
}

/// Returns the secret of a file that fits, else why it does not; nothing for a file that was just made.
fn examine<A: Address>(
    file: &File,
    length: u64,
    bytes: usize,
    layout: Layout<A>,
    boot: BootId,
) -> io::Result<Result<[u64; 2], Option<Refusal>>> {
    if length == 0 {
        return Ok(Err(None));
    }
    if length < HEADER_WORDS as u64 * 8 {
        return Ok(Err(Some(Refusal::Foreign)));
    }
    let fits = Header::read(file)?.accept(layout, boot).and_then(|secret| {
        if length == bytes as u64 { Ok(secret) } else { Err(Refusal::Length { found: length }) }
    });
    Ok(fits.map_err(Some))
}

/// Returns 128 random bits.
pub(super) fn random_secret() -> io::Result<[u64; 2]> {
    let mut octets = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut octets)?;
    let number = u128::from_ne_bytes(octets);
    Ok([(number >> 64) as u64, number as u64])
}
