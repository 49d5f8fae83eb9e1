//! A clock that one program has for itself and a test sets.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rig/jumping_clock.c");

/// Answers for the machine's clock in a program that is started by its wrapper.
pub(crate) struct JumpingClock {
    ahead: File,
    wrapper: [String; 3],
}

impl JumpingClock {
    /// Makes one that goes right so far; its files go to `directory`.
    pub(crate) fn make(directory: &Path) -> Self {
        let (library, file) = (directory.join("jumping_clock.so"), directory.join("seconds_ahead"));
        let compile = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .arg(SOURCE)
            .status();
        assert!(compile.unwrap().success(), "cc {SOURCE}");
        fs::write(&file, 0_i64.to_ne_bytes()).unwrap();
        let wrapper = [
            "env".to_owned(),
            format!("LD_PRELOAD={}", library.display()),
            format!("JUMPING_CLOCK={}", file.display()),
        ];
        Self { ahead: OpenOptions::new().write(true).open(file).unwrap(), wrapper }
    }

    /// The program that replaces itself by the one that gets the clock.
    pub(crate) fn wrapper(&self) -> [&str; 3] {
        self.wrapper.each_ref().map(String::as_str)
    }

    /// Sets it to so many days from now, for programs that run, too.
    pub(crate) fn set_ahead(&self, days: i64) {
        self.ahead.write_all_at(&(days * 86_400).to_ne_bytes(), 0).unwrap();
    }
}
