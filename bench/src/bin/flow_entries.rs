//! Runs the experiment of `flow_entries`: packets of known flows are rewritten and redirected in XDP.

use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, anyhow};
use tidegate_bench::flow_entries::{FlowEntries, WayOut};
use tidegate_bench::traffic::targets::Targets;

const USAGE: &str = "usage: flow_entries FROM TO STATION SERVICES FLOWS   rewrites and redirects the first FLOWS UDP \
                     flows to SERVICES Services, from device FROM to device TO";

fn station(text: &str) -> Result<[u8; 6]> {
    let octets: Option<Vec<u8>> =
        text.trim().split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets.and_then(|octets| octets.try_into().ok()).ok_or_else(|| anyhow!("{text:?} is no MAC address"))
}

fn attribute(device: &str, name: &str) -> Result<String> {
    let file = format!("/sys/class/net/{device}/{name}");
    std::fs::read_to_string(&file).context(file)
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, destination, services, flows] = arguments.as_slice() else { return Err(anyhow!(USAGE)) };
    let way_out = WayOut {
        device: attribute(to, "ifindex")?.trim().parse().context("ifindex")?,
        source: station(&attribute(to, "address")?)?,
        destination: station(destination)?,
    };
    let mut entries = FlowEntries::attach(from)?;
    let flows = flows.parse().context("FLOWS")?;
    entries.install(Targets::alternating(services.parse().context("SERVICES")?), flows, way_out)?;
    eprintln!("ready: {flows} entries in XDP on {from}, redirected to {to}");
    loop {
        thread::park();
    }
}

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("flow_entries: {error:#}");
    }
    ExitCode::FAILURE
}
