//! Every fuzz target over its seeds, and over what random changes make of them: always the same ones, so that a
//! failure can be repeated. With BERTH_FUZZ_SECONDS, new ones for that long each. docs/testing.md tells more.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use berth::fuzzing;

/// How many changed inputs each target gets.
const ROUNDS: u32 = 1500;

/// The longest input, in bytes.
const LONGEST: usize = 8192;

/// The directory of a target's seeds.
fn directory(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target)
}

/// Its seeds, in order.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(directory(target)).unwrap_or_else(|error| panic!("no seeds for {target}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Xorshift: good enough to choose by.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    /// A place in `bytes`, its end included.
    fn place(&mut self, bytes: &[u8]) -> usize {
        self.below(bytes.len() + 1)
    }

    /// A part of `bytes`.
    fn part<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (one, other) = (self.place(bytes), self.place(bytes));
        &bytes[one.min(other)..one.max(other)]
    }

    /// Changes `bytes` in one way, in which `other` may have a part.
    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        const NUMBERS: [u32; 8] = [0, 1, 0x7f, 0x80, 0xffff, 0x40001, 0x7fff_ffff, u32::MAX];
        let at = self.place(bytes);
        match self.below(7) {
            0 if at < bytes.len() => bytes[at] = self.below(256) as u8,
            1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            2 => bytes.truncate(at),
            3 => {
                let end = at + self.below(8).min(bytes.len() - at);
                bytes.drain(at..end);
            }
            4 => {
                let part = self.part(other).to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                let part = self.part(&bytes.clone()).to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let number = NUMBERS[self.below(NUMBERS.len())].to_be_bytes();
                let width = [1, 2, 4][self.below(3)];
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, number[4 - width..].to_vec());
            }
        }
        bytes.truncate(LONGEST);
    }
}

/// Runs a target, and shows the input on which it fails.
fn run(name: &str, target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
        fs::write(&file, input).unwrap();
        eprintln!("{name} fails on {}, which holds {}", file.display(), input.escape_ascii());
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn no_target_fails() {
    let seconds = std::env::var("BERTH_FUZZ_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    for (name, target) in fuzzing::targets() {
        let seeds = seeds(name);
        seeds.iter().for_each(|seed| run(name, target, seed));
        let started = Instant::now();
        let goes_on = |round: u32| match seconds {
            None => round < ROUNDS,
            Some(seconds) => started.elapsed() < Duration::from_secs(seconds),
        };
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        if seconds.is_some() {
            random.0 ^= SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        }
        let mut round = 0;
        while goes_on(round) {
            let mut input = seeds[random.below(seeds.len())].clone();
            for _ in 0..=random.below(5) {
                let other = &seeds[random.below(seeds.len())];
                random.change(&mut input, other);
            }
            run(name, target, &input);
            round += 1;
        }
        eprintln!("{name}: {round} rounds in {:?}", started.elapsed());
    }
}

#[test]
fn every_target_has_a_file_for_libfuzzer_and_every_seed_has_a_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |directory: &str, suffix: &str| {
        let entries = fs::read_dir(root.join(directory)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(suffix).to_owned())
            .collect();
        names.sort();
        names
    };
    let mut targets: Vec<_> = fuzzing::targets().map(|(name, _)| name.to_owned()).collect();
    targets.sort();
    assert_eq!(names("seeds", ""), targets);
    assert_eq!(names("fuzz_targets", ".rs"), targets);
}
