//! Local ports that the kernel does not give to connections of the box itself, so that masquerade may have them.
//!
//! They stand in `net.ipv4.ip_local_reserved_ports`, one list for all who reserve: ours are put to those that are
//! there, and only ours are taken out again. A program that binds such a port by its number still gets it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::Read as _;
use std::str::FromStr;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tidegate_dataplane::masquerade::PortRange;

use crate::instance::{Change, Instance};
use crate::sysctl;

/// Shows the network namespace of the calling thread.
const SYSCTL: &str = "ipv4/ip_local_reserved_ports";

/// Longest list the kernel writes: every other port, five digits and a comma each.
const LIST_BYTES: usize = 32_768 * 6;

/// A set of ports; its text is the kernel's: ports and ranges with commas between them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortSet(BTreeSet<u16>);

impl From<PortRange> for PortSet {
    fn from(range: PortRange) -> Self {
        Self((range.first()..=range.last()).collect())
    }
}

impl FromStr for PortSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u16>().map_err(|_| format!("`{text}` is no port"));
        let mut ports = BTreeSet::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            ports.extend(number(first)?..=number(last)?);
        }
        Ok(Self(ports))
    }
}

impl TryFrom<String> for PortSet {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PortSet> for String {
    fn from(ports: PortSet) -> Self {
        ports.to_string()
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ports = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = ports.next() {
            let mut last = first;
            while let Some(next) = ports.next_if(|next| last.checked_add(1) == Some(*next)) {
                last = next;
            }
            write!(f, "{comma}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

/// Reserves the ports of a range that nobody has reserved yet, and notes those in the journal first.
///
/// # Errors
/// When the kernel's list cannot be read or written, or the journal cannot be written.
pub fn reserve(range: PortRange, instance: &mut Instance) -> anyhow::Result<()> {
    let present = read()?;
    let added = PortSet(&PortSet::from(range).0 - &present.0);
    if added.0.is_empty() {
        return Ok(());
    }
    instance.record(Change::ReservedPorts(added.clone()))?;
    write(&PortSet(&present.0 | &added.0))
}

/// Takes ports out that [`reserve`] put in; others that were added meanwhile stay.
///
/// # Errors
/// When the kernel's list cannot be read or written.
pub(crate) fn release(added: &PortSet) -> anyhow::Result<()> {
    let present = read()?;
    let remaining = PortSet(&present.0 - &added.0);
    if remaining == present { Ok(()) } else { write(&remaining) }
}

/// Reads the whole list at once: a second read of this file gives nothing, however short the first was.
///
/// Source: kernel/sysctl.c, `proc_do_large_bitmap`.
fn read() -> anyhow::Result<PortSet> {
    let mut text = vec![0; LIST_BYTES];
    let read = File::open(sysctl::path(SYSCTL)).and_then(|mut file| file.read(&mut text));
    text.truncate(read.with_context(|| format!("{SYSCTL}: cannot read it"))?);
    let text = String::from_utf8(text).with_context(|| format!("{SYSCTL}: not text"))?;
    text.parse().map_err(|error: String| anyhow::anyhow!("{SYSCTL}: {error}"))
}

/// Replaces the list; a line without ports empties it, where no octet at all would change nothing.
fn write(ports: &PortSet) -> anyhow::Result<()> {
    fs::write(sysctl::path(SYSCTL), format!("{ports}\n"))
        .with_context(|| format!("{SYSCTL}: cannot set {ports}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_and_writes_as_the_kernels() {
        for text in ["", "8080", "1-3,5,7-8", "61000-65535", "0-65535"] {
            assert_eq!(text.parse::<PortSet>().unwrap().to_string(), text);
        }
        assert_eq!("5,1-2,3\n".parse::<PortSet>().unwrap().to_string(), "1-3,5");
        assert!("1-x".parse::<PortSet>().is_err() && "70000".parse::<PortSet>().is_err());
    }
}
