//! The stages of the packet path and the whole of it, each ready to be measured burst by burst.
//!
//! What they measure is the same for all who ask: the benches (how long a burst takes), `stages` (how long the slowest of
//! ten thousand bursts takes) and `bench/instructions` (how many instructions a packet takes). Reading order: `parts` for
//! what needs no table, `tables` for the flow table, `path` for packets that are carried, `life` for whole connections.

mod life;
mod parts;
mod path;
mod tables;

use std::time::Duration;

/// A stage with its tables full, its packets written, its flows there.
pub struct Stage {
    /// What one burst has of what is counted: mostly packets.
    pub elements: u64,
    burst: Box<dyn FnMut() -> Duration>,
}

impl Stage {
    fn new(elements: usize, burst: impl FnMut() -> Duration + 'static) -> Self {
        Self { elements: elements as u64, burst: Box::new(burst) }
    }

    /// Runs one burst and returns how long the part that counts took.
    pub fn burst(&mut self) -> Duration {
        (self.burst)()
    }
}

/// A stage that is made when it is asked for.
pub struct Recipe {
    /// A path such as `path/established_udp/1M/burst_1`.
    pub name: String,
    make: Box<dyn Fn() -> Stage>,
}

impl Recipe {
    fn new(name: impl Into<String>, make: impl Fn() -> Stage + 'static) -> Self {
        Self { name: name.into(), make: Box::new(make) }
    }

    /// Fills tables, which takes some seconds and up to 2 GB for 10 M flows.
    #[must_use]
    pub fn make(&self) -> Stage {
        (self.make)()
    }
}

/// Numbers of flows, with their names.
const SIZES: [(&str, u32); 3] = [("10k", 10_000), ("1M", 1_000_000), ("10M", 10_000_000)];

/// Lists all stages.
#[must_use]
pub fn all() -> Vec<Recipe> {
    [parts::recipes(), tables::recipes(), path::recipes(), life::recipes()].into_iter().flatten().collect()
}

/// Flow numbers in the order of their packets, again and again.
struct Draws {
    numbers: Vec<u32>,
    next: usize,
}

impl Draws {
    fn new(numbers: Vec<u32>) -> Self {
        Self { numbers, next: 0 }
    }

    fn take(&mut self, count: usize) -> Vec<u32> {
        let first = self.next;
        self.next = (first + count) % self.numbers.len();
        (first..first + count).map(|place| self.numbers[place % self.numbers.len()]).collect()
    }
}
