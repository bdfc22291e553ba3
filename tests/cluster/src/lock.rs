//! One program at a time makes or takes away a cluster on this machine: they share its addresses.

use std::fs::File;

use anyhow::{Context as _, Result};

/// A folder that every machine has, so that the lock leaves nothing behind.
const LOCKED: &str = "/var/lib";

/// Held for as long as a cluster is changed; the kernel gives it back when the program ends, however it ends.
///
/// # Errors
/// If it cannot be had.
pub fn take() -> Result<File> {
    let folder = File::open(LOCKED).with_context(|| format!("cannot open {LOCKED}"))?;
    if folder.try_lock().is_err() {
        println!("waiting for another program that changes a cluster");
        folder.lock().with_context(|| format!("cannot lock {LOCKED}"))?;
    }
    Ok(folder)
}
