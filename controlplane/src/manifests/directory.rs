//! One look at the directory: which files are there, and what is in those that changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{self, Content, FileFault, MAX_FILE_BYTES, is_manifest};

/// Device and inode of a directory: another one under the same name is another directory.
pub(super) type Identity = (u64, u64);

/// By what a file is seen to have changed, after symbolic links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    identity: Identity,
    size_bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Self {
            identity: (metadata.dev(), metadata.ino()),
            size_bytes: metadata.len(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Which files to look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// Those that are known to have changed; nothing of [`Task`] but the directory is looked at.
    Named(BTreeSet<Arc<str>>),
    /// All; those are read whose stamp changed.
    All {
        /// A changed stamp must be seen twice: the file may be half written in a place that is not watched.
        settle: bool,
    },
}

/// What was seen of a file.
#[derive(Debug)]
pub(super) enum Seen {
    /// It parses.
    Content(Stamp, Content),
    /// It cannot be read, or does not parse; the latter with its stamp.
    Failed(Option<Stamp>, FileFault),
    /// It changed; wait until it changes no more.
    Settling(Stamp),
    /// It is not there.
    Gone,
}

impl Default for Scope {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

/// A task for [`look`], with what is known of the files.
#[derive(Clone, Debug, Default)]
pub(super) struct Task {
    pub(super) directory: PathBuf,
    pub(super) identity: Identity,
    pub(super) scope: Scope,
    /// Files as they were last read.
    pub(super) known: BTreeMap<Arc<str>, Stamp>,
    /// All files whose content is in force.
    pub(super) held: BTreeSet<Arc<str>>,
    /// Changed files as they were last seen.
    pub(super) settling: BTreeMap<Arc<str>, Stamp>,
    /// Files that somebody is writing just now.
    pub(super) writing: BTreeSet<Arc<str>>,
}

/// What one look saw.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) seen: Vec<(Arc<str>, Seen)>,
    /// There is at least one manifest, if all files were looked at.
    pub(super) has_files: bool,
}

/// Returns what a path is, after symbolic links.
///
/// # Errors
/// Those of the file system, also if the path is no directory.
pub(super) fn identity(directory: &Path) -> io::Result<Identity> {
    let metadata = fs::metadata(directory)?;
    if metadata.is_dir() {
        Ok((metadata.dev(), metadata.ino()))
    } else {
        Err(io::Error::from(io::ErrorKind::NotADirectory))
    }
}

/// Looks at the files of the scope, reads and parses those that changed. Blocks.
///
/// # Errors
/// The directory is gone, cannot be read, or is another one at the end: nothing of this look counts.
pub(super) fn look(task: &Task) -> io::Result<Look> {
    let mut seen = Vec::new();
    let mut has_files = false;
    match &task.scope {
        Scope::Named(names) => {
            for name in names {
                let link = task.directory.join(&**name).symlink_metadata();
                let is_gone = link.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
                seen.push((name.clone(), if is_gone { Seen::Gone } else { read(task, name) }));
            }
        }
        Scope::All { settle } => {
            let listed = list(&task.directory)?;
            has_files = !listed.is_empty();
            for name in listed.iter().filter(|name| !task.writing.contains(*name)) {
                seen.extend(read_if_changed(task, name, *settle).map(|what| (name.clone(), what)));
            }
            seen.extend(task.held.difference(&listed).map(|name| (name.clone(), Seen::Gone)));
        }
    }
    if identity(&task.directory)? != task.identity {
        return Err(io::Error::other("another directory has taken its place"));
    }
    Ok(Look { seen, has_files })
}

fn list(directory: &Path) -> io::Result<BTreeSet<Arc<str>>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        if let Some(name) = entry?.file_name().to_str().filter(|name| is_manifest(name)) {
            names.insert(name.into());
        }
    }
    Ok(names)
}

fn read_if_changed(task: &Task, name: &Arc<str>, settle: bool) -> Option<Seen> {
    let stamp = fs::metadata(task.directory.join(&**name)).ok().map(|metadata| Stamp::of(&metadata));
    match stamp {
        Some(stamp) if task.known.get(name) == Some(&stamp) => None,
        Some(stamp) if settle && task.settling.get(name) != Some(&stamp) => Some(Seen::Settling(stamp)),
        _ => Some(read(task, name)),
    }
}

/// Reads a file. The stamp is from before, so that a change meanwhile is seen at the next look.
fn read(task: &Task, name: &Arc<str>) -> Seen {
    let path = task.directory.join(&**name);
    let fail = |what: String| Seen::Failed(None, FileFault { line: None, what });
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) => return fail(format!("cannot be read: {error}")),
    };
    if !metadata.is_file() {
        return fail("is no regular file".to_owned());
    }
    if metadata.len() > MAX_FILE_BYTES {
        return fail(format!("has {} bytes, more than {MAX_FILE_BYTES}", metadata.len()));
    }
    let stamp = Stamp::of(&metadata);
    match fs::read(&path) {
        Err(error) => fail(format!("cannot be read: {error}")),
        Ok(content) => match file::read(name, &content) {
            Ok(content) => Seen::Content(stamp, content),
            Err(fault) => Seen::Failed(Some(stamp), fault),
        },
    }
}
