//! Which row of the workers' accounts belongs to which Service port, and to which of its endpoints (K34).
//!
//! A row is given once and stays its owner's for the life of the process, so that a counter never goes back and never
//! counts two things. There are [`ROWS`] rows; who comes after the last has none and is counted in row 0.

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_dataplane::accounts::ROWS;
use tidegate_dataplane::net::Protocol;

use crate::cluster::ObjectName;
use crate::tables::EndpointKey;

/// What a row counts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Owner {
    /// The Service.
    pub service: ObjectName,
    /// Name of its port; empty for the unnamed one.
    pub port: Arc<str>,
    /// Protocol of its port.
    pub protocol: Protocol,
    /// The endpoint, if each has a row of its own.
    pub endpoint: Option<EndpointKey>,
}

/// All rows that were given.
#[derive(Debug, Default)]
pub struct AccountBook {
    /// `--metrics-endpoints`.
    by_endpoint: bool,
    rows: HashMap<Owner, u32>,
}

impl AccountBook {
    /// Begins with none given.
    #[must_use]
    pub fn new(by_endpoint: bool) -> Self {
        Self { by_endpoint, rows: HashMap::new() }
    }

    /// Says whether endpoints have rows of their own.
    #[must_use]
    pub const fn is_by_endpoint(&self) -> bool {
        self.by_endpoint
    }

    /// Returns the row of an owner, a new one if it has none; 0 if there is none left.
    pub fn row(&mut self, owner: Owner) -> u32 {
        let next = self.rows.len() as u32 + 1;
        match self.rows.get(&owner) {
            Some(row) => *row,
            None if next < ROWS => *self.rows.entry(owner).or_insert(next),
            None => 0,
        }
    }

    /// Iterates over all rows that were given, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Owner, u32)> {
        self.rows.iter().map(|(owner, row)| (owner, *row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(number: u32) -> Owner {
        Owner {
            service: ObjectName::new("dev", &format!("s{number}")),
            port: "web".into(),
            protocol: Protocol::Tcp,
            endpoint: None,
        }
    }

    #[test]
    fn k34_an_owner_keeps_its_row_and_who_comes_after_the_last_has_none() {
        let mut book = AccountBook::default();
        assert_eq!((book.row(owner(7)), book.row(owner(8)), book.row(owner(7))), (1, 2, 1));
        let last = (9..ROWS + 9).map(|number| book.row(owner(number))).max();
        assert_eq!(last, Some(ROWS - 1));
        assert_eq!((book.row(owner(ROWS + 100)), book.row(owner(8))), (0, 2));
    }
}
