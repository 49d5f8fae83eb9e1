//! What subcommands print for people and for other programs.

use std::fmt;
use std::io::{self, Write};

/// The exit status that a shell shows of a program that SIGPIPE ended.
const READER_GONE: i32 = 128 + libc::SIGPIPE;

/// Prints a line on stdout.
///
/// Ends the process if that cannot be done: without a word if the reader has gone, as `head` goes when it has seen
/// enough, else with status 1. Only for subcommands that have nothing to take back.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    let Err(error) = writeln!(io::stdout().lock(), "{line}") else { return };
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(READER_GONE);
    }
    eprintln!("error: cannot write to stdout: {error}");
    std::process::exit(1);
}
