//! The file that keeps assigned ClusterIPs over a restart.
//!
//! JSON of a version and the addresses by `namespace/name`. It is only ever replaced as a whole, by rename.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Addresses;
use crate::cluster::ObjectName;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Content {
    version: u32,
    cluster_ips: BTreeMap<String, Vec<IpAddr>>,
}

/// Loads the assignments of an earlier run; a file that is absent, torn or not ours gives none, with a log
/// line.
#[must_use]
pub fn load(path: &Path) -> Addresses {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Addresses::new(),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "the file of assigned ClusterIPs is ignored");
            return Addresses::new();
        }
    };
    parse(&text).unwrap_or_else(|error| {
        tracing::warn!(file = %path.display(), %error, "the file of assigned ClusterIPs is ignored");
        Addresses::new()
    })
}

fn parse(text: &str) -> Result<Addresses, String> {
    let content: Content = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if content.version != VERSION {
        return Err(format!("version {} is not {VERSION}", content.version));
    }
    let named = content.cluster_ips.into_iter().map(|(name, addresses)| {
        let (namespace, name) =
            name.split_once('/').ok_or_else(|| format!("{name:?} is no namespace/name"))?;
        Ok((ObjectName::new(namespace, name), addresses))
    });
    named.collect()
}

/// Replaces the file. Either the old or the new content is there at any time, also after a power cut.
///
/// # Errors
/// Those of the file system; the old content is then still there.
pub fn save(path: &Path, addresses: &Addresses) -> io::Result<()> {
    let cluster_ips =
        addresses.iter().map(|(name, addresses)| (name.to_string(), addresses.clone())).collect();
    let text = serde_json::to_vec_pretty(&Content { version: VERSION, cluster_ips })?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let fresh = path.with_extension("json.new");
    let mut file = File::create(&fresh)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(directory)?.sync_all()
}
