//! Changed ICMP errors about packets of flows: what is translated is right inside and outside.
#![allow(missing_docs)]

mod fuzz_rig;
mod path_rig;

use fuzz_rig::gateway::Twins;
use fuzz_rig::{Target, seeds};

fn target() -> Target<Twins> {
    Target { name: "icmp", subject: Twins::new, seeds: seeds::errors(), inputs: 10_000 }
}

#[test]
fn every_input_of_the_corpus_goes_well_on_the_path_of_icmp_errors() {
    target().replay();
}

#[test]
fn changed_inputs_go_well_on_the_path_of_icmp_errors() {
    target().discover();
}
