//! The devices that a run serves, by their names: a device that is deleted is missing until one of its name comes back.
//!
//! [`ServedDevices`] only says what is to be done, [`attach`] does the first of it; the rest is the gateway's, with the
//! workers.

use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::xdp::{AttachMode, AttachPreference, Steering};

use crate::instance::Instance;
use crate::netlink::Link;
use crate::workers::AttachedDevice;
use crate::{frame_limit, offloads, settings};

/// Attaches the program to a device, for packets in several buffers if its MTU takes them; receive offloads that generic
/// mode cannot have are switched off.
///
/// # Errors
/// Its MTU is more than it can be served with, another program is on it, or the kernel refuses.
pub fn attach(
    link: &Link,
    want: AttachPreference,
    program: &mut Steering,
    instance: &mut Instance,
) -> anyhow::Result<AttachedDevice> {
    let queues = offloads::receive_queues(&link.name)?;
    frame_limit::require_fitting_mtu(link, want)?;
    let chains = frame_limit::needs_chains(link.mtu);
    let attach_mode = if chains {
        program.attach_for_chains(link.index, &link.name, queues, want)?
    } else {
        program.attach(link.index, &link.name, queues, want)?
    };
    if attach_mode == AttachMode::Generic {
        offloads::switch_off(&link.name, instance)?;
    }
    Ok(AttachedDevice { index: link.index, name: link.name.clone(), queues, attach_mode, chains })
}

/// All devices that were asked for.
#[derive(Debug, Default)]
pub struct ServedDevices {
    devices: Vec<ServedDevice>,
    /// Devices that went, since the start.
    pub losses: u64,
    /// Devices that came back and are served again, since the start.
    pub returns: u64,
}

#[derive(Debug)]
struct ServedDevice {
    name: String,
    /// With the program on it.
    attached: Option<AttachedDevice>,
    /// All workers have their sockets.
    is_served: bool,
    /// Why it is not served, as it was last told.
    trouble: Option<String>,
}

/// What may be wrong with a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Packets come and go.
    Serving,
    /// It is set down.
    Down,
    /// It is not there, or not served yet.
    Missing,
}

impl ServedDevices {
    /// Begins with devices that are all served.
    #[must_use]
    pub fn new(attached: Vec<AttachedDevice>) -> Self {
        let served = |attached: AttachedDevice| ServedDevice {
            name: attached.name.clone(),
            attached: Some(attached),
            is_served: true,
            trouble: None,
        };
        Self { devices: attached.into_iter().map(served).collect(), ..Self::default() }
    }

    /// Takes note of the devices that are not among all links any more, and returns them; each once.
    pub fn lose(&mut self, links: &[Link]) -> Vec<AttachedDevice> {
        let mut lost = Vec::new();
        for device in &mut self.devices {
            let is_gone = |own: &mut AttachedDevice| !links.iter().any(|link| link.index == own.index);
            if let Some(attached) = device.attached.take_if(is_gone) {
                device.is_served = false;
                lost.push(attached);
            }
        }
        self.losses += lost.len() as u64;
        lost
    }

    /// Returns the links, up, that have the names of devices that are not served, each with the program's place on it
    /// if it has got so far.
    ///
    /// One that cannot be served is reported once and left out.
    pub fn returned(&mut self, links: &[Link]) -> Vec<(Link, Option<AttachedDevice>)> {
        let mut returned = Vec::new();
        for device in self.devices.iter_mut().filter(|device| !device.is_served) {
            let is_it = |link: &&Link| match &device.attached {
                Some(attached) => link.index == attached.index,
                None => link.name == device.name,
            };
            let Some(link) = links.iter().find(is_it).filter(|link| link.up) else { continue };
            match settings::require_servable(link, links) {
                Ok(()) => returned.push((link.clone(), device.attached.clone())),
                Err(error) => device.report(error.to_string()),
            }
        }
        returned
    }

    /// Notes that the program is on a device that came back.
    pub fn attach(&mut self, attached: AttachedDevice) {
        if let Some(device) = self.find(&attached.name) {
            device.attached = Some(attached);
        }
    }

    /// Notes that a device that came back is served.
    pub fn serve(&mut self, name: &str) {
        if let Some(device) = self.find(name) {
            device.is_served = true;
            device.trouble = None;
            self.returns += 1;
        }
    }

    /// Says why a device that came back is not served; the same reason once.
    pub fn report(&mut self, name: &str, trouble: String) {
        if let Some(device) = self.find(name) {
            device.report(trouble);
        }
    }

