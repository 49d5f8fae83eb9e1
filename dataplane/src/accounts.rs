//! What each Service port, or each of its endpoints, has carried: one row of counters in each worker.
//!
//! A flow remembers the number of its row, so that an established packet is counted without asking any rule. A row is
//! a cache line; a worker writes its own rows only, and others read them.

use std::alloc::{Layout, handle_alloc_error};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use zerocopy::{FromZeros, KnownLayout};

use crate::flows::Direction;

/// Rows of each worker. What has no row of its own is counted in row 0.
pub const ROWS: u32 = 65_536;

/// What one row has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Row {
    /// Packets to the endpoint.
    pub request_packets: u64,
    /// Octets of their IP packets.
    pub request_bytes: u64,
    /// Packets from the endpoint.
    pub reply_packets: u64,
    /// Octets of their IP packets.
    pub reply_bytes: u64,
    /// Flows opened.
    pub connections: u64,
    /// Packets refused or dropped, as far as the Service is known.
    pub drops: u64,
}

/// The rows of one worker.
///
/// Takes 4 MiB of memory that is not touched before it is used.
#[derive(Clone, Debug)]
pub struct Accounts(Arc<Box<[Cells]>>);

/// A row: as long as a cache line, but not aligned to one, since the allocator would write all of aligned memory.
#[derive(FromZeros, KnownLayout, Debug)]
struct Cells([AtomicU64; 8]);

impl Default for Accounts {
    /// # Panics
    /// Without memory, as every allocation does.
    fn default() -> Self {
        let rows = <[Cells]>::new_box_zeroed_with_elems(ROWS as usize);
        Self(Arc::new(rows.unwrap_or_else(|_| handle_alloc_error(Layout::new::<[Cells; ROWS as usize]>()))))
    }
}

impl Accounts {
    /// Counts a packet of a flow.
    #[inline]
    pub fn count(&self, row: u32, direction: Direction, bytes: usize) {
        let Some(Cells(row)) = self.0.get(row as usize) else { return };
        let [request_packets, request_bytes, reply_packets, reply_bytes, ..] = row;
        let (packets, octets) = match direction {
            Direction::Request => (request_packets, request_bytes),
            Direction::Reply => (reply_packets, reply_bytes),
        };
        add(packets, 1);
        add(octets, bytes as u64);
    }

    /// Counts a flow that was opened.
    pub fn count_connection(&self, row: u32) {
        self.add(row, 4, 1);
    }

    /// Counts a packet that was refused or dropped.
    pub fn count_drop(&self, row: u32) {
        self.add(row, 5, 1);
    }

    /// Reads a row; its values may be a packet apart.
    #[must_use]
    pub fn row(&self, row: u32) -> Row {
        let read = |place| self.cell(row, place).map_or(0, |cell| cell.load(Relaxed));
        Row {
            request_packets: read(0),
            request_bytes: read(1),
            reply_packets: read(2),
            reply_bytes: read(3),
            connections: read(4),
            drops: read(5),
        }
    }

    fn add(&self, row: u32, place: usize, number: u64) {
        if let Some(cell) = self.cell(row, place) {
            add(cell, number);
        }
    }

    #[inline]
    fn cell(&self, row: u32, place: usize) -> Option<&AtomicU64> {
        self.0.get(row as usize)?.0.get(place)
    }
}

/// Adds without a locked instruction: only the one worker that the rows belong to writes them.
#[inline]
fn add(cell: &AtomicU64, number: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(number), Relaxed);
}

impl std::ops::AddAssign for Row {
    fn add_assign(&mut self, other: Self) {
        self.request_packets += other.request_packets;
        self.request_bytes += other.request_bytes;
        self.reply_packets += other.reply_packets;
        self.reply_bytes += other.reply_bytes;
        self.connections += other.connections;
        self.drops += other.drops;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k34_rows_are_counted_apart_and_a_row_that_is_none_is_not() {
        let accounts = Accounts::default();
        accounts.count(3, Direction::Request, 100);
        accounts.count(3, Direction::Reply, 1000);
        accounts.count(3, Direction::Reply, 1);
        accounts.count_connection(3);
        accounts.count_drop(4);
        accounts.count(ROWS, Direction::Request, 7);
        let row = Row {
            request_packets: 1,
            request_bytes: 100,
            reply_packets: 2,
            reply_bytes: 1001,
            connections: 1,
            drops: 0,
        };
        assert_eq!(accounts.row(3), row);
        assert_eq!(accounts.row(4), Row { drops: 1, ..Row::default() });
        assert_eq!((accounts.row(0), accounts.row(ROWS)), (Row::default(), Row::default()));
    }
}
