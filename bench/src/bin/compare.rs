//! Measures contenders side by side and writes down what was found.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use tidegate_bench::compare::contender::Contender;
use tidegate_bench::compare::measure::{Session, Thoroughness};
use tidegate_bench::compare::record::{Comparison, Machine};
use tidegate_bench::compare::search::Durations;
use tidegate_bench::compare::setup::Workshop;
use tidegate_bench::processor::load;

const QUICK: &[&str] = &["wire", "bare", "tidegate:5000", "kernel", "nftables:5000", "iptables:5000"];
const ALL: &[&str] = &[
    "wire",
    "bare",
    "testpmd",
    "xdp",
    "tidegate:1",
    "tidegate:100",
    "tidegate:5000",
    "kernel",
    "nftables:1",
    "nftables:100",
    "nftables:5000",
    "iptables:1",
    "iptables:100",
    "iptables:5000",
];

/// Measures contenders side by side, each between a client and pods of its own, in turn
///
/// Contenders: wire, bare, testpmd, xdp (an experiment), tidegate:N, kernel, nftables:N, iptables:N, where N is a number of Services.
#[derive(Parser)]
#[command(name = "compare")]
struct Options {
    /// Fewer contenders, shorter runs, no repeats: under three minutes
    #[arg(long)]
    quick: bool,
    /// Only these, separated by commas
    #[arg(long, value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// Repeats of everything [default: 3, with --quick 1]
    #[arg(long)]
    repeats: Option<usize>,
    /// Octets of each frame, without its checksum
    #[arg(long, default_value_t = 60)]
    bytes: usize,
    /// Flows of established traffic
    #[arg(long, default_value_t = 10_000)]
    flows: u32,
    /// Capacity of the flow table
    #[arg(long, default_value_t = 1 << 22)]
    table: u32,
    /// Core of the generator
    #[arg(long, default_value_t = 0)]
    generator_core: usize,
    /// Core of the worker
    #[arg(long, default_value_t = 1)]
    worker_core: usize,
    /// Directory of the programs, as `target/release`
    #[arg(long)]
    programs: PathBuf,
    /// Directory of logs, manifests and flow tables; in memory
    #[arg(long)]
    scratch: PathBuf,
    /// Where the findings are written, as JSON
    #[arg(long)]
    out: PathBuf,
}

impl Options {
    fn contenders(&self) -> Result<Vec<Contender>> {
        if !self.contenders.is_empty() {
            return Ok(self.contenders.clone());
        }
        let names = if self.quick { QUICK } else { ALL };
        names.iter().map(|name| name.parse().map_err(anyhow::Error::msg)).collect()
    }

    fn thoroughness(&self) -> Thoroughness {
        let (flows, bytes) = (self.flows, self.bytes);
        if self.quick {
            let durations = Durations { probe: 0.3, hold: 1.0 };
            Thoroughness { repeats: self.repeats.unwrap_or(1), durations, run: 1.0, bulk: 1, flows, bytes }
        } else {
            let durations = Durations { probe: 0.5, hold: 5.0 };
            Thoroughness { repeats: self.repeats.unwrap_or(3), durations, run: 3.0, bulk: 2, flows, bytes }
        }
    }

    fn machine(&self) -> Result<Machine> {
        let information = fs::read_to_string("/proc/cpuinfo")?;
        let named = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Machine {
            processor: named.map_or("?", |(_, name)| name).to_owned(),
            // Not those that this thread may use: it is pinned by now.
            processors: information.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            generator_core: self.generator_core,
            worker_core: self.worker_core,
            versions: [["nft", "--version"], ["iptables", "--version"], ["dpdk-testpmd", "--version"]]
                .iter()
                .filter_map(|[program, argument]| first_line(program, argument))
                .collect(),
            flows: self.table,
        })
    }
}

/// The first line that a program prints of itself, if it is there.
fn first_line(program: &str, argument: &str) -> Option<String> {
    if program == "dpdk-testpmd" {
        let output =
            Command::new("dpkg-query").args(["-W", "-f", "dpdk ${Version}", "dpdk"]).output().ok()?;
        return output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let output = Command::new(program).arg(argument).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
}

fn run(options: &Options) -> Result<()> {
    let load_before = load()?;
    if load_before > 0.5 {
        eprintln!("the machine is not quiet (load {load_before}): figures will be lower and further apart");
    }
    let workshop = Workshop {
        label: "",
        programs: options.programs.canonicalize().context("--programs")?,
        scratch: options.scratch.clone(),
        generator_core: options.generator_core,
        worker_core: options.worker_core,
        flows: options.table,
    };
    let session = Session::build(&options.contenders()?, &workshop, options.thoroughness())?;
    let (contenders, cost_rate) = session.measure(options.generator_core)?;
    let today = Command::new("date").arg("+%F").output()?;
    let comparison = Comparison {
        date: String::from_utf8_lossy(&today.stdout).trim().to_owned(),
        quick: options.quick,
        machine: options.machine()?,
        load: [load_before, load()?],
        cost_rate,
        contenders,
    };
    fs::write(&options.out, serde_json::to_string_pretty(&comparison)?).context("--out")?;
    Ok(())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}
