//! Keys that somebody has chosen, under a secret that he does not know.

use super::super::FlowTable;
use super::super::file::random_secret;
use super::super::index::buckets;
use super::super::key::KeyHasher;
use super::*;

for_both_families! {
    keys_that_fill_one_bucket_under_one_secret_are_spread_under_another,
    no_pattern_of_keys_fills_a_table_before_its_capacity,
}

#[test]
fn crafted_keys_are_spread_under_a_secret() {
    keys_that_differ_in_few_bits_are_spread_evenly::<Ipv4Addr>();
    keys_that_differ_in_few_bits_are_spread_evenly::<Ipv6Addr>();
}

const KEYS: u32 = 1 << 13;
const BUCKETS: u32 = 1 << 12;

/// Returns an address whose last 32 bits, and whose first ones where there are more, are given.
fn crafted<A: Address>(high: u32, low: u32) -> A {
    let ipv6 = Ipv6Addr::from_bits(u128::from(high) << 96 | u128::from(low));
    A::of(Ipv4Addr::from_bits(low).into()).or_else(|| A::of(ipv6.into())).unwrap()
}

/// The `n`th key of a pattern.
type Pattern<A> = fn(u32) -> Key<A>;

/// Returns the patterns that a client, or many, can make of what they may choose.
fn patterns<A: Address>() -> Vec<(&'static str, Pattern<A>)> {
    fn known<A: Address>() -> Key<A> {
        key(0)
    }
    fn ports<A: Address>(source: u32, destination: u32) -> Key<A> {
        known()
            .with_source_port(Port::new(source as u16))
            .with_destination_port(Port::new(destination as u16))
    }
    vec![
        ("source ports in a row", |n| ports(n, 80)),
        ("every eighth source port", |n| ports(n << 3, 80)),
        ("both ports alike", |n| ports(n, n)),
        ("ports that add up to one sum", |n| ports(n, u32::from(u16::MAX) - n)),
        ("sources in a row", |n| known().with_source(crafted(0, n))),
        ("sources that differ in their first bits", |n| known().with_source(crafted(n << 19, n << 19))),
        ("source and destination alike", |n| {
            known().with_source(crafted(n, n)).with_destination(crafted(n, n))
        }),
        ("source and destination complements", |n| {
            known().with_source(crafted(n, n)).with_destination(crafted(!n, !n))
        }),
        ("ports that follow the source", |n| ports(n, 80).with_source(crafted(0, n))),
    ]
}

/// Returns how far the numbers of keys by bucket are from even: one for keys drawn at random, more for clusters.
///
/// It is chi squared by degree of freedom; at this number of buckets its deviation is 0.022.
fn unevenness(chosen: impl Iterator<Item = u32>) -> f64 {
    let mut counts = vec![0_u32; BUCKETS as usize];
    let mut keys = 0;
    for bucket in chosen {
        counts[bucket as usize] += 1;
        keys += 1;
    }
    let mean = f64::from(keys) / f64::from(BUCKETS);
    counts.iter().map(|&count| (f64::from(count) - mean).powi(2) / mean).sum::<f64>() / f64::from(BUCKETS)
}

fn keys_that_fill_one_bucket_under_one_secret_are_spread_under_another<A: Address>() {
    let hasher = |secret| KeyHasher::new(secret);
    let known = hasher(SECRET);
    let chosen: Vec<Key<A>> = (0..KEYS * 64)
        .map(|number| key(0).with_source(crafted(0, number)))
        .filter(|key| buckets(known.hash(key), BUCKETS)[0] < BUCKETS / 64)
        .take(KEYS as usize)
        .collect();
    assert!(chosen.len() > KEYS as usize * 9 / 10);
    let place = |hasher: &KeyHasher, choice: usize| {
        let hashes = chosen.iter().map(|key| buckets(hasher.hash(key), BUCKETS)[choice]);
        unevenness(hashes)
    };
    assert!(place(&known, 0) > 50.0, "they are aimed");
    for _ in 0..8 {
        let secret = random_secret().unwrap();
        for choice in [0, 1] {
            let unevenness = place(&hasher(secret), choice);
            assert!(unevenness < 1.2, "{unevenness} under {secret:x?}");
        }
    }
}

fn keys_that_differ_in_few_bits_are_spread_evenly<A: Address>() {
    for (name, pattern) in patterns::<A>() {
        for _ in 0..8 {
            let secret = random_secret().unwrap();
            let hasher = KeyHasher::new(secret);
            for choice in [0, 1] {
                let chosen = (0..KEYS).map(|n| buckets(hasher.hash(&pattern(n)), BUCKETS)[choice]);
                let unevenness = unevenness(chosen);
                assert!(unevenness < 1.2, "{name}: {unevenness} under {secret:x?}");
            }
        }
    }
}

fn no_pattern_of_keys_fills_a_table_before_its_capacity<A: Address>() {
    for (name, pattern) in patterns::<A>() {
        let table = FlowTable::<A>::in_memory(KEYS).unwrap();
        for number in 0..KEYS {
            let request = pattern(number);
            let reply = request.reversed().with_source(address(0xbe)).with_destination_port(Port::new(8080));
            let reply = reply.with_destination(crafted(number, !number));
            let inserted = table.insert(&NewFlow { request, reply, ..own_flow(0) }, NOW);
            assert!(inserted.is_ok(), "{name}: {inserted:?} after {number}");
        }
    }
}
