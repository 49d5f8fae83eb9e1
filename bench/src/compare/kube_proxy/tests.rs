use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use super::{hash, iptables, nftables};
use crate::traffic::targets::{Protocols, Targets};

/// Directory with `kube-proxy-{iptables,nftables}-{1,100,5000}.rules.gz` of a cluster whose Services are all TCP.
const RECORDED: &str = "TIDEGATE_RECORDED_RULES";

/// How often each rule occurs, once what only names or numbers something is taken out.
fn shape(rules: &str) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    let parts = rules.split(['\n', ',', '{', '}']).map(str::trim);
    for part in parts.filter(|part| !part.is_empty() && !part.starts_with('#')) {
        *all.entry(part.split_whitespace().map(nameless).collect::<Vec<_>>().join(" ")).or_default() += 1;
    }
    all
}

/// A word without addresses of pods and Services, numbers of Services and hashes.
fn nameless(word: &str) -> String {
    let mut word = word.to_owned();
    for (from, until) in [("KUBE-SVC-", 16), ("KUBE-SEP-", 16), ("service-", 8)] {
        if let Some(at) = word.find(from).map(|at| at + from.len()) {
            let end = at + until;
            if word.get(at..end).is_some_and(|hash| {
                hash.bytes().all(|octet| octet.is_ascii_uppercase() || octet.is_ascii_digit())
            }) {
                word.replace_range(at..end, "#");
            }
        }
    }
    let digits =
        |text: &str| text.bytes().take_while(|octet| octet.is_ascii_digit() || *octet == b'.').count();
    for from in ["svc-", "10.3.", "10.96."] {
        if let Some(at) = word.find(from).map(|at| at + from.len()).filter(|_| !word.ends_with("/16")) {
            let end = at + digits(&word[at..]);
            word.replace_range(at..end, "#");
        }
    }
    word
}

/// Chains and tables that are there whether or not kube-proxy names them, and the match that only counts.
fn given_by_the_kernel(part: &str) -> bool {
    let built_in = [":PREROUTING", ":INPUT", ":FORWARD", ":OUTPUT", ":POSTROUTING"];
    built_in.iter().any(|chain| part.starts_with(chain))
        || part.starts_with("-A KUBE-FORWARD -m conntrack --ctstate INVALID")
}

fn compare(kind: &str, rules: impl Fn(Targets) -> String) {
    let Some(directory) = std::env::var_os(RECORDED).map(PathBuf::from) else {
        println!("skipped: {RECORDED} names no directory with recorded rule sets");
        return;
    };
    for services in [1, 100, 5000] {
        let file = directory.join(format!("kube-proxy-{kind}-{services}.rules.gz"));
        let output = Command::new("zcat").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", file.display());
        let mut recorded = shape(&String::from_utf8(output.stdout).unwrap());
        let mut ours = shape(&rules(Targets { services, protocols: Protocols::TcpOnly }));
        recorded.retain(|part, _| !given_by_the_kernel(part));
        ours.retain(|part, _| !given_by_the_kernel(part));
        let lacking: Vec<_> =
            recorded.iter().filter(|(part, count)| ours.get(*part) != Some(count)).collect();
        let too_much: Vec<_> =
            ours.iter().filter(|(part, count)| recorded.get(*part) != Some(count)).collect();
        assert!(
            lacking.is_empty() && too_much.is_empty(),
            "{kind} {services}\nrecorded: {lacking:#?}\nours: {too_much:#?}"
        );
    }
}

#[test]
fn iptables_rules_are_of_the_shape_that_was_recorded() {
    compare("iptables", iptables::rules);
}

#[test]
fn nftables_rules_are_of_the_shape_that_was_recorded() {
    compare("nftables", nftables::rules);
}

#[test]
fn every_service_has_chains_of_its_own() {
    let rules = iptables::rules(Targets::alternating(5000));
    let mut chains: Vec<_> = rules.lines().filter(|line| line.starts_with(":KUBE-S")).collect();
    let count = chains.len();
    chains.sort_unstable();
    chains.dedup();
    // 5,000 Services of four endpoints and one of one; KUBE-SERVICES stands in two tables.
    assert_eq!((chains.len(), count), (5000 * 5 + 2 + 1, 5000 * 5 + 2 + 2));
}

#[test]
fn a_hash_has_the_length_that_is_wanted_and_another_text_another_one() {
    assert_eq!([8, 16, 30].map(|length| hash("a", length).len()), [8, 16, 30]);
    assert_ne!(hash("a", 8), hash("b", 8));
    assert_eq!(hash("a", 8), hash("a", 16)[..8]);
}
