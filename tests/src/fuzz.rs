//! Fuzzing: what a [`target`] promises of any input, and the [`seed`]s that a fuzzer starts from.

pub mod seed;
pub mod target;