    /// Returns how each device stands, by those that are up.
    pub fn standings(&self, is_up: impl Fn(DeviceIndex) -> bool) -> impl Iterator<Item = (&str, Standing)> {
        self.devices.iter().map(move |device| {
            let standing = match &device.attached {
                Some(attached) if device.is_served && is_up(attached.index) => Standing::Serving,
                Some(_) if device.is_served => Standing::Down,
                _ => Standing::Missing,
            };
            (device.name.as_str(), standing)
        })
    }

    fn find(&mut self, name: &str) -> Option<&mut ServedDevice> {
        self.devices.iter_mut().find(|device| device.name == name)
    }
}

impl ServedDevice {
    fn report(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::error!("device {}: back, but not served: {trouble}", self.name);
            self.trouble = Some(trouble);
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_dataplane::xdp::AttachMode;

    use super::*;

    fn attached(index: u32, name: &str) -> AttachedDevice {
        let (name, attach_mode) = (name.to_owned(), AttachMode::Native);
        AttachedDevice { index: DeviceIndex(index), name, queues: 1, attach_mode, chains: false }
    }

    fn link(index: u32, name: &str, up: bool) -> Link {
        Link { up, ..Link::ethernet(index, name) }
    }

    fn standings(devices: &ServedDevices) -> Vec<Standing> {
        devices.standings(|_| true).map(|(_, standing)| standing).collect()
    }

    #[test]
    fn a_device_that_is_deleted_and_made_again_is_lost_once_and_returns_when_it_is_up() {
        let mut devices = ServedDevices::new(vec![attached(2, "client0"), attached(3, "pods0")]);
        let before = [link(2, "client0", true), link(3, "pods0", true)];
        assert!(devices.lose(&before).is_empty() && devices.returned(&before).is_empty());

        let without = [link(2, "client0", true)];
        let lost: Vec<u32> = devices.lose(&without).iter().map(|device| device.index.0).collect();
        assert_eq!(lost, [3]);
        assert!(devices.lose(&without).is_empty(), "it is lost once");
        assert_eq!(standings(&devices), [Standing::Serving, Standing::Missing]);

        assert!(devices.returned(&[link(7, "pods0", false)]).is_empty(), "it is not up");
        let back = [link(2, "client0", true), link(7, "pods0", true)];
        assert_eq!(devices.returned(&back), [(link(7, "pods0", true), None)]);
        devices.attach(attached(7, "pods0"));
        assert_eq!(devices.returned(&back), [(link(7, "pods0", true), Some(attached(7, "pods0")))]);
        devices.serve("pods0");
        assert!(devices.returned(&back).is_empty());
        assert_eq!(standings(&devices), [Standing::Serving; 2]);
        assert_eq!((devices.losses, devices.returns), (1, 1));
    }

    #[test]
    fn a_device_that_goes_again_before_it_is_served_is_lost_again() {
        let mut devices = ServedDevices::new(vec![attached(3, "pods0")]);
        devices.lose(&[]);
        devices.attach(attached(7, "pods0"));
        assert_eq!(devices.lose(&[link(8, "pods0", true)]), [attached(7, "pods0")]);
        assert_eq!(devices.returned(&[link(8, "pods0", true)]), [(link(8, "pods0", true), None)]);
    }

    #[test]
    fn a_device_that_was_renamed_is_the_same_one() {
        let mut devices = ServedDevices::new(vec![attached(3, "pods0")]);
        let renamed = [link(3, "other0", true), link(7, "pods0", true)];
        assert!(devices.lose(&renamed).is_empty() && devices.returned(&renamed).is_empty());
    }

    #[test]
    fn a_device_that_came_back_as_one_that_cannot_be_served_stays_missing() {
        let mut devices = ServedDevices::new(vec![attached(3, "pods0")]);
        devices.lose(&[]);
        let bond = Link { kind: Some("bond".into()), ..link(7, "pods0", true) };
        assert!(devices.returned(&[bond]).is_empty());
        assert_eq!(standings(&devices), [Standing::Missing]);
        assert_eq!(devices.returned(&[link(8, "pods0", true)]).len(), 1);
    }

    #[test]
    fn a_device_that_is_down_is_not_missing() {
        let devices = ServedDevices::new(vec![attached(3, "pods0")]);
        let standings: Vec<_> = devices.standings(|_| false).collect();
        assert_eq!(standings, [("pods0", Standing::Down)]);
    }
}
