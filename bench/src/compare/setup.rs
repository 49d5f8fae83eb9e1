//! Sets a contender up between its own client and pods, and lets it rest while another one's turn is.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::contender::{Carrier, Contender};
use super::kube_proxy::{iptables, nftables};
use super::manifests::manifests;
use super::rig::{CLIENT_STATION, PODS_STATION, Rig, run, station};
use crate::processor::available_memory;
use crate::traffic::generator::Generator;
use crate::traffic::targets::Targets;

/// Flows that the experiment has entries of; the plans have no more.
const KNOWN_FLOWS: u32 = 100_000;
/// Longest that anything may take to serve.
const PATIENCE: Duration = Duration::from_secs(120);
/// From being woken to polling again.
const WAKING: Duration = Duration::from_millis(50);

/// Programs and places that all contenders share.
#[derive(Clone, Debug)]
pub struct Workshop {
    /// Letters that keep the namespaces of two workshops apart.
    pub label: &'static str,
    /// Where the built programs are.
    pub programs: PathBuf,
    /// Directory of logs, manifests and flow tables, in memory.
    pub scratch: PathBuf,
    /// Core of the generator.
    pub generator_core: usize,
    /// Core of the worker.
    pub worker_core: usize,
    /// Capacity of the flow table.
    pub flows: u32,
}

/// A contender that serves, or rests.
pub struct Setup {
    /// Who.
    pub contender: Contender,
    /// Its namespaces.
    pub rig: Rig,
    /// How it is bound, or works.
    pub mode: String,
    /// From nothing to serving.
    pub took: Duration,
    /// Memory that went while it was set up.
    pub memory_bytes: u64,
    generator: Option<Generator>,
    program: Option<Child>,
}

impl Setup {
    /// Sets it up; it rests afterwards.
    pub fn build(contender: Contender, workshop: &Workshop) -> Result<Self> {
        let has_gateway = contender.carrier != Carrier::Wire;
        let prefix = format!("tgcmp{}-{}", workshop.label, contender.to_string().replace(':', "-"));
        let rig = Rig::build(&prefix, has_gateway)?;
        let memory = available_memory()?;
        let start = Instant::now();
        let scratch = workshop.scratch.join(contender.to_string().replace(':', "-"));
        fs::create_dir_all(&scratch)?;
        let (program, mode) =
            serve(contender, workshop, &rig, &scratch).with_context(|| contender.to_string())?;
        let took = start.elapsed();
        let memory_bytes = memory.saturating_sub(available_memory()?);
        let setup = Self { contender, rig, mode, took, memory_bytes, generator: None, program };
        setup.rest()?;
        Ok(setup)
    }

    /// Lets it work.
    pub fn wake(&self) -> Result<()> {
        if self.program.is_some() {
            self.signal("CONT")?;
            thread::sleep(WAKING);
        }
        Ok(())
    }

    /// Stops it from using the processor, without ending it.
    pub fn rest(&self) -> Result<()> {
        if self.program.is_some() { self.signal("STOP") } else { Ok(()) }
    }

    /// Forgets what the kernel remembers of connections, so that none of an earlier run is in the way.
    pub fn clear_connections(&mut self) -> Result<()> {
        if self.contender.is_kernel() && self.contender.knows_services() {
            self.rig.shell("gw", "conntrack -F 2>/dev/null")?;
            self.generator()?.forget_connections();
        }
        Ok(())
    }

    /// Its generator; opened when it is first wanted, since the programs at both ends change what devices do.
    pub fn generator(&mut self) -> Result<&mut Generator> {
        if self.generator.is_none() {
            let targets = Targets::alternating(self.contender.services);
            let (client, sink) = (self.rig.client(), self.rig.sink());
            self.generator = Some(Generator::open(&client, 0, &sink, self.rig.stations(), targets)?);
        }
        self.generator.as_mut().context("no generator")
    }

