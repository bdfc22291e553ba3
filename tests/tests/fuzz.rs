//! Short run of each fuzz target: every seed, every recorded failing input (`found/TARGET`) and mutated seeds.
//! `make fuzz` runs a coverage-guided fuzzer.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::Path;

use podmeta_tests::fuzz::{seed, target};
use proptest::arbitrary::any;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Number of mutated inputs for each target.
const MUTATED_INPUTS: u32 = 3000;

/// Texts with a special meaning for one of the parsers.
const DICTIONARY: [&str; 24] = [
    "\r\n",
    "\r",
    "\n",
    "\0",
    "/",
    "//",
    "..",
    "%2e",
    "%2f",
    "%00",
    "%",
    " ",
    ":",
    "{",
    "[",
    "---\n",
    "  ",
    "'",
    "\"",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "HTTP/1.0",
    target::TOKEN,
    "\u{feff}",
];

/// Runs `target` on every seed, every recorded failing input and mutations of both. A mutation replaces bytes, inserts a
/// text of `DICTIONARY`, removes or duplicates a range, or copies a range of another seed.
fn fuzz(name: &str, mut seeds: Vec<Vec<u8>>, target: fn(&[u8])) {
    let regressions = Path::new(env!("CARGO_MANIFEST_DIR")).join("found").join(name);
    if regressions.exists() {
        seeds.extend(std::fs::read_dir(regressions).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap()));
    }
    for seed in &seeds {
        target(seed);
    }
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let (index, word) = (any::<proptest::sample::Index>(), proptest::sample::select(&DICTIONARY[..]));
    let change = (0..5_u8, index.clone(), index.clone(), word, proptest::num::u8::ANY);
    let input = (index.clone(), index, proptest::collection::vec(change, 1..6));
    for _ in 0..MUTATED_INPUTS {
        let (seed, other, changes) = input.new_tree(&mut runner).unwrap().current();
        let (mut bytes, other) = (seeds[seed.index(seeds.len())].clone(), &seeds[other.index(seeds.len())]);
        for (kind, from, to, word, byte) in changes {
            let (from, to) = (from.index(bytes.len() + 1), to.index(bytes.len() + 1));
            let (from, to) = (from.min(to), from.max(to));
            match kind {
                0 => drop(bytes.splice(from..(from + 1).min(bytes.len()), [byte])),
                1 => drop(bytes.splice(from..from, word.bytes())),
                2 => drop(bytes.drain(from..to)),
                3 if bytes.len() < 20_000 => {
                    let part = bytes[from..to].to_vec();
                    bytes.splice(to..to, part);
                }
                _ => {
                    let part = other[from.min(other.len())..to.min(other.len())].to_vec();
                    bytes.splice(from..to, part);
                }
            }
        }
        let input_text = String::from_utf8_lossy(&bytes).into_owned();
        if std::panic::catch_unwind(|| target(&bytes)).is_err() {
            panic!("target panicked on {input_text:?}");
        }
    }
}

#[test]
fn request_target_accepts_seeds_and_mutations() {
    fuzz("request", seed::requests().unwrap(), target::request);
}

#[test]
fn path_target_accepts_seeds_and_mutations() {
    fuzz("path", seed::paths().unwrap(), target::path);
}

#[test]
fn token_target_accepts_seeds_and_mutations() {
    fuzz("token", seed::tokens(), target::token);
}

#[test]
fn objects_target_accepts_seeds_and_mutations() {
    fuzz("objects", seed::objects().unwrap(), target::objects);
}

#[test]
fn cel_target_accepts_seeds_and_mutations() {
    fuzz("cel", seed::expressions().unwrap(), target::cel);
}

#[test]
fn tag_target_accepts_seeds_and_mutations() {
    fuzz("tag", seed::tags(), target::tag);
}
