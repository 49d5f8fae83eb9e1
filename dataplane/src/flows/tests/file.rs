//! The table in a file, from one start to the next.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::AtomicUsize;

use super::super::file::BootId;
use super::super::{Cursors, FlowTable, FlowTables, OpenError, Recovery, Refusal};
use super::*;

const CAPACITY: u32 = 16;
/// Where the first record begins: a page of header, then eight buckets of a cache line.
const RECORDS_AT: u64 = 4096 + 8 * 64;

/// Returns the bytes of a record.
fn record_bytes<A: Address>() -> usize {
    super::super::record::words::<A>() * 8
}

/// Returns a directory in memory, where the state directory is in use, too.
fn directory() -> PathBuf {
    let tmpfs = PathBuf::from("/dev/shm");
    if tmpfs.is_dir() { tmpfs } else { std::env::temp_dir() }
}

/// A file name that is free, and removed afterwards.
pub(super) struct Place(pub(super) PathBuf);

impl Place {
    pub(super) fn new(name: &str) -> Self {
        static PLACES: AtomicUsize = AtomicUsize::new(0);
        let place = PLACES.fetch_add(1, Relaxed);
        let path = directory().join(format!("tidegate-flows-{}-{place}-{name}", process::id()));
        let _ = fs::remove_file(&path);
        Self(path)
    }

    /// Makes a table with flows 1 to 3 here and closes it; the flows are in records 0 to 2.
    fn with_three_flows<A: Address>(self) -> Self {
        let (table, recovery) = open::<A>(&self.0).unwrap();
        assert_eq!(recovery, Recovery::default());
        for number in 1..=3 {
            table.insert(&own_flow(number), NOW).unwrap();
        }
        self
    }

