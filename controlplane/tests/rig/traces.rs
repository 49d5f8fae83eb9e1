//! What a program leaves behind in the gateway's namespace.

use super::Rig;

/// What a gateway could have changed in its namespace: devices with their programs and offloads, addresses,
/// routes, rules, managed neighbours, reserved ports.
pub(crate) fn kernel_state(rig: &Rig) -> String {
    let script = "
        ip -o -d link show | sed 's/ state [A-Z]* / /'
        ip -o -4 addr show
        ip -4 route show table all
        ip -4 rule show
        ip neigh show | grep -w managed
        for device in /sys/class/net/*; do ethtool -k ${device##*/} | sed \"s,^,${device##*/} ,\"; done
        sysctl net.ipv4.ip_forward net.ipv4.ip_local_reserved_ports net.ipv4.conf.all.rp_filter
        true";
    rig.output("gw", &["bash", "-c", script])
}

/// The lines of `now` that were not in `before`, and the other way round.
pub(crate) fn differences(before: &str, now: &str) -> Vec<String> {
    let lacks = |text: &str, line: &str| !text.lines().any(|other| other == line);
    let gone = before.lines().filter(|line| lacks(now, line)).map(|line| format!("- {line}"));
    let new = now.lines().filter(|line| lacks(before, line)).map(|line| format!("+ {line}"));
    gone.chain(new).collect()
}
