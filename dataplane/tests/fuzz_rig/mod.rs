//! Inputs that nobody would think of: made by changing good ones, kept if they lead somewhere new, on stable Rust.
//!
//! A target is a subject that takes steps and panics if a property does not hold. Where an input leads is seen from
//! outside: what is counted and what leaves. A run makes the target's number of inputs, with `TIDEGATE_LONG` ten minutes
//! of them, with `FUZZ_SECONDS` so many seconds; `FUZZ_SEED` repeats a run. Finds are written to the build's temporary
//! directory: those of a new kind, of runs by time, to `corpus/<target>`, to be copied to `tests/corpus/<target>`; a
//! failure, made as short as it goes, to `failures`.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "a test crate's module; not each test uses all")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::disallowed_methods, reason = "a test measures its own time")]

pub mod gateway;
pub mod mutation;
pub mod random;
pub mod seeds;
pub mod step;
pub mod wire;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant, SystemTime};

use random::Random;
use step::Step;

thread_local! {
    /// Says whether failures of the moment are of no interest: they show how a known one gets shorter.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// How long a long run is.
const LONG_SECONDS: u64 = 600;
/// Inputs that share one subject, so that they meet what others left behind.
const INPUTS_OF_A_LIFE: usize = 100;
/// Inputs that are kept to be changed again.
const KEPT_MAX: usize = 4_000;

/// What is tried.
pub trait Subject {
    /// Takes a step, and says by a number what kind of thing happened. Panics if a property does not hold.
    fn take(&mut self, step: &Step) -> u64;

    /// Panics if something is left that should not be.
    fn finish(&mut self) {}
}

/// A subject by name, what to begin with and how many inputs make a run.
pub struct Target<S> {
    pub name: &'static str,
    pub subject: fn() -> S,
    pub seeds: Vec<Vec<Step>>,
    pub inputs: usize,
}

/// When a run ends.
enum End {
    Inputs(usize),
    Time(Instant),
}

impl<S: Subject> Target<S> {
    /// Tries the seeds and every input of the corpus, each with a fresh subject.
    pub fn replay(&self) {
        let corpus = self.corpus();
        for input in self.seeds.iter().chain(&corpus) {
            self.assert_holds(input);
        }
        println!("{}: {} seeds and {} inputs of the corpus", self.name, self.seeds.len(), corpus.len());
    }

    /// Tries changed inputs until the run ends.
    pub fn discover(&self) {
        let seed = number("FUZZ_SEED")
            .unwrap_or_else(|| SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_micros() as u64));
        println!("{}: FUZZ_SEED={seed}", self.name);
        let end = self.end();
        let mut random = Random::new(seed);
        let mut kept = [self.seeds.clone(), self.corpus()].concat();
        let mut known: BTreeSet<u64> = kept.iter().flat_map(|input| self.features(input)).collect();
        let at_first = known.len();
        let (mut tried, mut life, mut lived) = (0, (self.subject)(), vec![]);
        while !end.is_reached(tried) {
            let input = mutation::mutate(&mut random, random_pick(seed, tried, &kept), &kept);
            lived.extend_from_slice(&input);
            let Some(features) = survive(&mut life, &input) else { self.fail(&lived) };
            tried += 1;
            if features.iter().any(|feature| !known.contains(feature)) && kept.len() < KEPT_MAX {
                self.keep(&input, &mut known, &mut kept);
            }
            if tried % INPUTS_OF_A_LIFE == 0 {
                if catch_unwind(AssertUnwindSafe(|| life.finish())).is_err() {
                    self.fail(&lived);
                }
                (life, lived) = ((self.subject)(), vec![]);
            }
        }
        println!(
            "{}: {tried} inputs, {} kinds of steps, {} of them new",
            self.name,
            known.len(),
            known.len() - at_first
        );
    }

    /// Keeps an input that leads somewhere new also for a fresh subject, without the steps that it does not need.
    fn keep(&self, input: &[Step], known: &mut BTreeSet<u64>, kept: &mut Vec<Vec<Step>>) {
        let Some(new) = self.features(input).into_iter().find(|feature| !known.contains(feature)) else {
            return;
        };
        let short = without_needless(input, |steps| self.features(steps).contains(&new));
        known.extend(self.features(&short));
        if seconds().is_some() {
            write(&format!("corpus/{}", self.name), &format!("{new:016x}.txt"), &short);
        }
        kept.push(short);
    }

    fn features(&self, input: &[Step]) -> Vec<u64> {
        survive(&mut (self.subject)(), input).unwrap_or_default()
    }

    fn end(&self) -> End {
        match seconds() {
            Some(seconds) => End::Time(Instant::now() + Duration::from_secs(seconds)),
            None => End::Inputs(self.inputs),
        }
    }

    fn is_broken_by(&self, input: &[Step]) -> bool {
        let mut subject = (self.subject)();
        let lives = survive(&mut subject, input).is_some();
        !lives || catch_unwind(AssertUnwindSafe(|| subject.finish())).is_err()
    }

    fn assert_holds(&self, input: &[Step]) {
        if self.is_broken_by(input) {
            self.fail(input);
        }
    }

    fn fail(&self, input: &[Step]) -> ! {
        keep_quiet_when_told();
        IS_QUIET.set(true);
        // Mostly the last steps do it without what was before.
        let lengths = std::iter::successors(Some(8), |length| Some(length * 4))
            .take_while(|length| *length < input.len());
        let ends = lengths.map(|length| &input[input.len() - length..]).chain([input]);
        let short = match ends.into_iter().find(|end| self.is_broken_by(end)) {
            Some(end) => without_needless(end, |steps| self.is_broken_by(steps)),
            None => input.to_vec(),
        };
        IS_QUIET.set(false);
        let path = write("failures", &format!("{}.txt", self.name), &short);
        // Once more for its message, the last before the end.
        self.is_broken_by(&short);
        panic!("{} does not hold for {}:\n{}", self.name, path.display(), step::write(&short));
    }

    fn corpus(&self) -> Vec<Vec<Step>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(self.name);
        let mut paths: Vec<_> = fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|kind| kind == "txt"))
            .collect();
        paths.sort();
        paths.iter().map(|path| step::read(&fs::read_to_string(path).unwrap()).unwrap()).collect()
    }
}

