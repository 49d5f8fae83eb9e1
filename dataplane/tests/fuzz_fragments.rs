//! Changed fragments through the packet path and its table of datagrams: what waits leaves or ends in time.
#![allow(missing_docs)]

mod fuzz_rig;
mod path_rig;

use fuzz_rig::gateway::Twins;
use fuzz_rig::{Target, seeds};

fn target() -> Target<Twins> {
    Target { name: "fragments", subject: Twins::new, seeds: seeds::fragmented(), inputs: 10_000 }
}

#[test]
fn every_input_of_the_corpus_goes_well_on_the_path_of_fragments() {
    target().replay();
}

#[test]
fn changed_inputs_go_well_on_the_path_of_fragments() {
    target().discover();
}
