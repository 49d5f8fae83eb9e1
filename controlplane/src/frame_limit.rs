//! The longest packets that a device can be served with: what fits one buffer, or more where kernel, driver and mode have
//! packets in several (design decision 15: asked, never assumed).

use std::io;

use tidegate_dataplane::xdp::{AttachPreference, DriverFeatures};
use tidegate_dataplane::xsk::{PACKET_BYTES_MAX, takes_chains};

use crate::netlink::Link;
use crate::settings::BadConfiguration;

/// The largest MTU whose frames fit a 4 KiB frame of the shared memory, in octets.
pub const SINGLE_FRAME_MTU: u32 = 3498;

/// The largest MTU of packets in several frames, in octets: what the workers' own copies have room for.
pub const MULTI_BUFFER_MTU: u32 = PACKET_BYTES_MAX as u32 - 14;

/// Says whether a device's packets may take several frames.
#[must_use]
pub const fn needs_chains(mtu: u32) -> bool {
    mtu > SINGLE_FRAME_MTU
}

/// What may be known of a device when it is asked whether packets may come in several buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Support {
    /// AF_XDP sockets can have them (Linux 6.6).
    kernel: bool,
    /// What the driver says, if the kernel could be asked.
    driver: Option<DriverFeatures>,
}

impl Support {
    fn read(link: &Link) -> io::Result<Self> {
        Ok(Self { kernel: takes_chains()?, driver: DriverFeatures::read(link.index)? })
    }

    /// Says what is missing, and what may be done about it.
    fn lacks(self, want: AttachPreference) -> Option<(&'static str, &'static str)> {
        if !self.kernel {
            return Some(("AF_XDP of this kernel has no multi-buffer packets (Linux 6.6 and up)", ""));
        }
        // In generic mode the kernel copies packets out of its own buffers, whatever the driver's are.
        let generic = want == AttachPreference::GenericOnly;
        match self.driver {
            _ if generic => None,
            None => Some((
                "the kernel does not say whether its driver has multi-buffer packets with native XDP",
                ", or try `--xdp-mode generic`",
            )),
            Some(DriverFeatures { native: true, chains: false }) => Some((
                "its driver has no multi-buffer packets with native XDP",
                ", or try `--xdp-mode generic`",
            )),
            Some(_) => None,
        }
    }
}

/// Refuses a device whose MTU is more than it can be served with.
///
/// # Errors
/// Names the device, its MTU, the limit, the reason and what to do.
pub fn require_fitting_mtu(link: &Link, want: AttachPreference) -> anyhow::Result<()> {
    if !needs_chains(link.mtu) {
        return Ok(());
    }
    let support = Support::read(link).map_err(|error| {
        refusal(link, SINGLE_FRAME_MTU, &format!("the kernel cannot be asked: {error}"), "")
    })?;
    Ok(require(link, want, support)?)
}

fn require(link: &Link, want: AttachPreference, support: Support) -> Result<(), BadConfiguration> {
    if let Some((reason, or)) = support.lacks(want) {
        return Err(refusal(link, SINGLE_FRAME_MTU, reason, or));
    }
    if link.mtu > MULTI_BUFFER_MTU {
        return Err(refusal(link, MULTI_BUFFER_MTU, "no longer packets are carried", ""));
    }
    Ok(())
}

fn refusal(link: &Link, limit: u32, reason: &str, or: &str) -> BadConfiguration {
    let Link { name, mtu, .. } = link;
    BadConfiguration(format!(
        "--interface {name}: its MTU is {mtu}, more than {limit}: {reason}; lower it with `ip link set {name} mtu \
         {limit}`{or}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(mtu: u32, want: AttachPreference, kernel: bool, driver: Option<(bool, bool)>) -> String {
        let link = Link { mtu, ..Link::ethernet(2, "eth1") };
        let driver = driver.map(|(native, chains)| DriverFeatures { native, chains });
        require(&link, want, Support { kernel, driver })
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn a_long_mtu_is_refused_with_the_limit_and_the_reason_where_something_is_missing() {
        use AttachPreference::{GenericOnly, NativeThenGeneric};
        let able = Some((true, true));
        for (mtu, want, kernel, driver) in [
            (9000, NativeThenGeneric, true, able),
            (9202, NativeThenGeneric, true, able),
            (9000, NativeThenGeneric, true, Some((false, false))),
            (9000, GenericOnly, true, Some((true, false))),
            (9000, GenericOnly, true, None),
        ] {
            assert_eq!(refused(mtu, want, kernel, driver), "", "{mtu} {want:?} {driver:?}");
        }
        for (mtu, want, kernel, driver, limit, reason) in [
            (9203, NativeThenGeneric, true, able, 9202, "no longer packets are carried"),
            (3499, NativeThenGeneric, false, able, 3498, "Linux 6.6"),
            (9000, GenericOnly, false, able, 3498, "Linux 6.6"),
            (9000, NativeThenGeneric, true, Some((true, false)), 3498, "its driver has no multi-buffer"),
            (9000, NativeThenGeneric, true, None, 3498, "does not say"),
        ] {
            let said = refused(mtu, want, kernel, driver);
            let start = format!("--interface eth1: its MTU is {mtu}, more than {limit}: ");
            let end = format!("`ip link set eth1 mtu {limit}`");
            assert!(said.starts_with(&start) && said.contains(reason) && said.contains(&end), "{said}");
        }
    }
}
