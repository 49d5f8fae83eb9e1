//! Sends traffic through whatever stands between two devices, and says what became of it.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tidegate_bench::traffic::ends::Place;
use tidegate_bench::traffic::frame::Stations;
use tidegate_bench::traffic::generator::Generator;
use tidegate_bench::traffic::plan::{Kind, Pace, Plan};
use tidegate_bench::traffic::popularity::Popularity;
use tidegate_bench::traffic::targets::Targets;

/// Sends traffic from a device in one namespace to a sink on a device in another
///
/// Clients are in 10.1.0.0/16, Services in 10.96.0.0/16 (even ones UDP, odd ones TCP, port 80); whatever is between
/// must route them. Latencies are counted from when a packet was due. Progress goes to stderr, the results to stdout.
#[derive(Parser)]
#[command(name = "traffic")]
struct Options {
    /// Device that sends
    #[arg(long, value_name = "NAMESPACE:DEVICE")]
    client: Place,
    /// Device where packets end
    #[arg(long, value_name = "NAMESPACE:DEVICE")]
    sink: Place,
    /// Queue of the sending device
    #[arg(long, default_value_t = 0)]
    queue: u32,
    /// Station that the client's frames are for
    #[arg(long, value_name = "MAC", value_parser = station)]
    gateway_mac: [u8; 6],
    /// Station of the client
    #[arg(long, value_name = "MAC", value_parser = station)]
    client_mac: [u8; 6],
    /// Services there are
    #[arg(long, default_value_t = 1)]
    services: u32,
    /// What is sent
    #[arg(long, value_enum, default_value_t = Kind::EstablishedUdp)]
    kind: Kind,
    /// Packets (or connections) per second
    #[arg(long, default_value_t = 100_000.0)]
    rate: f64,
    /// Octets of each frame, without its checksum
    #[arg(long, default_value_t = 60)]
    bytes: usize,
    /// Flows that are kept
    #[arg(long, default_value_t = 10_000)]
    flows: u32,
    /// Which flow a packet is of: uniform, or zipf:EXPONENT
    #[arg(long, default_value_t = Popularity::Uniform)]
    popularity: Popularity,
    /// How long
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// What is done while nothing is due
    #[arg(long, value_enum, default_value_t = Pace::Spin)]
    pace: Pace,
    /// Have every datagram sent back
    #[arg(long)]
    echo: bool,
    /// Core to run on
    #[arg(long)]
    core: Option<usize>,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

fn station(text: &str) -> Result<[u8; 6], String> {
    let octets: Option<Vec<u8>> = text.split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets.and_then(|octets| octets.try_into().ok()).ok_or_else(|| format!("{text:?} is no MAC address"))
}

fn run(options: &Options) -> Result<()> {
    if let Some(core) = options.core {
        anyhow::ensure!(core_affinity::set_for_current(core_affinity::CoreId { id: core }), "no core {core}");
    }
    let stations = Stations { gateway: options.gateway_mac, client: options.client_mac };
    let targets = Targets::alternating(options.services);
    let mut generator = Generator::open(&options.client, options.queue, &options.sink, stations, targets)?;
    let plan = Plan {
        kind: options.kind,
        rate: options.rate,
        bytes: options.bytes,
        flows: options.flows,
        popularity: options.popularity,
        seconds: options.seconds,
        pace: options.pace,
        echo: options.echo,
    };
    let results = generator.run(&plan, |progress| {
        eprintln!("{:6.1} s: {} sent, {} arrived", progress.seconds, progress.sent, progress.arrived);
    })?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&results).context("results")?);
    } else {
        println!("{results}");
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("traffic: {error:#}");
            ExitCode::FAILURE
        }
    }
}
