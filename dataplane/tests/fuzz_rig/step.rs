//! An input: what comes to the gateway, step by step, as text that people can read and git can compare.

use std::fmt;
use std::str::FromStr;

/// One step of an input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A frame that comes by the clients' device.
    Client(Vec<u8>),
    /// A frame that comes by the pods' device.
    Pod(Vec<u8>),
    /// So many milliseconds pass, then timers run.
    Wait(u32),
}

impl Step {
    pub fn frame(&self) -> Option<&[u8]> {
        match self {
            Self::Client(frame) | Self::Pod(frame) => Some(frame),
            Self::Wait(_) => None,
        }
    }

    pub fn frame_mut(&mut self) -> Option<&mut Vec<u8>> {
        match self {
            Self::Client(frame) | Self::Pod(frame) => Some(frame),
            Self::Wait(_) => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, frame) = match self {
            Self::Client(frame) => ("client", frame),
            Self::Pod(frame) => ("pod", frame),
            Self::Wait(ms) => return write!(f, "wait {ms}"),
        };
        write!(f, "{name} ")?;
        frame.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        match name {
            "client" => octets(value).map(Self::Client),
            "pod" => octets(value).map(Self::Pod),
            "wait" => value.parse().map(Self::Wait).ok(),
            _ => None,
        }
        .ok_or_else(|| format!("no step: {line}"))
    }
}

fn octets(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Reads an input: a step a line, lines with `#` are remarks.
pub fn read(text: &str) -> Result<Vec<Step>, String> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::parse).collect()
}

/// Writes an input.
pub fn write(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("{step}\n")).collect()
}
