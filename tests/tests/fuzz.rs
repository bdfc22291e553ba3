//! Each fuzz target for a moment: every seed, every input that was ever found to break it (`found/TARGET`), and changed
//! seeds. For longer, with a fuzzer that sees which code an input reaches: `make fuzz`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::path::Path;

use podmeta_tests::fuzz::{seed, target};
use proptest::arbitrary::any;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// How many changed seeds are tried.
const CHANGED: u32 = 3000;

/// Words that matter to some parser here.
const WORDS: [&str; 24] = [
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

/// Tries every seed, every input that was found, and changed ones of both: bytes replaced, words put in, parts taken out, doubled, or taken from another seed.
fn fuzz(name: &str, mut seeds: Vec<Vec<u8>>, target: fn(&[u8])) {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("found").join(name);
    if found.exists() {
        seeds.extend(std::fs::read_dir(found).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap()));
    }
    for seed in &seeds {
        target(seed);
    }
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let (index, word) = (any::<proptest::sample::Index>(), proptest::sample::select(&WORDS[..]));
    let change = (0..5_u8, index.clone(), index.clone(), word, proptest::num::u8::ANY);
    let input = (index.clone(), index, proptest::collection::vec(change, 1..6));
    for _ in 0..CHANGED {
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
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        if std::panic::catch_unwind(|| target(&bytes)).is_err() {
            panic!("the target fails on {shown:?}");
        }
    }
}

#[test]
fn request() {
    fuzz("request", seed::requests().unwrap(), target::request);
}

#[test]
fn path() {
    fuzz("path", seed::paths().unwrap(), target::path);
}

#[test]
fn token() {
    fuzz("token", seed::tokens(), target::token);
}

#[test]
fn objects() {
    fuzz("objects", seed::objects().unwrap(), target::objects);
}

#[test]
fn cel() {
    fuzz("cel", seed::expressions().unwrap(), target::cel);
}

#[test]
fn tag() {
    fuzz("tag", seed::tags(), target::tag);
}
