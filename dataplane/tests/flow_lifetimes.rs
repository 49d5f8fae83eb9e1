//! Golden cases of how long flows live: what keeps them, what ends them, and when they are forgotten.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod path_rig;

use std::sync::Arc;

use path_rig::*;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::flows::Cursors;

const C: ([u8; 4], u16) = (CLIENT, 40_000);
const V: ([u8; 4], u16) = (VIP, 80);
const P: ([u8; 4], u16) = (POD, 8080);

/// Carries segments: those of the client by their flags, those of the backend with a `<` in front.
fn exchange(rig: &mut Rig, segments: &[&str]) {
    for segment in segments {
        match segment.strip_prefix('<') {
            Some(flags) => rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, flags, b"")),
            None => rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, segment, b"")),
        };
    }
}

/// Lets time pass and forgets whom it is time to forget; returns how many flows are left.
fn left_after(rig: &mut Rig, seconds: u32) -> usize {
    rig.now = Now::from_seconds(rig.now.seconds() + seconds);
    let flows = Arc::clone(&rig.flows);
    flows.expire(&mut Cursors::part(0, 1), rig.now, flows.capacity());
    flows.len()
}

/// Asserts that the flow lives for so many seconds of silence and no longer.
#[track_caller]
fn assert_lives(rig: &mut Rig, seconds: u32) {
    assert_eq!(left_after(rig, seconds), 1, "still after {seconds} s");
    assert_eq!(left_after(rig, 1), 0, "longer than {seconds} s");
}

#[test]
fn a_datagram_flow_lives_half_a_minute_and_two_minutes_once_it_is_answered() {
    over_both_families(|| {
        let mut rig = Rig::new();
        rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"question"));
        assert_lives(&mut rig, 30);
        rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"question"));
        rig.one(POD_SIDE, &udp(FROM_POD, (P, C), 64, b"answer"));
        assert_lives(&mut rig, 120);
    });
}

#[test]
fn packets_of_either_direction_keep_a_flow() {
    over_both_families(|| {
        let mut rig = Rig::new();
        rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"question"));
        for _ in 0..5 {
            rig.one(POD_SIDE, &udp(FROM_POD, (P, C), 64, b"answer"));
            assert_eq!(left_after(&mut rig, 120), 1);
        }
        for _ in 0..5 {
            rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"question"));
            assert_eq!(left_after(&mut rig, 120), 1);
        }
        assert_eq!(left_after(&mut rig, 1), 0);
    });
}

#[test]
fn an_established_connection_lives_a_day_and_a_half_closed_one_an_hour() {
    over_both_families(|| {
        let mut rig = Rig::new();
        exchange(&mut rig, &["S", "<SA", "A"]);
        assert_lives(&mut rig, 24 * 60 * 60);
        exchange(&mut rig, &["S", "<SA", "A", "FA", "<A"]);
        assert_lives(&mut rig, 60 * 60);
    });
}

#[test]
fn connections_that_begin_or_end_live_as_long_as_linux_lets_them() {
    over_both_families(|| {
        for (segments, seconds) in [
            (&["S"][..], 120),
            (&["S", "<S"], 120),
            (&["S", "<SA"], 60),
            (&["S", "<SA", "A", "FA"], 120),
            (&["S", "<SA", "A", "FA", "<A", "<FA"], 30),
            (&["S", "<SA", "A", "FA", "<A", "<FA", "A"], 120),
            (&["A"], 300),
        ] {
            let mut rig = Rig::new();
            exchange(&mut rig, segments);
            assert_eq!(left_after(&mut rig, seconds), 1, "{segments:?}");
            assert_eq!(left_after(&mut rig, 1), 0, "{segments:?}");
        }
    });
}

#[test]
fn a_reset_is_passed_on_and_ends_its_flow_unless_the_connection_goes_on() {
    over_both_families(|| {
        for reset in ["R", "<R", "<RA"] {
            let mut rig = Rig::new();
            exchange(&mut rig, &["S", "<SA", "A", reset]);
            assert_lives(&mut rig, 10);
            exchange(&mut rig, &["S", "<SA", "A", reset, "A", "<A"]);
            assert!(left_after(&mut rig, 60 * 60) == 1, "the reset was not taken by its receiver");
        }
    });
}

#[test]
fn two_syns_that_cross_become_one_connection() {
    over_both_families(|| {
        let mut rig = Rig::new();
        exchange(&mut rig, &["S", "<S", "SA", "<SA", "A", "<A"]);
        assert_eq!(left_after(&mut rig, 60 * 60), 1, "it is established");
        rig.assert_counters(&[("rx_packets", 6), ("tx_packets", 6), ("forwarded", 6), ("flows_inserted", 1)]);
    });
}
