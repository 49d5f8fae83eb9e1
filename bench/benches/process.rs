//! The packet path and its stages. What is measured and how: `bench/README.md`.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate_bench::bursts::{by_median, time};
use tidegate_bench::stages;
use tidegate_dataplane::maglev::Maglev;

/// A stage is made when criterion first asks for it, so that those which are filtered out cost nothing.
fn all_stages(criterion: &mut Criterion) {
    for recipe in stages::all() {
        let (group, case) = recipe.name.split_once('/').unwrap_or(("part", &recipe.name));
        let mut group = criterion.benchmark_group(group);
        let mut stage = None;
        group.bench_function(BenchmarkId::from_parameter(case), |bencher| {
            let stage = stage.get_or_insert_with(|| recipe.make());
            // So that the time is that of one packet, whatever the burst.
            let elements = u32::try_from(stage.elements).unwrap_or(u32::MAX);
            bencher.iter_custom(|bursts| by_median(bursts, || stage.burst()) / elements);
        });
    }
}

fn maglev(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("maglev/build");
    group.throughput(Throughput::Elements(1));
    for members in [10, 100, 1000_u64] {
        let identities: Vec<u64> = (0..members).collect();
        group.bench_function(BenchmarkId::from_parameter(members), |bencher| {
            bencher.iter_custom(|builds| by_median(builds, || time(|| Maglev::new(&identities))));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = all_stages, maglev
}
criterion_main!(benches);