impl End {
    fn is_reached(&self, tried: usize) -> bool {
        match self {
            Self::Inputs(inputs) => tried >= *inputs,
            Self::Time(end) => Instant::now() >= *end,
        }
    }
}

/// Newer inputs are picked more often than old ones: half of the time one of the last sixteenth.
fn random_pick(seed: u64, tried: usize, kept: &[Vec<Step>]) -> &[Step] {
    let mut random = Random::new(seed.wrapping_add(tried as u64));
    let newest = if random.one_in(2) { kept.len() } else { kept.len().div_ceil(16) };
    &kept[kept.len() - 1 - random.below(newest)]
}

/// Lets a subject take an input; `None` if a property does not hold.
fn survive(subject: &mut impl Subject, input: &[Step]) -> Option<Vec<u64>> {
    catch_unwind(AssertUnwindSafe(|| input.iter().map(|step| subject.take(step)).collect())).ok()
}

/// Leaves out steps, first many at once, as long as the rest is still as wanted.
fn without_needless(input: &[Step], is_wanted: impl Fn(&[Step]) -> bool) -> Vec<Step> {
    let mut short = input.to_vec();
    let mut chunk = short.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        while at < short.len() {
            let mut less = short.clone();
            less.drain(at..(at + chunk).min(short.len()));
            if is_wanted(&less) {
                short = less;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    short
}

fn keep_quiet_when_told() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                loud(info);
            }
        }));
    });
}

/// How long a run lasts that is not to end with its number of inputs.
fn seconds() -> Option<u64> {
    number("FUZZ_SECONDS").or_else(|| std::env::var_os("TIDEGATE_LONG").map(|_| LONG_SECONDS))
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

fn write(directory: &str, name: &str, input: &[Step]) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(directory);
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    fs::write(&path, step::write(input)).unwrap();
    path
}
