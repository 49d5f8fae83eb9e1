//! Runs stages of the packet path and says how long their bursts take, the slowest ones too.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use tidegate_bench::stages;

/// Runs stages of the packet path and says how long their bursts take, the slowest ones too
#[derive(Parser)]
#[command(name = "stages")]
struct Options {
    /// Only those with this in their name
    #[arg(default_value = "")]
    part: String,
    /// The name is the whole, not a part
    #[arg(long)]
    exact: bool,
    /// Only say which there are
    #[arg(long)]
    list: bool,
    /// Bursts of each, after a hundredth of that to warm up
    #[arg(long, default_value_t = 100_000)]
    bursts: u64,
    /// Print only how many elements (mostly packets) were measured; for `bench/instructions`
    #[arg(long)]
    count: bool,
}

fn run(options: &Options) -> Result<()> {
    let mut found = false;
    if !options.count && !options.list {
        println!("{:42} {:>9} {:>9} {:>9} {:>9} {:>9}", "ns", "p50/each", "p50", "p99", "p99.99", "max");
    }
    for recipe in stages::all() {
        let is_meant =
            if options.exact { recipe.name == options.part } else { recipe.name.contains(&options.part) };
        if !is_meant {
            continue;
        }
        found = true;
        if options.list {
            println!("{}", recipe.name);
            continue;
        }
        let mut stage = recipe.make();
        let mut taken = Histogram::<u64>::new(3)?;
        if options.count {
            for _ in 0..options.bursts {
                stage.burst();
            }
            println!("{}", options.bursts * stage.elements);
            continue;
        }
        for _ in 0..options.bursts / 100 {
            stage.burst();
        }
        for _ in 0..options.bursts {
            taken.record(u64::try_from(stage.burst().as_nanos())?)?;
        }
        let [p50, p99, p9999] = [50.0, 99.0, 99.99].map(|percent| taken.value_at_percentile(percent));
        let each = p50 as f64 / stage.elements as f64;
        println!("{:42} {each:>9.1} {p50:>9} {p99:>9} {p9999:>9} {:>9}", recipe.name, taken.max());
    }
    ensure!(found, "no stage has {:?} in its name", options.part);
    Ok(())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stages: {error:#}");
            ExitCode::FAILURE
        }
    }
}
