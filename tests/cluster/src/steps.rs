//! Shows what is done and how long it took.

use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result};

/// Does a step: its name before, its time behind.
///
/// # Errors
/// That of the step, with its name.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    print!("{name:.<40} ");
    std::io::stdout().flush().context("cannot print")?;
    let started = Instant::now();
    let done = work();
    println!("{} {:.1} s", if done.is_ok() { "done" } else { "failed" }, started.elapsed().as_secs_f64());
    done.with_context(|| name.to_owned())
}
