//! The settings of masquerade, as the command line and the file have them.

use std::str::FromStr;

use clap::ValueEnum;
use tidegate_dataplane::masquerade::{Masquerade, Mode, PortRange};

use crate::cli::RunArguments;

/// Which new flows take an address of the gateway for the client's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Setting {
    /// Those whose replies would pass the gateway by: client and endpoint behind one interface, or one and the same.
    Auto,
    /// All.
    Always,
    /// None; then a client that is itself chosen is not served.
    Never,
}

impl Setting {
    /// Returns the word that stands for it on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// Source ports as `61000-65535`, or one port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports(pub PortRange);

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u16>().map_err(|_| format!("`{text}` is no port"));
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        let range = PortRange::new(first, last);
        range.map(Self).ok_or_else(|| format!("`{text}` is no range: write FIRST-LAST, from 1 to 65535"))
    }
}

/// Returns the policy that a run is told to have.
#[must_use]
pub const fn policy(arguments: &RunArguments) -> Masquerade {
    let mode = match arguments.masquerade {
        Setting::Auto => Mode::Auto,
        Setting::Always => Mode::Always,
        Setting::Never => Mode::Never,
    };
    Masquerade { mode, ports: arguments.masquerade_ports.0 }
}

/// Returns the ports that are ours while the policy is in force, if it uses any.
#[must_use]
pub const fn ports_in_use(policy: &Masquerade) -> Option<PortRange> {
    match policy.mode {
        Mode::Auto | Mode::Always => Some(policy.ports),
        Mode::Never => None,
    }
}
