//! What inotify tells of the directory, and what is to be looked at because of it.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};

use super::directory::{self, Identity};
use super::file::is_manifest;

/// The link that a mounted ConfigMap swaps to change all its files at once.
///
/// Source: Kubernetes `pkg/volume/util/atomic_writer.go`.
const DATA_LINK: &str = "..data";

/// What is to be looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Pending {
    /// Files that have been written to and not closed.
    pub(super) writing: BTreeSet<Arc<str>>,
    /// Files that are complete and new, or gone.
    pub(super) changed: BTreeSet<Arc<str>>,
    /// Anything may have changed.
    pub(super) all: bool,
    /// The directory itself is gone or has moved.
    pub(super) directory: bool,
}

impl Pending {
    /// Says whether there is nothing to look at.
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && !self.all && !self.directory
    }

    /// Notes an event. `is_whole` says of a file just made that nobody needs to write it: a link to another.
    pub(super) fn note(&mut self, mask: EventMask, name: Option<&str>, is_whole: impl Fn(&str) -> bool) {
        let gone = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED | EventMask::UNMOUNT;
        if mask.contains(EventMask::Q_OVERFLOW) {
            self.writing.clear();
            self.all = true;
        }
        if mask.intersects(gone) {
            self.directory = true;
        }
        let Some(name) = name else { return };
        if name == DATA_LINK {
            self.all = true;
        }
        if !is_manifest(name) {
            return;
        }
        let complete =
            EventMask::CLOSE_WRITE | EventMask::MOVED_TO | EventMask::MOVED_FROM | EventMask::DELETE;
        if mask.intersects(complete) || (mask.contains(EventMask::CREATE) && is_whole(name)) {
            self.writing.remove(name);
            self.changed.insert(name.into());
        } else if mask.intersects(EventMask::CREATE | EventMask::MODIFY) {
            self.writing.insert(name.into());
        }
    }
}

/// A watch over the directory that is there now.
pub(super) struct Watch {
    events: EventStream<[u8; 4096]>,
    watches: Watches,
    current: Option<(WatchDescriptor, Identity)>,
    pub(super) pending: Pending,
}

impl Watch {
    /// Makes a watch over nothing. Must run within a Tokio runtime.
    pub(super) fn new() -> io::Result<Self> {
        let events = Inotify::init()?.into_event_stream([0; 4096])?;
        let watches = events.watches();
        Ok(Self { events, watches, current: None, pending: Pending::default() })
    }

    /// Watches the directory that has the path now; says its identity, and whether it is another than before.
    ///
    /// # Errors
    /// There is none, or it cannot be watched; nothing is watched then.
    pub(super) fn ensure(&mut self, directory: &Path) -> io::Result<(Identity, bool)> {
        let gone = std::mem::take(&mut self.pending.directory);
        let identity = directory::identity(directory).inspect_err(|_| self.release())?;
        if !gone && self.current.as_ref().is_some_and(|(_, watched)| *watched == identity) {
            return Ok((identity, false));
        }
        self.release();
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::MODIFY
            | WatchMask::MOVE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::EXCL_UNLINK
            | WatchMask::ONLYDIR;
        let descriptor = self.watches.add(directory, mask)?;
        let identity = directory::identity(directory)?;
        self.current = Some((descriptor, identity));
        Ok((identity, true))
    }

    fn release(&mut self) {
        self.pending = Pending::default();
        if let Some((descriptor, _)) = self.current.take() {
            // A directory that was deleted has taken its watch along.
            let _ = self.watches.remove(descriptor);
        }
    }

    /// Waits for the next event and notes it. Loses nothing if it is dropped while it waits.
    ///
    /// # Errors
    /// Those of the read; the files are then followed by the slow look alone.
    pub(super) async fn note_next(&mut self, directory: &Path) -> io::Result<()> {
        let Some(event) = self.events.next().await else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let event = event?;
        let overflow = event.mask.contains(EventMask::Q_OVERFLOW);
        if overflow || self.current.as_ref().is_some_and(|(descriptor, _)| *descriptor == event.wd) {
            let name = event.name.as_deref().and_then(std::ffi::OsStr::to_str);
            self.pending.note(event.mask, name, |name| is_link(&directory.join(name)));
        }
        Ok(())
    }
}

/// Says whether a path is a symbolic link, or a second name of a file.
fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}

#[cfg(test)]
mod tests;
