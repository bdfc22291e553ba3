//! Fuzzing: the properties of each [`target`] and the [`seed`] inputs.

pub mod seed;
pub mod target;
