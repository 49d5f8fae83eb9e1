//! Measures the programs of two commits in turn and says which one is faster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use tidegate_bench::compare::contender::{Carrier, Contender};
use tidegate_bench::compare::difference::Difference;
use tidegate_bench::compare::record::Spread;
use tidegate_bench::compare::report::table::in_thousands;
use tidegate_bench::compare::setup::{Setup, Workshop};
use tidegate_bench::processor::load;
use tidegate_bench::traffic::plan::{Kind, Pace, Plan};
use tidegate_bench::traffic::popularity::Popularity;

/// More than a worker carries, so that it always has work: packets per second.
const TOO_MUCH: f64 = 1.5e6;
/// What every worker carries, for the cost of a packet.
const LITTLE: f64 = 50e3;

/// Measures the programs of two commits in turn and says whether B is faster than A
#[derive(Parser)]
#[command(name = "ab")]
struct Options {
    /// Directory with `tidegate` and `process` (the bench of the packet path) of A
    #[arg(long)]
    a: PathBuf,
    /// The same of B
    #[arg(long)]
    b: PathBuf,
    /// How often each is measured
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Which benches of the packet path, by a regular expression
    #[arg(long, default_value = "path/.*/1M$")]
    benches: String,
    /// Only the packet path, not from link to link
    #[arg(long)]
    path_only: bool,
    /// Services, from link to link
    #[arg(long, default_value_t = 5000)]
    services: u32,
    /// Directory of logs, manifests and flow tables; in memory
    #[arg(long)]
    scratch: PathBuf,
}

/// Speeds by what was measured, each with those of A and of B.
type Speeds = BTreeMap<String, [Vec<f64>; 2]>;

/// Which of the two is measured first alternates, so that neither always runs on a machine the other has warmed.
fn order(round: usize) -> [usize; 2] {
    if round.is_multiple_of(2) { [0, 1] } else { [1, 0] }
}

/// Runs the benches of the packet path; adds elements per nanosecond.
fn measure_path(programs: [&Path; 2], options: &Options, speeds: &mut Speeds) -> Result<()> {
    for round in 0..options.rounds {
        eprintln!("packet path, round {} of {}", round + 1, options.rounds);
        for side in order(round) {
            let program = programs[side].join("process");
            let output = Command::new(&program)
                .args(["--bench", "--noplot", "--quick", &options.benches])
                .current_dir(&options.scratch)
                .output()
                .with_context(|| program.display().to_string())?;
            for (name, ns) in times_in(&String::from_utf8_lossy(&output.stdout)) {
                speeds.entry(name).or_default()[side].push(1.0 / ns);
            }
        }
    }
    Ok(())
}

/// Reads lines as `name  time:   [1.0 ns 1.1 ns 1.2 ns]`, or with the name on the line before: the middle time.
fn times_in(text: &str) -> Vec<(String, f64)> {
    let mut all = Vec::new();
    let mut name = "";
    for line in text.lines() {
        let Some((before, times)) = line.split_once("time:") else {
            name = line.trim();
            continue;
        };
        let name = if before.trim().is_empty() { name } else { before.trim() };
        let words: Vec<&str> = times.trim().trim_matches(['[', ']']).split_whitespace().collect();
        let unit = match words.get(3) {
            Some(&"ps") => 1e-3,
            Some(&"ns") => 1.0,
            Some(&"µs") => 1e3,
            Some(&"ms") => 1e6,
            _ => continue,
        };
        if let Some(Ok(time)) = words.get(2).map(|word| word.parse::<f64>()) {
            all.push((name.to_owned(), time * unit));
        }
    }
    all
}

/// Carries traffic from link to link; adds packets per second and packets per CPU-second.
fn measure_links(programs: [&Path; 2], options: &Options, speeds: &mut Speeds) -> Result<()> {
    let contender = Contender { carrier: Carrier::Tidegate, services: options.services };
    let build = |side: usize| {
        let label = ["a", "b"][side];
        let workshop = Workshop {
            label,
            programs: programs[side].to_owned(),
            scratch: options.scratch.join(label),
            generator_core: 0,
            worker_core: 1,
            flows: 1 << 22,
        };
        Setup::build(contender, &workshop)
    };
    let mut setups = [build(0)?, build(1)?];
    anyhow::ensure!(core_affinity::set_for_current(core_affinity::CoreId { id: 0 }), "no core 0");
    for round in 0..options.rounds {
        eprintln!("link to link, round {} of {}", round + 1, options.rounds);
        for side in order(round) {
            let setup = &mut setups[side];
            setup.wake()?;
            for (name, kind, rate, pace) in [
                ("established flows, packets/s", Kind::EstablishedUdp, TOO_MUCH, Pace::Spin),
                ("one-packet flows/s", Kind::NewUdp, TOO_MUCH, Pace::Spin),
                ("established flows, packets/CPU-s", Kind::EstablishedUdp, LITTLE, Pace::Sleep),
            ] {
                let popularity = Popularity::Uniform;
                let plan = Plan {
                    kind,
                    rate,
                    bytes: 60,
                    flows: 10_000,
                    popularity,
                    seconds: 1.0,
                    pace,
                    echo: false,
                };
                let results = setup.generator()?.run(&plan, |_| {})?;
                let divisor = if pace == Pace::Sleep { results.cpu_seconds } else { results.seconds };
                speeds.entry(name.to_owned()).or_default()[side].push(results.completed as f64 / divisor);
            }
            setup.rest()?;
        }
    }
    Ok(())
}

fn run(options: &Options) -> Result<()> {
    let programs = [options.a.as_path(), options.b.as_path()];
    let load_before = load()?;
    let mut speeds = Speeds::new();
    measure_path(programs, options, &mut speeds)?;
    if !options.path_only {
        measure_links(programs, options, &mut speeds)?;
    }
    println!(
        "B beside A, {} rounds, load average {load_before} before and {} after",
        options.rounds,
        load()?
    );
    for (name, [a, b]) in &speeds {
        match Difference::between(a, b) {
            Some(difference) => {
                // Nanoseconds where the unit is not in the name.
                let shown = |speeds: &[f64]| {
                    let median = Spread::of(speeds).map_or(0.0, |spread| spread.median);
                    if name.ends_with("/s") || name.ends_with("-s") {
                        in_thousands(median)
                    } else {
                        format!("{:.1} ns", 1.0 / median)
                    }
                };
                println!("{name:42} A {:>9}  B {:>9}  {difference}", shown(a), shown(b));
            }
            None => println!("{name:50} not measured in both"),
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_the_name_before_them_or_on_the_line_before() {
        let text = "process/echo            time:   [49.1 ns 49.5 ns 50.0 ns]
                        thrpt:  [1 Melem/s 2 Melem/s 3 Melem/s]
process/established_udp/1000
                        time:   [5.1 µs 5.5 µs 6.0 µs]
change: time:   [nonsense]
";
        let expected =
            [("process/echo".to_owned(), 49.5), ("process/established_udp/1000".to_owned(), 5500.0)];
        assert_eq!(times_in(text), expected);
    }
}
