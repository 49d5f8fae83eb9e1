//! What the processors did, as the kernel counts it.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};

/// Ticks per second of `/proc/stat`, the same on every Linux that user space sees.
const TICKS_PER_SECOND: f64 = 100.0;
/// Process whose children the kernel's threads are.
const KERNEL_THREADS: u32 = 2;

/// What all processors did since boot, in seconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Work {
    /// All of it, work in interrupts included. A process's own time misses what the kernel does for its packets on
    /// other occasions; this does not.
    pub all: f64,
    /// What programs did, in and for them, that are neither this one nor started by it.
    pub of_others: f64,
}

impl Work {
    /// Reads it: a file for each process.
    pub fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let all = busy_in(&text).context("/proc/stat: no line of all processors")?;
        Ok(Self { all, of_others: of_others(std::process::id(), &processes()?) })
    }

    /// Returns what was done since `earlier` that nobody else's program did.
    #[must_use]
    pub fn ours_since(self, earlier: Self) -> f64 {
        (self.all - earlier.all) - (self.of_others - earlier.of_others)
    }
}

/// A process and its work; that of children that have ended is in it.
struct Process {
    id: u32,
    parent: u32,
    seconds: f64,
}

fn processes() -> Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that ended meanwhile has no file any more.
        let Ok(text) = fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        all.extend(process_in(id, &text));
    }
    Ok(all)
}

/// Reads parent, utime, stime, cutime and cstime. The name before them may hold anything but ends with the last `)`.
fn process_in(id: u32, text: &str) -> Option<Process> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11..15)?.iter().filter_map(|field| field.parse::<f64>().ok()).sum();
    Some(Process { id, parent: fields.get(1)?.parse().ok()?, seconds: ticks / TICKS_PER_SECOND })
}

/// Sums the processes that neither are `own` nor descend from it. The kernel's threads (children of 2) are nobody's:
/// what they do, they do for packets.
fn of_others(own: u32, processes: &[Process]) -> f64 {
    let parents: HashMap<u32, u32> = processes.iter().map(|process| (process.id, process.parent)).collect();
    let is_ours = |id: u32| {
        let mut ancestor = id;
        while ancestor > 1 && ancestor != own && ancestor != KERNEL_THREADS {
            ancestor = parents.get(&ancestor).copied().unwrap_or(0);
        }
        ancestor == own || ancestor == KERNEL_THREADS
    };
    processes.iter().filter(|process| !is_ours(process.id)).map(|process| process.seconds).sum()
}

/// Sums user, nice, system, irq and softirq of the first line; idle, iowait, steal and guests are none of it.
fn busy_in(text: &str) -> Option<f64> {
    let all = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<f64> = all.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else { return None };
    Some((user + nice + system + irq + softirq) / TICKS_PER_SECOND)
}

/// The one-minute load average.
pub fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    text.split(' ').next().and_then(|word| word.parse().ok()).context("/proc/loadavg")
}

/// Memory that programs may still have, in octets.
pub fn available_memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("MemAvailable")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().context("MemAvailable")?;
    Ok(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ours_if_we_started_it_or_the_kernel_did() {
        let process = |id, parent| Process { id, parent, seconds: f64::from(id) };
        let all = [
            process(1, 0),
            process(2, 0),
            process(20, 2),
            process(300, 1),
            process(301, 300),
            process(4000, 1),
        ];
        assert_eq!(of_others(300, &all), 4001.0);
        assert_eq!(of_others(4000, &all), 602.0);
    }

    #[test]
    fn the_name_of_a_process_may_hold_anything() {
        let text = "7 (a) (b) R) S 42 7 7 0 -1 4194304 1 2 3 4 100 20 3 7 20 0 1 0 5\n";
        let process = process_in(7, text).unwrap();
        assert_eq!((process.parent, process.seconds), (42, 1.3));
        assert!(process_in(7, "7 (a").is_none());
    }

    #[test]
    fn idle_and_stolen_time_are_not_work() {
        let text = "cpu  100 20 300 99999 888 4 50 777 6 6\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_in(text), Some(4.74));
        assert_eq!(busy_in("cpu 1 2"), None);
        assert_eq!(busy_in(""), None);
    }
}
