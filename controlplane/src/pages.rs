//! Says on which pages of memory frames and flow tables lie: huge ones save the processor look-ups of addresses.
//!
//! Source: `Documentation/filesystems/proc.rst`, `smaps`; `Documentation/admin-guide/mm/transhuge.rst`.

use std::ops::Range;
use std::path::Path;

use anyhow::Context;
use procfs::process::{MMapPath, MemoryMap, Process};

/// Size of ordinary pages.
const ORDINARY_BYTES: u64 = 4096;
/// What the kernel calls mapped memory that lies on transparent huge pages.
const TRANSPARENT: [&str; 3] = ["AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"];

/// How much memory there is of something, and how much of that is on huge pages; in octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pages {
    /// All of it.
    pub bytes: u64,
    /// Mapped by huge pages, reserved or transparent.
    pub huge_bytes: u64,
}

impl Pages {
    fn of_map(map: &MemoryMap) -> Self {
        let (start, end) = map.address;
        let value = |name: &str| map.extension.map.get(name).copied().unwrap_or(0);
        let reserved = value("KernelPageSize") > ORDINARY_BYTES;
        let transparent = TRANSPARENT.iter().map(|name| value(name)).sum();
        Self { bytes: end - start, huge_bytes: if reserved { end - start } else { transparent } }
    }

    fn sum(parts: impl Iterator<Item = Self>) -> Self {
        parts.fold(Self::default(), |all, part| Self {
            bytes: all.bytes + part.bytes,
            huge_bytes: all.huge_bytes + part.huge_bytes,
        })
    }

    /// As `448 MiB, 0 on huge pages`.
    fn describe(self) -> String {
        let mib = |bytes: u64| bytes >> 20;
        match (mib(self.bytes), mib(self.huge_bytes)) {
            (all, huge) if huge >= all => format!("{all} MiB on huge pages"),
            (all, 0) => format!("{all} MiB, none on huge pages"),
            (all, huge) => format!("{all} MiB, {huge} of them on huge pages"),
        }
    }
}

/// Which memory of this process lies on which pages, at one moment.
pub struct MemoryMaps(Vec<MemoryMap>);

impl MemoryMaps {
    /// Asks the kernel, which walks the page tables for it: milliseconds for a gigabyte.
    ///
    /// # Errors
    /// When `/proc/self/smaps` cannot be read.
    pub fn read() -> anyhow::Result<Self> {
        let maps = Process::myself().and_then(|process| process.smaps()).context("/proc/self/smaps")?;
        Ok(Self(maps.0))
    }

    /// Returns the pages of what is mapped at these addresses. Neighbours that the kernel has merged count as well.
    #[must_use]
    pub fn at(&self, addresses: &Range<usize>) -> Pages {
        let held = self
            .0
            .iter()
            .filter(|map| map.address.0 < addresses.end as u64 && (addresses.start as u64) < map.address.1);
        Pages::sum(held.map(Pages::of_map))
    }

    /// Returns the pages of the files that are mapped from a directory.
    #[must_use]
    pub fn of_files_in(&self, directory: &Path) -> Pages {
        let held = self
            .0
            .iter()
            .filter(|map| matches!(&map.pathname, MMapPath::Path(path) if path.parent() == Some(directory)));
        Pages::sum(held.map(Pages::of_map))
    }
}

/// Logs which pages the workers' frames and the flow tables got, and what would give them huge ones.
pub fn log(frames: &[Range<usize>], state: &Path) {
    let maps = match MemoryMaps::read() {
        Ok(maps) => maps,
        Err(error) => return tracing::info!("pages of frames and flow tables: {error:#}"),
    };
    for (worker, addresses) in frames.iter().enumerate() {
        let pages = maps.at(addresses);
        let advice = if pages.huge_bytes < pages.bytes { "; vm.nr_hugepages reserves such" } else { "" };
        tracing::info!("frames of worker {worker}: {}{advice}", pages.describe());
    }
    let directory = state.canonicalize().unwrap_or_else(|_| state.to_owned());
    let pages = maps.of_files_in(&directory);
    let advice = if pages.huge_bytes < pages.bytes {
        "; /sys/kernel/mm/transparent_hugepage/shmem_enabled allows them for a tmpfs"
    } else {
        ""
    };
    tracing::info!("flow tables: {}{advice}", pages.describe());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_huge_pages_is_said_in_whole_mebibytes() {
        let said = |bytes: u64, huge_bytes: u64| {
            Pages { bytes: bytes << 20, huge_bytes: huge_bytes << 20 }.describe()
        };
        assert_eq!(said(64, 64), "64 MiB on huge pages");
        assert_eq!(said(64, 0), "64 MiB, none on huge pages");
        assert_eq!(said(64, 2), "64 MiB, 2 of them on huge pages");
    }

    #[test]
    fn mapped_files_are_found_by_their_directory_and_memory_by_its_address() {
        let directory = tempfile::tempdir().unwrap();
        let (_tables, _) = tidegate_dataplane::flows::FlowTables::open(directory.path(), 1 << 12).unwrap();
        let (memory, _pool) = tidegate_dataplane::xsk::FrameMemory::new(1024).unwrap();
        let maps = MemoryMaps::read().unwrap();
        let files = maps.of_files_in(&directory.path().canonicalize().unwrap());
        let on_disk: u64 = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len().next_multiple_of(ORDINARY_BYTES))
            .sum();
        assert!(files.bytes > 0 && files.bytes <= on_disk, "{files:?} of {on_disk}");
        let frames = maps.at(&memory.addresses());
        assert!(frames.bytes >= 4 << 20 && frames.huge_bytes <= frames.bytes, "{frames:?}");
        assert_eq!(maps.of_files_in(Path::new("/nowhere")), Pages::default());
    }
}
