//! A lock that lets one program at a time change clusters on this host, because clusters share its addresses.

use std::fs::File;

use anyhow::{Context as _, Result};

/// A directory that every host has, so that the lock leaves no file behind.
const LOCKED_DIR: &str = "/var/lib";

/// Waits for the lock. The kernel releases it when the file is closed or the program ends.
///
/// # Errors
/// If the directory cannot be opened or locked.
pub fn acquire() -> Result<File> {
    let dir = File::open(LOCKED_DIR).with_context(|| format!("cannot open {LOCKED_DIR}"))?;
    if dir.try_lock().is_err() {
        println!("waiting for another program that changes a cluster");
        dir.lock().with_context(|| format!("cannot lock {LOCKED_DIR}"))?;
    }
    Ok(dir)
}
