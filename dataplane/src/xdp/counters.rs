//! The counters of the XDP program: one per way out.

/// The names of the counters, in the order of `enum reason` in `maps.bpf.h`.
pub const NAMES: [&str; 15] = [
    "passed_not_ip",
    "passed_group_destination",
    "passed_link_local",
    "passed_other_station",
    "passed_link_message",
    "passed_listener",
    "passed_own_address",
    "passed_not_ours",
    "passed_no_socket",
    "passed_no_heartbeat",
    "redirected_to_vip",
    "redirected_from_endpoint",
    "redirected_about_endpoint",
    "redirected_to_masquerade_port",
    "redirected_to_served_socket",
];

/// The names with their counts, summed over the CPUs. Every packet of a served device is in exactly one.
pub type Counters = [(&'static str, u64); NAMES.len()];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_program_in_its_order() {
        let source = include_str!("maps.bpf.h");
        let (_, reasons) = source.split_once("enum reason {").unwrap();
        let (reasons, _) = reasons.split_once("REASONS,").unwrap();
        let reasons: Vec<_> = reasons.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        assert_eq!(reasons.iter().map(|name| name.to_lowercase()).collect::<Vec<_>>(), NAMES);
    }
}
