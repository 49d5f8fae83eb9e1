//! What /healthz says of workers that do not work, through the real binary in the namespace rig.
#![allow(unsafe_code)]

mod rig;

use std::fs;
use std::io;
use std::time::Duration;

use rig::gateway::Gateway;
use rig::{CLIENT, ENT_DEV, Rig, Shape, eventually};

const PATIENCE: Duration = Duration::from_secs(5);
const DEV_1: &str = "10.244.0.11";

/// One thread of another process, stopped until the value goes: what a debugger does.
struct StoppedThread(libc::pid_t);

impl StoppedThread {
    /// Stops the thread of that name.
    fn stop(process: u32, name: &str) -> Self {
        let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(Result::unwrap);
        let thread = threads
            .filter(|thread| fs::read_to_string(thread.path().join("comm")).unwrap().trim() == name)
            .find_map(|thread| thread.file_name().to_str()?.parse().ok())
            .unwrap_or_else(|| panic!("process {process} has no thread {name}"));
        trace(libc::PTRACE_SEIZE, thread);
        let stopped = Self(thread);
        trace(libc::PTRACE_INTERRUPT, thread);
        // SAFETY: the status is not asked for, so no memory is written.
        let waited = unsafe { libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL) };
        assert_eq!(waited, thread, "{}", io::Error::last_os_error());
        stopped
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        trace(libc::PTRACE_DETACH, self.0);
    }
}

fn trace(request: libc::c_uint, thread: libc::pid_t) {
    // SAFETY: none of the requests made here reads or writes memory of this process.
    let done = unsafe { libc::ptrace(request, thread, 0, 0) };
    assert_eq!(done, 0, "ptrace {request} of thread {thread}: {}", io::Error::last_os_error());
}

#[test]
fn a_worker_that_stands_still_is_unhealthy_by_name_and_age_and_no_hole() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.let_the_kernel_forward();
    let gateway = Gateway::start(&rig);
    assert_eq!(gateway.page("/healthz"), ("200".to_owned(), "ok\n".to_owned()));

    let stopped = StoppedThread::stop(gateway.id(), "worker-0");
    let (status, said) = eventually("the worker is missed", PATIENCE, || {
        let (status, said) = gateway.page("/healthz");
        (status != "200").then_some((status, said))
    });
    let age = said.strip_prefix("worker 0: last heartbeat ").and_then(|rest| rest.strip_suffix(" ms ago\n"));
    let age: u64 = age.and_then(|age| age.parse().ok()).unwrap_or_else(|| panic!("it said {said}"));
    assert!(status == "503" && age >= 500, "{status}: {said}");
    assert_eq!(rig.peer("jump", &["udp", DEV_1, "8080", "hello"]), format!("dev-1 {CLIENT} hello"));

    drop(stopped);
    eventually("it is healthy again", PATIENCE, || (gateway.page("/healthz").0 == "200").then_some(()));
    assert_eq!(rig.curl(&format!("http://{ENT_DEV}:8080/")).status, 0);
    gateway.assert_accounts_balance();
    gateway.stop();
}
