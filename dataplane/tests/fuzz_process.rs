//! Changed conversations through the whole packet path: nothing panics, and what holds for every packet holds.
#![allow(missing_docs)]

mod fuzz_rig;
mod path_rig;

use fuzz_rig::gateway::Twins;
use fuzz_rig::{Target, seeds};

fn target() -> Target<Twins> {
    Target { name: "process", subject: Twins::new, seeds: seeds::conversations(), inputs: 10_000 }
}

#[test]
fn every_input_of_the_corpus_goes_well_on_the_packet_path() {
    target().replay();
}

#[test]
fn changed_inputs_go_well_on_the_packet_path() {
    target().discover();
}
