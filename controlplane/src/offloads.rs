//! Receive offloads of served devices: generic XDP needs them off, and they come back at the end.

use anyhow::Context;
use tidegate_dataplane::xdp::{Offloads, Restore};

use crate::instance::{self, Change, Instance};

/// Returns how many receive queues a device has.
///
/// # Errors
/// When the device is gone.
pub fn receive_queues(device: &str) -> anyhow::Result<u32> {
    tidegate_dataplane::xdp::rx_queues(device)
        .with_context(|| format!("--interface {device}: receive queues"))
}

/// Switches GRO and LRO off, noting in the journal what they were.
///
/// # Errors
/// When the device refuses.
pub fn switch_off(device: &str, instance: &mut Instance) -> anyhow::Result<()> {
    let before =
        Offloads::read(device).with_context(|| format!("--interface {device}: cannot read its offloads"))?;
    if before.gro || before.lro {
        let noted = instance::Offloads { device: device.to_owned(), gro: before.gro, lro: before.lro };
        instance.record(Change::Offloads(noted))?;
        let _in_journal = Offloads::switch_off(device)
            .with_context(|| format!("--interface {device}: cannot switch GRO and LRO off"))?;
        tracing::info!("device {device}: GRO and LRO off while generic XDP runs on it");
    }
    Ok(())
}

/// Sets a device's offloads as they were; a device that is gone needs nothing.
///
/// # Errors
/// When the device refuses.
pub fn restore(before: &instance::Offloads) -> anyhow::Result<()> {
    if !std::path::Path::new("/sys/class/net").join(&before.device).exists() {
        return Ok(());
    }
    let instance::Offloads { device, gro, lro } = before.clone();
    Restore { name: device, before: Offloads { gro, lro } }
        .restore()
        .with_context(|| format!("device {}: cannot restore GRO and LRO", before.device))
}
