//! One running gateway's claim on a state directory, and the journal of what it put on the machine.
//!
//! Each change to the machine is written to the journal *before* it is made, so that whatever kills the
//! process, the next start knows what to take back: that, and nothing else. The journal holds for one boot
//! and one network namespace; in another there is nothing of it left to take back.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::netlink::Netlink;
use crate::punt_device::PuntDevice;
use crate::reserved_ports::{self, PortSet};

/// The state directory when none is named.
pub const DEFAULT_DIRECTORY: &str = "/run/tidegate";

/// A change to the machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A host address was added to `lo`.
    LoopbackAddress(IpAddr),
    /// The punt device was made.
    PuntDevice,
    /// Neighbours are managed under this program's protocol number.
    ManagedNeighbours,
    /// Offloads of a device were switched off.
    Offloads(Offloads),
    /// Local ports were reserved that were not before.
    ReservedPorts(PortSet),
}

/// Receive offloads of a device as they were before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Offloads {
    /// Name of the device.
    pub device: String,
    /// Generic receive offload was on.
    pub gro: bool,
    /// Large receive offload was on.
    pub lro: bool,
}

/// The journal as it stands in the file.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Journal {
    /// `/proc/sys/kernel/random/boot_id`.
    boot: String,
    /// Inode number of the network namespace.
    network_namespace: u64,
    /// In the order they were made.
    changes: Vec<Change>,
}

/// A claimed state directory. Dropped without [`Instance::end`] it leaves the journal to the next start.
#[derive(Debug)]
pub struct Instance {
    directory: PathBuf,
    lock: File,
    journal: Journal,
}

impl Instance {
    /// Claims a state directory for this process; makes it with mode 0700 if it is missing. Changes nothing
    /// else.
    ///
    /// # Errors
    /// When another process holds it (named by its number), or others than its owner can write to it.
    pub fn claim(directory: &Path) -> anyhow::Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.with_context(|| format!("state directory {}: cannot make it", directory.display()))?;
        let directory = fs::canonicalize(directory)
            .with_context(|| format!("state directory {}: cannot resolve it", directory.display()))?;
        let mode = fs::metadata(&directory)?.mode();
        ensure!(
            mode & 0o022 == 0,
            "state directory {}: others than its owner can write to it (mode {:o})",
            directory.display(),
            mode & 0o7777
        );
        let lock = lock(&directory)?;
        Ok(Self { directory, lock, journal: Journal::here()? })
    }

    /// Returns the state directory, without symbolic links.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Takes back what an earlier run that did not end cleanly left behind, as far as its journal names it.
    ///
    /// `restore` sets a device's offloads as they were; a device that is gone is no error.
    ///
    /// # Errors
    /// When something could not be taken back; it stays in the journal, the rest is done.
    pub async fn recover(
        &mut self,
        netlink: &Netlink,
        restore: impl FnMut(&Offloads) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let path = self.journal_path();
        let Some(left) = read_journal(&path)? else { return Ok(()) };
        if (&left.boot, left.network_namespace) != (&self.journal.boot, self.journal.network_namespace) {
            tracing::warn!(
                journal = %path.display(),
                changes = ?left.changes,
                "the journal is of another boot or network namespace: dropped, nothing taken back"
            );
            return self.write_journal();
        }
        self.journal.changes = left.changes;
        self.undo_all(netlink, restore).await
    }

    /// Notes a change that is about to be made.
    ///
    /// # Errors
    /// When the journal cannot be written; the change must then not be made.
    pub fn record(&mut self, change: Change) -> anyhow::Result<()> {
        if !self.journal.changes.contains(&change) {
            self.journal.changes.push(change);
            self.write_journal()?;
        }
        Ok(())
    }

    /// Adds a host address to `lo` unless some device has it already; says whether it was added.
    ///
    /// # Errors
    /// When the journal cannot be written or the kernel refuses.
    pub async fn add_loopback_address(&mut self, netlink: &Netlink, address: IpAddr) -> anyhow::Result<bool> {
        if netlink.addresses().await?.iter().any(|local| local.address == address) {
            return Ok(false);
        }
        self.record(Change::LoopbackAddress(address))?;
        netlink.add_loopback_address(address).await?;
        Ok(true)
    }

    /// Takes everything back in reverse order, removes the journal and gives the state directory free.
    ///
    /// # Errors
    /// When something could not be taken back; it stays in the journal for the next start, the rest is done.
    pub async fn end(
        mut self,
        netlink: &Netlink,
        restore: impl FnMut(&Offloads) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.undo_all(netlink, restore).await?;
        let path = self.journal_path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("{}: cannot remove it", path.display()));
            }
            _ => {}
        }
        // The file stays: removing it would let two processes lock two different files.
        self.lock.set_len(0).context("lock file of the state directory")
    }

    async fn undo_all(
        &mut self,
        netlink: &Netlink,
        mut restore: impl FnMut(&Offloads) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut failed = Vec::new();
        let mut reasons = Vec::new();
        while let Some(change) = self.journal.changes.pop() {
            if let Err(error) = self.undo(&change, netlink, &mut restore).await {
                reasons.push(format!("{error:#}"));
                failed.push(change);
            }
        }
        failed.reverse();
        self.journal.changes = failed;
        self.write_journal()?;
        if reasons.is_empty() { Ok(()) } else { bail!("could not take back: {}", reasons.join("; ")) }
    }

    async fn undo(
        &self,
        change: &Change,
        netlink: &Netlink,
        restore: &mut impl FnMut(&Offloads) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        match change {
            Change::LoopbackAddress(address) => netlink.remove_loopback_address(*address).await.map(|_| ()),
            Change::PuntDevice => PuntDevice::undo(netlink, self).await,
            Change::ManagedNeighbours => netlink.release_ours().await.map(|_| ()),
            Change::Offloads(offloads) => restore(offloads),
            Change::ReservedPorts(ports) => reserved_ports::release(ports),
        }
    }

    fn journal_path(&self) -> PathBuf {
        self.directory.join("journal.json")
    }

    /// Replaces the file in one step. It need not survive a power cut: what it names does not either.
    fn write_journal(&self) -> anyhow::Result<()> {
        let path = self.journal_path();
        let new = self.directory.join("journal.json.new");
        let text = serde_json::to_string_pretty(&self.journal)?;
        fs::write(&new, text).with_context(|| format!("{}: cannot write it", new.display()))?;
        fs::rename(&new, &path).with_context(|| format!("{}: cannot replace it", path.display()))
    }
}

