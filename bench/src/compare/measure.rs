//! The order of a comparison: all contenders are set up, then each measurement goes round among them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::contender::{Carrier, Contender};
use super::record::{Cost, Findings, LatencyAt, Spread};
use super::search::{Durations, Trial, highest_rate};
use super::setup::{Setup, Workshop};
use crate::traffic::plan::{Kind, Pace, Plan};
use crate::traffic::popularity::Popularity;
use crate::traffic::results::Results;

/// Parts of its own highest rate at which a contender's latencies are taken.
const LOADS: [f64; 3] = [0.1, 0.5, 0.9];
/// Part of the slowest contender's highest rate at which costs are taken.
const COMMON_PART: f64 = 0.8;
/// More than anything carries here, in units per second: datagrams, connections.
const TOO_MANY_PACKETS: f64 = 3e6;
const TOO_MANY_CONNECTIONS: f64 = 400e3;

/// How thoroughly it is measured.
#[derive(Clone, Copy, Debug)]
pub struct Thoroughness {
    /// Repeats of everything.
    pub repeats: usize,
    /// How long rates are tried.
    pub durations: Durations,
    /// How long each run for costs or latencies takes, in seconds.
    pub run: f64,
    /// How long each bulk transfer takes, in seconds; 0 for none.
    pub bulk: u32,
    /// Flows that established traffic is of.
    pub flows: u32,
    /// Octets of each frame.
    pub bytes: usize,
}

/// All contenders of a comparison.
pub struct Session {
    thoroughness: Thoroughness,
    setups: Vec<Setup>,
    findings: Vec<Findings>,
    started: Instant,
    /// Rate of the runs for costs.
    pub cost_rate: f64,
}

impl Session {
    /// Sets all contenders up; each rests until its turn.
    pub fn build(contenders: &[Contender], workshop: &Workshop, thoroughness: Thoroughness) -> Result<Self> {
        let started = Instant::now();
        let (mut setups, mut findings) = (Vec::new(), Vec::new());
        for contender in contenders {
            let setup = Setup::build(*contender, workshop)?;
            eprintln!("{contender}: {} (set up in {:.1} s)", setup.mode, setup.took.as_secs_f64());
            findings.push(Findings::new(
                *contender,
                setup.mode.clone(),
                setup.took.as_secs_f64(),
                setup.memory_bytes,
            ));
            setups.push(setup);
        }
        Ok(Self { thoroughness, setups, findings, started, cost_rate: 0.0 })
    }

    /// Measures everything; the calling thread becomes the generator's.
    pub fn measure(mut self, generator_core: usize) -> Result<(Vec<Findings>, f64)> {
        for _ in 0..self.bulk_rounds() {
            self.each("bulk TCP", bulk_transfer)?;
        }
        let core = core_affinity::CoreId { id: generator_core };
        anyhow::ensure!(core_affinity::set_for_current(core), "no core {generator_core}");
        for _ in 0..self.thoroughness.repeats {
            self.each("established flows", |setup, findings, how| {
                search(setup, &mut findings.established, Kind::EstablishedUdp, how)
            })?;
            self.each("new flows", |setup, findings, how| {
                search(setup, &mut findings.new_flows, Kind::NewUdp, how)
            })?;
            self.each("connections", |setup, findings, how| {
                search(setup, &mut findings.connections, Kind::Connections, how)
            })?;
        }
        self.cost_rate = self.common_rate().context("nobody carries anything")?;
        let rate = self.cost_rate;
        for _ in 0..self.thoroughness.repeats {
            self.each("cost", |setup, findings, how| cost(setup, findings, how, rate))?;
        }
        self.each("latency", latencies)?;
        Ok((self.findings, self.cost_rate))
    }

    fn bulk_rounds(&self) -> usize {
        if self.thoroughness.bulk > 0 { self.thoroughness.repeats } else { 0 }
    }

    /// Gives each contender its turn.
    fn each(
        &mut self,
        what: &str,
        mut turn: impl FnMut(&mut Setup, &mut Findings, Thoroughness) -> Result<Option<String>>,
    ) -> Result<()> {
        for (setup, findings) in self.setups.iter_mut().zip(&mut self.findings) {
            setup.wake()?;
            let said = turn(setup, findings, self.thoroughness)
                .with_context(|| format!("{what} of {}", setup.contender))?;
            setup.rest()?;
            if let Some(said) = said {
                eprintln!(
                    "{:6.0} s  {what}, {}: {said}",
                    self.started.elapsed().as_secs_f64(),
                    setup.contender
                );
            }
        }
        Ok(())
    }

    /// A rate that all who do any work carry easily.
    fn common_rate(&self) -> Option<f64> {
        let working = self.findings.iter().filter(|findings| findings.contender.carrier != Carrier::Wire);
        let medians =
            working.filter_map(|findings| Spread::of(&findings.established)).map(|spread| spread.median);
        let slowest = medians.filter(|rate| *rate > 0.0).min_by(f64::total_cmp)?;
        Some(slowest * COMMON_PART)
    }
}

fn plan(kind: Kind, rate: f64, seconds: f64, pace: Pace, how: Thoroughness) -> Plan {
    let Thoroughness { flows, bytes, .. } = how;
    Plan { kind, rate, bytes, flows, popularity: Popularity::Uniform, seconds, pace, echo: false }
}