    fn signal(&self, name: &str) -> Result<()> {
        let Some(program) = &self.program else { return Ok(()) };
        run(&["kill", "-s", name, &program.id().to_string()]).map(drop)
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        let Some(mut program) = self.program.take() else { return };
        let process = program.id().to_string();
        for signal in ["CONT", "TERM"] {
            let _may_have_ended = Command::new("kill").args(["-s", signal, &process]).status();
        }
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            if matches!(program.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _may_have_ended = program.kill();
        let _no_use_for_its_status = program.wait();
    }
}

/// Starts what carries packets; returns its program, if it has one, and how it works.
fn serve(
    contender: Contender,
    workshop: &Workshop,
    rig: &Rig,
    scratch: &Path,
) -> Result<(Option<Child>, String)> {
    let targets = Targets::alternating(contender.services);
    match contender.carrier {
        Carrier::Wire => return Ok((None, "one veth pair".to_owned())),
        Carrier::Tidegate => return serve_tidegate(workshop, rig, scratch, targets),
        Carrier::Bare => return serve_bare(workshop, rig, scratch),
        Carrier::FlowEntries => return serve_flow_entries(workshop, rig, scratch, targets),
        Carrier::Testpmd => return serve_testpmd(workshop, rig, scratch),
        Carrier::Forward => {
            rig.shell("gw", "ip route add 10.96.0.0/16 via 10.0.2.2")?;
        }
        Carrier::Nftables => load(rig, scratch, &nftables::rules(targets), "nft -f")?,
        Carrier::Iptables => load(rig, scratch, &iptables::rules(targets), "iptables-restore")?,
    }
    rig.shell("gw", "sysctl -qw net.ipv4.ip_forward=1")?;
    if contender.steered {
        let mask = format!("{:x}", 1_u64 << workshop.worker_core);
        rig.shell(
            "gw",
            &format!("for d in client0 pods0; do echo {mask} >/sys/class/net/$d/queues/rx-0/rps_cpus; done"),
        )?;
        return Ok((None, "in softirq, steered to the worker's core".to_owned()));
    }
    Ok((None, "in softirq, on the sender's core".to_owned()))
}

fn load(rig: &Rig, scratch: &Path, rules: &str, loader: &str) -> Result<()> {
    let file = scratch.join("rules");
    fs::write(&file, rules)?;
    rig.shell("gw", &format!("{loader} {}", file.display())).map(drop)
}

fn serve_tidegate(
    workshop: &Workshop,
    rig: &Rig,
    scratch: &Path,
    targets: Targets,
) -> Result<(Option<Child>, String)> {
    let directory = scratch.join("manifests");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("load.yaml"), manifests(targets))?;
    let mut command = rig.command("gw", &workshop.programs.join("tidegate").to_string_lossy());
    command
        .args(["run", "--interface", "client0", "--interface", "pods0"])
        .args(["--cores", &workshop.worker_core.to_string()])
        .args(["--source", &format!("manifests:{}", directory.display())])
        .args(["--service-cidr", "10.96.0.0/16", "--pod-cidr", "10.3.0.0/16"])
        .args(["--flows", &workshop.flows.to_string()])
        .args(["--state-dir", &scratch.join("state").to_string_lossy()])
        .args(["--metrics", "127.0.0.1:9100"]);
    start(command, &scratch.join("log"), "ready: ")
}

fn serve_bare(workshop: &Workshop, rig: &Rig, scratch: &Path) -> Result<(Option<Child>, String)> {
    // What comes back from the pods is the kernel's: the loop carries one direction.
    rig.shell("gw", "sysctl -qw net.ipv4.ip_forward=1")?;
    let mut command = rig.command("gw", &workshop.programs.join("bare_loop").to_string_lossy());
    command.args(["client0", "pods0", &station(PODS_STATION), &workshop.worker_core.to_string()]);
    start(command, &scratch.join("log"), "ready: ")
}

fn serve_flow_entries(
    workshop: &Workshop,
    rig: &Rig,
    scratch: &Path,
    targets: Targets,
) -> Result<(Option<Child>, String)> {
    rig.shell("gw", "sysctl -qw net.ipv4.ip_forward=1")?;
    // A veth device takes redirected frames only if its peer polls, as it does with GRO.
    rig.shell("pods", "ethtool -K eth0 gro on")?;
    let mut command = rig.command("gw", &workshop.programs.join("flow_entries").to_string_lossy());
    let (services, flows) = (targets.services.to_string(), KNOWN_FLOWS.to_string());
    command.args(["client0", "pods0", &station(PODS_STATION), &services, &flows]);
    start(command, &scratch.join("log"), "ready: ")
}

fn serve_testpmd(workshop: &Workshop, rig: &Rig, scratch: &Path) -> Result<(Option<Child>, String)> {
    // Written to a file, its lines would else wait in its buffer.
    let mut command = rig.command("gw", "stdbuf");
    command.args(["-oL", "dpdk-testpmd"]);
    let cores = format!("{},{}", workshop.generator_core, workshop.worker_core);
    command
        .args(["-l", &cores, "--main-lcore", &workshop.generator_core.to_string()])
        .args(["--no-huge", "-m", "512", "--no-pci", "--no-shconf", "--no-telemetry"])
        .args(["--vdev", "net_af_xdp0,iface=client0", "--vdev", "net_af_xdp1,iface=pods0"])
        .args(["--", "--nb-cores=1", "--total-num-mbufs=32768", "--forward-mode=mac", "--auto-start"])
        .args([&format!("--eth-peer=0,{}", station(CLIENT_STATION))])
        .args([&format!("--eth-peer=1,{}", station(PODS_STATION))]);
    let (program, _) = start(command, &scratch.join("log"), "Press enter to exit")?;
    Ok((program, "net_af_xdp on veth: copy mode, polling without pause".to_owned()))
}

/// Starts a program and waits for a line that says it serves; returns it with the rest of that line.
fn start(mut command: Command, log: &Path, ready: &str) -> Result<(Option<Child>, String)> {
    let errors = File::create(log)?;
    // Its standard input stays open: testpmd ends when it is closed.
    let mut program = command
        .stdin(Stdio::piped())
        .stdout(Stdio::from(errors.try_clone()?))
        .stderr(Stdio::from(errors))
        .spawn()?;
    let start = Instant::now();
    loop {
        let said = BufReader::new(File::open(log)?).lines().map_while(Result::ok);
        if let Some(line) = said.filter_map(|line| Some(line.split_once(ready)?.1.trim().to_owned())).next() {
            return Ok((Some(program), line));
        }
        let ended = program.try_wait()?;
        if ended.is_some() || start.elapsed() > PATIENCE {
            let _may_have_ended = program.kill();
            let log = fs::read_to_string(log)?;
            let last: Vec<_> = log.lines().rev().take(5).collect();
            bail!("does not serve: {}", last.into_iter().rev().collect::<Vec<_>>().join(" | "));
        }
        thread::sleep(Duration::from_millis(20));
    }
}
