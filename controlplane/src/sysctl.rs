//! Where the kernel's settings of the network are.

use std::path::PathBuf;

/// Names the directory that stands for `/proc/sys/net`. A container sees that one read-only, and may have the host's
/// mounted elsewhere; either shows the network namespace of whoever looks.
const VARIABLE: &str = "TIDEGATE_SYSCTL_NET";

/// Returns the file of a setting, such as `ipv4/ip_forward`.
#[must_use]
pub(crate) fn path(name: &str) -> PathBuf {
    let directory = std::env::var_os(VARIABLE).filter(|value| !value.is_empty());
    PathBuf::from(directory.unwrap_or_else(|| "/proc/sys/net".into())).join(name)
}