impl Drop for Instance {
    /// Closing the file is not enough: a child between fork and exec still holds it open, and so the lock.
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(directory = %self.directory.display(), %error, "state directory: cannot unlock it");
        }
    }
}

impl Journal {
    /// An empty journal of this boot and the calling thread's network namespace.
    fn here() -> anyhow::Result<Self> {
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        const NETWORK_NAMESPACE: &str = "/proc/thread-self/ns/net";
        let boot = fs::read_to_string(BOOT_ID).context(BOOT_ID)?.trim().to_owned();
        let network_namespace = fs::metadata(NETWORK_NAMESPACE).context(NETWORK_NAMESPACE)?.ino();
        Ok(Self { boot, network_namespace, changes: Vec::new() })
    }
}

/// Locks `lock` in the directory and writes this process's number into it.
fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("lock");
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.with_context(|| format!("{}: cannot open it", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)
                .with_context(|| format!("{}: cannot read it", path.display()))?;
            bail!("state directory {}: in use by process {}", directory.display(), holder.trim());
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("{}: cannot lock it", path.display()));
        }
    }
    let written =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.with_context(|| format!("{}: cannot write it", path.display()))?;
    Ok(file)
}

/// Reads what an earlier run left. A file that is no journal is put aside, so that it neither stops the
/// gateway nor vanishes unseen.
fn read_journal(path: &Path) -> anyhow::Result<Option<Journal>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("{}: cannot read it", path.display())),
    };
    match serde_json::from_slice(&text) {
        Ok(journal) => Ok(Some(journal)),
        Err(error) => {
            let aside = path.with_extension("json.unreadable");
            fs::rename(path, &aside).with_context(|| format!("{}: cannot put it aside", path.display()))?;
            let (journal, aside) = (path.display(), aside.display());
            tracing::error!(%journal, %aside, %error, "not a journal: put aside, nothing taken back");
            Ok(None)
        }
    }
}