fn run(setup: &mut Setup, plan: &Plan) -> Result<Results> {
    if plan.kind.opens_flows() {
        setup.clear_connections()?;
    }
    setup.generator()?.run(plan, |_| {})
}

fn search(setup: &mut Setup, found: &mut Vec<f64>, kind: Kind, how: Thoroughness) -> Result<Option<String>> {
    if !setup.contender.takes(kind) {
        return Ok(None);
    }
    let too_much = if kind == Kind::Connections { TOO_MANY_CONNECTIONS } else { TOO_MANY_PACKETS };
    let near = Spread::of(found).map(|spread| spread.median).filter(|rate| *rate > 0.0);
    let rate = highest_rate(how.durations, too_much, near, |rate, seconds| {
        let results = run(setup, &plan(kind, rate, seconds, Pace::Spin, how))?;
        Ok(Trial { loss: results.loss, rate: results.rate() })
    })?;
    found.push(rate);
    Ok(Some(format!("{rate:.0}/s")))
}

/// What a packet costs all processors, with a generator that sleeps between bursts.
fn cost(setup: &mut Setup, findings: &mut Findings, how: Thoroughness, rate: f64) -> Result<Option<String>> {
    let plan = plan(Kind::EstablishedUdp, rate, how.run, Pace::Sleep, how);
    let results = run(setup, &plan)?;
    let cost = Cost {
        packets_per_cpu_second: results.completed as f64 / results.cpu_seconds,
        cpu_seconds_per_second: results.cpu_seconds / results.seconds,
        loss: results.loss,
    };
    findings.costs.push(cost);
    Ok(Some(format!(
        "{:.0} packets per CPU-second, {:.2} of all CPUs",
        cost.packets_per_cpu_second, cost.cpu_seconds_per_second
    )))
}

fn latencies(setup: &mut Setup, findings: &mut Findings, how: Thoroughness) -> Result<Option<String>> {
    let Some(highest) = Spread::of(&findings.established).filter(|spread| spread.median > 0.0) else {
        return Ok(None);
    };
    let mut said = Vec::new();
    for load in LOADS {
        let rate = highest.median * load;
        let results = run(setup, &plan(Kind::EstablishedUdp, rate, how.run, Pace::Spin, how))?;
        let Results { latency, loss, .. } = results;
        findings.latencies.push(LatencyAt { load, rate, latency, loss });
        said.push(format!(
            "{:.0} %: p50 {:.1} p99 {:.1} p99.9 {:.1} us, lost {:.4} %",
            load * 100.0,
            latency.p50 as f64 / 1e3,
            latency.p99 as f64 / 1e3,
            latency.p99_9 as f64 / 1e3,
            loss * 100.0
        ));
    }
    Ok(Some(said.join("; ")))
}

/// One TCP stream with the kernel's offloads on where they work: what a client and a pod on one machine would see.
fn bulk_transfer(setup: &mut Setup, findings: &mut Findings, how: Thoroughness) -> Result<Option<String>> {
    let contender = setup.contender;
    if !(contender.carrier == Carrier::Forward || (contender.knows_services() && contender.services > 1)) {
        return Ok(None);
    }
    let rig = &setup.rig;
    // Half-made checksums pass where the kernel forwards, and not where a program rewrites them.
    let offloads = if contender.is_kernel() { "tx on tso on gso on gro on" } else { "tso on gso on" };
    for place in ["client", "pods"] {
        rig.shell(place, &format!("ethtool -K eth0 {offloads} >/dev/null 2>&1 || true"))?;
    }
    // The second Service speaks TCP. Without rules the kernel routes its address to the pods.
    let targets = crate::traffic::targets::Targets::alternating(contender.services.max(2));
    let service = targets.cluster_ip(1);
    let (mut addresses, port): (Vec<_>, u16) = match contender.carrier {
        Carrier::Forward => (vec![service], crate::traffic::targets::SERVICE_PORT),
        _ => ((0..4).map(|n| targets.endpoint(1, n)).collect(), crate::traffic::targets::ENDPOINT_PORT),
    };
    let listen: String =
        addresses.iter().map(|address| format!("ip addr replace {address}/32 dev lo\n")).collect();
    rig.shell("pods", &listen)?;
    let mut server = rig.command("pods", "iperf3");
    let mut server =
        server.args(["-s", "-p", &port.to_string()]).stdout(std::process::Stdio::null()).spawn()?;
    std::thread::sleep(Duration::from_millis(300));
    let seconds = how.bulk;
    let said = rig.shell(
        "client",
        &format!("iperf3 -J -t {seconds} -c {service} -p {}", crate::traffic::targets::SERVICE_PORT),
    );
    let _may_have_ended = server.kill();
    let _no_use_for_its_status = server.wait();
    addresses.clear();
    for place in ["client", "pods"] {
        rig.shell(place, "ethtool -K eth0 tx off tso off gso off gro off >/dev/null 2>&1 || true")?;
    }
    let report: serde_json::Value = serde_json::from_str(&said?).context("iperf3")?;
    let rate = report.pointer("/end/sum_received/bits_per_second").and_then(serde_json::Value::as_f64);
    let rate = rate.context("iperf3 says no rate")?;
    findings.bulk_tcp.push(rate);
    Ok(Some(format!("{:.2} Gbit/s", rate / 1e9)))
}
