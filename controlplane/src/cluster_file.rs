//! The cluster as it was last known, in a file, for a start while the API server is away.
//!
//! The file is written aside and renamed, so a reader sees a whole one or the one before. It is never believed for
//! its name alone: octets at its head say what it is, its layout and how long, a checksum covers the rest, and it is
//! of use only to the same user and for the same API server.
//!
//! Layout: `tidegate-cluster` (16 octets), version (u32), length of the body (u64), CRC-32 of the body (u32), all
//! little-endian; the body is `Header` and `Contents` as postcard writes them.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::cluster::{EndpointSlice, Node, Pod, Service};

const MAGIC: &[u8; 16] = b"tidegate-cluster";
/// Changes with the layout of the values; `a_change_of_layout_needs_a_new_version` tells when.
const VERSION: u32 = 2;
const HEAD: usize = 32;
/// More than any cluster needs, 100 octets for each of ten million endpoints.
const BODY_MAX: u64 = 1 << 30;

/// Objects of a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Contents {
    /// Namespaces.
    pub namespaces: Vec<Arc<str>>,
    /// Nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Services.
    pub services: Vec<Arc<Service>>,
    /// EndpointSlices.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Pods.
    pub pods: Vec<Arc<Pod>>,
}

/// Whose contents they are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Header {
    /// Address of the API server that told them.
    server: String,
    /// When they were written, seconds of Unix time.
    written: u64,
}

/// Contents with their age.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remembered {
    /// What was known.
    pub contents: Contents,
    /// When it was written; a clock that was set may make it the future.
    pub written: SystemTime,
}

/// Why a file is not believed.
#[derive(Debug)]
pub enum Refusal {
    /// It cannot be read.
    Unreadable(io::Error),
    /// It belongs to another user, or is no ordinary file.
    NotOurs,
    /// It does not begin as such a file does.
    Foreign,
    /// It is of another version of the program.
    Version(u32),
    /// It is shorter or longer than it says, or its checksum is wrong.
    Torn(&'static str),
    /// It is of another API server.
    OtherServer(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "cannot be read: {error}"),
            Self::NotOurs => f.write_str("is no ordinary file of this user"),
            Self::Foreign => f.write_str("is no file of a cluster"),
            Self::Version(version) => write!(f, "has layout {version}, not {VERSION}"),
            Self::Torn(how) => write!(f, "is torn: {how}"),
            Self::OtherServer(server) => write!(f, "is of the cluster at {server}"),
        }
    }
}

impl std::error::Error for Refusal {}

/// The file of one cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterFile {
    path: PathBuf,
    server: String,
}

impl ClusterFile {
    /// Names a file, which need not be there, and the API server whose cluster it is to hold.
    #[must_use]
    pub fn new(path: PathBuf, server: String) -> Self {
        Self { path, server }
    }

    /// Returns where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it; `None` if there is none. Blocks; costs about 20 ns an endpoint.
    ///
    /// # Errors
    /// Says why it is not believed.
    pub fn load(&self) -> Result<Option<Remembered>, Refusal> {
        // Without blocking on what may be a pipe, and without following a link that somebody put there.
        let opened =
            OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&self.path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Refusal::Unreadable(error)),
        };
        let metadata = file.metadata().map_err(Refusal::Unreadable)?;
        if !metadata.is_file() || metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Err(Refusal::NotOurs);
        }
        let mut octets = Vec::with_capacity(metadata.len().min(BODY_MAX) as usize);
        (&mut file).take(BODY_MAX).read_to_end(&mut octets).map_err(Refusal::Unreadable)?;
        let (header, contents) = decode(&octets)?;
        if header.server != self.server {
            return Err(Refusal::OtherServer(header.server));
        }
        let written = UNIX_EPOCH.checked_add(Duration::from_secs(header.written)).unwrap_or(UNIX_EPOCH);
        Ok(Some(Remembered { contents, written }))
    }

    /// Puts contents in its place in one step. Blocks until they are on the disk.
    ///
    /// # Errors
    /// What went wrong; the file before is still there.
    pub fn save(&self, contents: &Contents) -> io::Result<()> {
        let written = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let octets = encode(&Header { server: self.server.clone(), written }, contents)?;
        let mut aside = self.path.clone().into_os_string();
        aside.push(".new");
        let aside = PathBuf::from(aside);
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(&octets)?;
        file.sync_all()?;
        fs::rename(&aside, &self.path)?;
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

fn encode(header: &Header, contents: &Contents) -> io::Result<Vec<u8>> {
    let octets = postcard::to_extend(&(header, contents), vec![0; HEAD]).map_err(io::Error::other)?;
    let mut octets = octets;
    let (head, body) = octets.split_at_mut(HEAD);
    let parts: [&[u8]; 4] = [
        MAGIC,
        &VERSION.to_le_bytes(),
        &(body.len() as u64).to_le_bytes(),
        &crc32fast::hash(body).to_le_bytes(),
    ];
    head.copy_from_slice(&parts.concat());
    Ok(octets)
}

fn decode(octets: &[u8]) -> Result<(Header, Contents), Refusal> {
    let (magic, rest) = octets.split_first_chunk::<16>().ok_or(Refusal::Foreign)?;
    if magic != MAGIC {
        return Err(Refusal::Foreign);
    }
    let short = Refusal::Torn("it ends within its head");
    let Some((version, rest)) = rest.split_first_chunk() else { return Err(short) };
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(Refusal::Version(version));
    }
    let Some((length, rest)) = rest.split_first_chunk() else { return Err(short) };
    let Some((checksum, body)) = rest.split_first_chunk() else { return Err(short) };
    if body.len() as u64 != u64::from_le_bytes(*length) {
        return Err(Refusal::Torn("it has another length than it says"));
    }
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return Err(Refusal::Torn("its checksum is wrong"));
    }
    postcard::from_bytes(body).map_err(|_| Refusal::Torn("its values do not fit their layout"))
}

/// Protocols in the file, by their IP protocol number.
pub(crate) mod protocol {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use tidegate_dataplane::net::Protocol;

    const NUMBERS: [(Protocol, u8); 3] = [(Protocol::Tcp, 6), (Protocol::Udp, 17), (Protocol::Sctp, 132)];

    pub(crate) fn serialize<S: Serializer>(protocol: &Protocol, serializer: S) -> Result<S::Ok, S::Error> {
        let number = NUMBERS.iter().find(|(known, _)| known == protocol).map_or(0, |(_, number)| *number);
        serializer.serialize_u8(number)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Protocol, D::Error> {
        let number = u8::deserialize(deserializer)?;
        let known = NUMBERS.iter().find(|(_, known)| *known == number);
        known.map(|(protocol, _)| *protocol).ok_or_else(|| D::Error::custom("no protocol of Services"))
    }
}

#[cfg(test)]
mod tests;