    fn overwrite(&self, at: u64, octets: &[u8]) {
        OpenOptions::new().write(true).open(&self.0).unwrap().write_all_at(octets, at).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn open<A: Address>(path: &Path) -> Result<(FlowTable<A>, Recovery), OpenError> {
    FlowTable::open(path, CAPACITY)
}

fn assert_refused<A: Address>(place: &Place, reason: Refusal) {
    let (table, recovery) = open::<A>(&place.0).unwrap();
    assert_eq!(recovery, Recovery { kept: 0, dropped: 0, refused: Some(reason) });
    assert!(assert_sound(&table.table).is_empty());
    table.insert(&own_flow(1), NOW).unwrap();
    drop(table);
    let (_, recovery) = open::<A>(&place.0).unwrap();
    assert_eq!(recovery, Recovery { kept: 1, dropped: 0, refused: None }, "the new file is a good one");
}

for_both_families! {
    the_next_start_keeps_every_live_flow_with_its_state,
    a_next_hop_that_an_ended_process_remembered_is_forgotten_at_the_next_start,
    a_record_that_is_not_live_or_not_valid_is_dropped_and_the_others_stay,
    of_two_records_with_a_common_key_a_start_keeps_one_and_nothing_of_the_other,
    noise_in_index_and_records_ends_in_a_sound_table,
    a_file_that_is_no_flow_table_is_emptied_and_the_reason_given,
    another_layout_version_is_emptied_and_the_reason_given,
    a_table_of_another_boot_is_emptied_and_the_reason_given,
    a_table_of_another_capacity_is_emptied_and_the_reason_given,
    a_file_cut_short_is_emptied_and_the_reason_given,
}

fn the_next_start_keeps_every_live_flow_with_its_state<A: Address>() {
    let place = Place::new("kept").with_three_flows::<A>();
    let (table, recovery) = open::<A>(&place.0).unwrap();
    assert_eq!(recovery, Recovery { kept: 3, dropped: 0, refused: None });
    let flows = assert_sound(&table.table);
    assert!(table.change_state(flows[1], State::SynSent, State::Established, NOW));
    assert!(table.remove(flows[0]));
    drop(table);
    let (table, recovery) = open::<A>(&place.0).unwrap();
    assert_eq!(recovery, Recovery { kept: 2, dropped: 0, refused: None });
    let found = table.lookup(table.hash(&key(5)), &key(5)).unwrap();
    assert_eq!((found.state, found.leaves_as), (State::Established, key(4).reversed()));
    assert_eq!(table.ids(found.flow), Some((own_flow::<A>(2).service, own_flow::<A>(2).endpoint)));
    table.insert(&own_flow(1), NOW).unwrap();
    assert_eq!(assert_sound(&table.table).len(), 3);
}

fn a_next_hop_that_an_ended_process_remembered_is_forgotten_at_the_next_start<A: Address>() {
    let place = Place::new("next-hops").with_three_flows::<A>();
    let (table, _) = open::<A>(&place.0).unwrap();
    for direction in [Direction::Request, Direction::Reply] {
        assert!(table.cache_next_hop(assert_sound(&table.table)[0], direction, 7));
    }
    let request = own_flow(1).request;
    assert_eq!(table.lookup(table.hash(&request), &request).unwrap().next_hop, 7);
    drop(table);
    let (table, _) = open::<A>(&place.0).unwrap();
    for key in [own_flow(1).request, own_flow(1).reply] {
        assert_eq!(table.lookup(table.hash(&key), &key).unwrap().next_hop, 0);
    }
}

fn a_record_that_is_not_live_or_not_valid_is_dropped_and_the_others_stay<A: Address>() {
    // Offsets of status, state and protocol within a record, little-endian.
    let bad = [(1, 1), (1, 2), (1, 4), (1, 200), (3, 0), (3, 99), (3 * 8 + 4, 1)];
    for (offset, octet) in bad {
        let place = Place::new(&format!("bad-{offset}-{octet}")).with_three_flows::<A>();
        place.overwrite(RECORDS_AT + record_bytes::<A>() as u64 + offset, &[octet]);
        let (table, recovery) = open::<A>(&place.0).unwrap();
        assert_eq!(recovery, Recovery { kept: 2, dropped: 1, refused: None }, "{octet} at {offset}");
        assert_eq!(assert_sound(&table.table).len(), 2);
    }
}

fn of_two_records_with_a_common_key_a_start_keeps_one_and_nothing_of_the_other<A: Address>() {
    // Where the copy differs: nowhere, in the reply's source, in the request's source.
    let reply_at = if A::UNSPECIFIED.into().is_ipv4() { 7 } else { 10 };
    for differs_at in [None, Some(reply_at * 8 + 7), Some(6 * 8 + 7)] {
        let place = Place::new("twice").with_three_flows::<A>();
        let mut record = vec![0; record_bytes::<A>()];
        let file = OpenOptions::new().read(true).open(&place.0).unwrap();
        file.read_exact_at(&mut record, RECORDS_AT).unwrap();
        if let Some(offset) = differs_at {
            record[offset] ^= 1;
        }
        place.overwrite(RECORDS_AT + record.len() as u64, &record);
        let (table, recovery) = open::<A>(&place.0).unwrap();
        assert_eq!((recovery.kept, recovery.dropped), (2, 1));
        assert_eq!(assert_sound(&table.table).len(), 2);
    }
}

fn noise_in_index_and_records_ends_in_a_sound_table<A: Address>() {
    let mut random = 7_u64;
    for round in 0..20 {
        let place = Place::new(&format!("noise-{round}")).with_three_flows::<A>();
        let length = fs::metadata(&place.0).unwrap().len();
        let noise: Vec<u8> = (4096..length)
            .map(|_| {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 60) as u8
            })
            .collect();
        place.overwrite(4096, &noise);
        let (table, recovery) = open::<A>(&place.0).unwrap();
        assert_eq!(recovery.refused, None);
        assert_eq!(assert_sound(&table.table).len() as u32, recovery.kept);
    }
}

fn a_file_that_is_no_flow_table_is_emptied_and_the_reason_given<A: Address>() {
    let place = Place::new("foreign").with_three_flows::<A>();
    place.overwrite(0, b"\x7fELF");
    assert_refused::<A>(&place, Refusal::Foreign);
}

fn another_layout_version_is_emptied_and_the_reason_given<A: Address>() {
    let place = Place::new("version").with_three_flows::<A>();
    place.overwrite(8, &99_u64.to_ne_bytes());
    assert_refused::<A>(&place, Refusal::LayoutVersion { found: 99 });
}

fn a_table_of_another_boot_is_emptied_and_the_reason_given<A: Address>() {
    let place = Place::new("boot");
    let (table, _) = FlowTable::<A>::open_in(&place.0, CAPACITY, BootId(1)).unwrap();
    table.insert(&own_flow(1), NOW).unwrap();
    drop(table);
    assert_refused::<A>(&place, Refusal::OtherBoot);
}

fn a_table_of_another_capacity_is_emptied_and_the_reason_given<A: Address>() {
    let place = Place::new("capacity");
    drop(FlowTable::<A>::open(&place.0, CAPACITY + 1).unwrap());
    assert_refused::<A>(&place, Refusal::Capacity { found: u64::from(CAPACITY) + 1 });
}

fn a_file_cut_short_is_emptied_and_the_reason_given<A: Address>() {
    for (length, reason) in [(5_000, Refusal::Length { found: 5_000 }), (10, Refusal::Foreign)] {
        let place = Place::new(&format!("short-{length}")).with_three_flows::<A>();
        OpenOptions::new().write(true).open(&place.0).unwrap().set_len(length).unwrap();
        assert_refused::<A>(&place, reason);
    }
}

#[test]
fn a_table_of_the_other_family_is_emptied_and_the_reason_given() {
    let place = Place::new("family").with_three_flows::<Ipv4Addr>();
    assert_refused::<Ipv6Addr>(&place, Refusal::Family { found: 4 });
    assert_refused::<Ipv4Addr>(&place, Refusal::Family { found: 6 });
}

#[test]
fn both_families_are_kept_in_files_of_their_own() {
    let place = Place::new("both");
    fs::create_dir(&place.0).unwrap();
    let (tables, recovery) = FlowTables::open(&place.0, CAPACITY).unwrap();
    assert_eq!(recovery, [Recovery::default(); 2]);
    tables.ipv4.insert(&own_flow(1), NOW).unwrap();
    tables.ipv6.insert(&own_flow(1), NOW).unwrap();
    tables.ipv6.insert(&own_flow(2), NOW).unwrap();
    assert_eq!((tables.ipv4.len(), tables.ipv6.len(), tables.len()), (1, 2, 3));
    drop(tables);
    let (tables, recovery) = FlowTables::open(&place.0, CAPACITY).unwrap();
    fs::remove_dir_all(&place.0).unwrap();
    assert_eq!(
        recovery.map(|found| (found.kept, found.dropped, found.refused)),
        [(1, 0, None), (2, 0, None)]
    );
    let mut named = Vec::new();
    tables.endpoints_in_use(|_, endpoint| named.push(endpoint.0));
    named.sort_unstable();
    assert_eq!(named, [3, 3, 5]);
    let late = Now::from_seconds(9_000);
    assert_eq!(tables.expire(&mut Cursors::part(0, 1), late, CAPACITY as usize), 3);
    assert!(tables.is_empty());
}

#[test]
fn a_second_process_is_told_that_the_file_is_in_use() {
    let place = Place::new("locked");
    let (first, _) = open::<Ipv4Addr>(&place.0).unwrap();
    let error = open::<Ipv4Addr>(&place.0).unwrap_err();
    assert!(matches!(&error, OpenError::InUse(path) if *path == place.0));
    assert!(error.to_string().contains(place.0.to_str().unwrap()));
    drop(first);
    open::<Ipv4Addr>(&place.0).unwrap();
}

#[test]
fn a_file_that_others_may_read_is_an_error_and_stays_as_it_is() {
    let place = Place::new("mode").with_three_flows::<Ipv4Addr>();
    fs::set_permissions(&place.0, fs::Permissions::from_mode(0o640)).unwrap();
    let error = open::<Ipv4Addr>(&place.0).unwrap_err();
    assert!(error.to_string().contains("100640"), "{error}");
    fs::set_permissions(&place.0, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(open::<Ipv4Addr>(&place.0).unwrap().1.kept, 3);
}

#[test]
fn a_file_of_another_user_is_an_error() {
    let place = Place::new("owner").with_three_flows::<Ipv4Addr>();
    if std::os::unix::fs::chown(&place.0, Some(65_534), None).is_err() {
        eprintln!("skipped: only root gives files away");
        return;
    }
    let error = open::<Ipv4Addr>(&place.0).unwrap_err();
    assert!(matches!(error, OpenError::Owner { user: 65_534, .. }), "{error}");
}

#[test]
fn a_link_is_not_followed() {
    let place = Place::new("link");
    std::os::unix::fs::symlink("/dev/null", &place.0).unwrap();
    let error = open::<Ipv4Addr>(&place.0).unwrap_err();
    assert!(matches!(error, OpenError::System { action: "open", .. }), "{error}");
}

#[test]
fn a_missing_directory_is_an_error_that_names_the_file() {
    let error = open::<Ipv4Addr>(Path::new("/nonexistent/flows")).unwrap_err();
    assert!(error.to_string().starts_with("flow table /nonexistent/flows: cannot open: "), "{error}");
}

#[test]
fn the_boot_id_is_the_same_at_each_reading() {
    assert_eq!(BootId::read().unwrap(), BootId::read().unwrap());
}
