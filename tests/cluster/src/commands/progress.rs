//! Progress output: one line for each step, with its duration.

use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result};

/// Runs a step. Prints its name before, and its result and duration after.
///
/// # Errors
/// The error of the step, with the step's name.
pub fn run_step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    print!("{name:.<40} ");
    std::io::stdout().flush().context("cannot write to stdout")?;
    let started = Instant::now();
    let result = work();
    println!("{} {:.1} s", if result.is_ok() { "done" } else { "failed" }, started.elapsed().as_secs_f64());
    result.with_context(|| name.to_owned())
}
