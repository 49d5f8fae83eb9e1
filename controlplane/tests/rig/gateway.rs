//! The daemon under test in the gateway's namespace.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::{DNS, Rig, Shape, eventually};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

const METRICS: &str = "127.0.0.1:9100";
/// More than any start, change or end may take; a busy machine with an unoptimised build included.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a start may take: more where a test of great clusters says so, in seconds.
fn patience() -> Duration {
    std::env::var("TIDEGATE_RIG_PATIENCE").map_or(PATIENCE, |text| Duration::from_secs(text.parse().unwrap()))
}

/// A running `tidegate run`; killed when the value goes.
pub(crate) struct Gateway<'rig> {
    rig: &'rig Rig,
    program: Child,
    log: Arc<Log>,
    frames_at_start: u64,
}

/// The lines of standard error, as they come.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

impl Log {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap()
    }

    fn push(&self, line: String) {
        self.lines().push(line);
        self.changed.notify_all();
    }

    fn find(&self, wanted: &impl Fn(&str) -> bool) -> Option<String> {
        self.lines().iter().find(|line| wanted(line)).cloned()
    }

    fn await_change(&self, limit: Duration) {
        let _woken_or_late = self.changed.wait_timeout(self.lines(), limit).unwrap();
    }
}

impl<'rig> Gateway<'rig> {
    /// Starts it on the interfaces of the rig's shape and waits for its `ready:` line.
    #[track_caller]
    pub(crate) fn start(rig: &'rig Rig) -> Self {
        Self::start_with(rig, &[])
    }

    /// As [`Gateway::start`], with more arguments.
    #[track_caller]
    pub(crate) fn start_with(rig: &'rig Rig, arguments: &[&str]) -> Self {
        let interfaces: &[&str] = match rig.shape {
            Shape::OneInterface | Shape::OneSubnet => &["lan0"],
            Shape::TwoInterfaces | Shape::TwoQueues => &["client0", "pods0"],
        };
        Self::start_on(rig, interfaces, arguments)
    }

    /// As [`Gateway::start_with`], on the interfaces named.
    #[track_caller]
    pub(crate) fn start_on(rig: &'rig Rig, interfaces: &[&str], arguments: &[&str]) -> Self {
        Self::spawn(rig, run_command(rig, &[], interfaces, arguments))
    }

    /// As [`Gateway::start_with`], by a program that replaces itself by it.
    #[track_caller]
    pub(crate) fn start_by(rig: &'rig Rig, wrapper: &[&str], arguments: &[&str]) -> Self {
        Self::spawn(rig, run_command(rig, wrapper, &["client0", "pods0"], arguments))
    }

    #[track_caller]
    fn spawn(rig: &'rig Rig, mut command: Command) -> Self {
        let mut program = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Log::default());
        let stderr = BufReader::new(program.stderr.take().unwrap());
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).for_each(|line| written.push(line));
        });
        let mut gateway = Self { rig, program, log, frames_at_start: 0 };
        gateway.await_line("`ready: `", |line| line.starts_with("ready: "));
        gateway.frames_at_start = gateway.counters().all_frames();
        gateway
    }

    /// Waits for a line on standard error, from the start on.
    #[track_caller]
    pub(crate) fn await_line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            // Asked before the log is read, so that a last line before the end is not missed.
            let ended = self.program.try_wait().unwrap();
            if let Some(line) = self.log.find(&wanted) {
                return line;
            }
            if let Some(status) = ended {
                panic!("tidegate ended with {status} before it said {what}");
            }
            assert!(start.elapsed() < patience(), "tidegate did not say {what}");
            self.log.await_change(Duration::from_millis(100));
        }
    }

    /// Everything on standard error so far.
    pub(crate) fn log(&self) -> String {
        self.log.lines().join("\n")
    }

    /// The id of its process.
    pub(crate) fn id(&self) -> u32 {
        self.program.id()
    }

    /// Sends a signal, named without its `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        let process = self.program.id().to_string();
        let status = Command::new("kill").args(["-s", name, &process]).status().unwrap();
        assert!(status.success(), "kill -s {name} {process}: {status}");
    }

    /// Ends it by SIGTERM; a clean end has status 0.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        let status = eventually("the end after SIGTERM", PATIENCE, || self.program.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "after SIGTERM: {status}\n{}", self.log());
    }

    /// Ends it by SIGKILL, which leaves it no time to clean up.
    pub(crate) fn kill(mut self) {
        self.program.kill().unwrap();
        self.program.wait().unwrap();
    }

    /// True while the process lives.
    pub(crate) fn lives(&mut self) -> bool {
        self.program.try_wait().unwrap().is_none()
    }

    /// HTTP status and body of a page of its metrics address.
    pub(crate) fn page(&self, path: &str) -> (String, String) {
        let url = format!("http://{METRICS}{path}");
        let text = self.rig.output("gw", &["curl", "-sS", "--max-time", "5", "-w", "\n%{http_code}", &url]);
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
        (status.to_owned(), body.to_owned())
    }

    /// The accounts as they stand.
    #[track_caller]
    pub(crate) fn counters(&self) -> Counters {
        let (status, body) = self.page("/metrics");
        assert_eq!(status, "200", "{body}");
        Counters::parse(&body)
    }

    /// Asserts that every packet is accounted for and no frame was lost since the start.
    #[track_caller]
    pub(crate) fn assert_accounts_balance(&self) -> Counters {
        let counters = self.counters();
        counters.assert_balance();
        assert!(self.frames_at_start > 0, "no frames: {counters:#?}");
        assert_eq!(counters.all_frames(), self.frames_at_start, "frames since the start: {counters:#?}");
        counters
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        let _may_have_ended = self.program.kill();
        let _no_use_for_its_status = self.program.wait();
        if std::thread::panicking() {
            eprintln!("the log of tidegate:\n{}", self.log());
        }
    }
}

/// Runs it where it must not come to serve: its exit status and what it said on standard error.
#[track_caller]
pub(crate) fn refused_start(rig: &Rig, interfaces: &[&str], arguments: &[&str]) -> (i32, String) {
    refused_start_by(rig, &[], interfaces, arguments)
}

/// As [`refused_start`], by a program that replaces itself by it.
#[track_caller]
pub(crate) fn refused_start_by(
    rig: &Rig,
    wrapper: &[&str],
    interfaces: &[&str],
    arguments: &[&str],
) -> (i32, String) {
    let mut program =
        run_command(rig, wrapper, interfaces, arguments).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while program.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            program.kill().unwrap();
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = program.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or_else(|| panic!("it did not end by itself: {errors}")), errors)
}

fn run_command(rig: &Rig, wrapper: &[&str], interfaces: &[&str], arguments: &[&str]) -> Command {
    let mut command = rig.command("gw", &[wrapper, &[BINARY, "run"]].concat());
    for interface in interfaces {
        command.args(["--interface", interface]);
    }
    if !arguments.contains(&"--cores") {
        let last_core = std::thread::available_parallelism().map_or(1, usize::from) - 1;
        command.args(["--cores", &last_core.to_string()]);
    }
    if !arguments.contains(&"--source") {
        command.arg("--source").arg(format!("manifests:{}", rig.manifests.directory().display()));
    }
    command
        .args(["--dns-listen", DNS, "--service-cidr", "10.96.0.0/12", "--pod-cidr", "10.244.0.0/16"])
        .args(["--service-cidr", "fd00:96::/112", "--pod-cidr", "fd00:244::/64"])
        .args(["--metrics", METRICS, "--flows", "65536"])
        .arg("--state-dir")
        .arg(rig.state())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}
