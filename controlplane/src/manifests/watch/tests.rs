//! What is looked at after which events.

use super::*;

fn noted(events: &[(EventMask, &str)]) -> Pending {
    let mut pending = Pending::default();
    for (mask, name) in events {
        pending.note(*mask, Some(*name).filter(|name| !name.is_empty()), |name| name.starts_with("link"));
    }
    pending
}

fn names(set: &BTreeSet<Arc<str>>) -> Vec<&str> {
    set.iter().map(|name| &**name).collect()
}

#[test]
fn a_file_is_looked_at_when_it_is_whole() {
    let begun = [(EventMask::CREATE, "a.yaml"), (EventMask::MODIFY, "a.yaml")];
    assert!(noted(&begun).is_empty());
    assert_eq!(names(&noted(&begun).writing), ["a.yaml"]);
    for end in [EventMask::CLOSE_WRITE, EventMask::MOVED_TO, EventMask::MOVED_FROM, EventMask::DELETE] {
        let ended = noted(&[begun[0], begun[1], (end, "a.yaml")]);
        assert_eq!((names(&ended.changed), names(&ended.writing)), (vec!["a.yaml"], vec![]), "{end:?}");
    }
}

#[test]
fn a_link_is_whole_when_it_is_made() {
    assert_eq!(names(&noted(&[(EventMask::CREATE, "link.yaml")]).changed), ["link.yaml"]);
}

#[test]
fn files_that_are_no_manifests_are_passed_over() {
    for name in [".a.yaml", "a.txt", "yaml", "..2026_01_01"] {
        let pending = noted(&[(EventMask::CREATE, name), (EventMask::CLOSE_WRITE, name)]);
        assert_eq!(pending, Pending::default(), "{name}");
    }
}

#[test]
fn a_swapped_data_link_and_lost_events_mean_all_files() {
    assert!(noted(&[(EventMask::MOVED_TO, "..data")]).all);
    let lost = noted(&[(EventMask::MODIFY, "a.yaml"), (EventMask::Q_OVERFLOW, "")]);
    assert!(lost.all && lost.writing.is_empty(), "its end may be among the lost ones");
}

#[test]
fn an_event_of_the_directory_itself_means_to_find_it_again() {
    for mask in [EventMask::DELETE_SELF, EventMask::MOVE_SELF, EventMask::IGNORED, EventMask::UNMOUNT] {
        assert!(noted(&[(mask, "")]).directory, "{mask:?}");
    }
}
