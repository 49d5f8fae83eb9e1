//! Network namespaces: running a piece of work inside one.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, bail};

/// Moves the calling thread into a namespace made by `ip netns`, for good.
pub fn enter(name: &str) -> Result<()> {
    let file = File::open(Path::new("/run/netns").join(name)).with_context(|| format!("namespace {name}"))?;
    // SAFETY: takes an open descriptor and changes this thread's namespace only; no memory is touched.
    if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
        bail!("namespace {name}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// Runs `work` in a namespace, on a thread of its own, and waits for its result.
///
/// # Panics
/// If `work` does.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(name)?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
