//! One program at a time changes a cluster.

use std::fs::{self, File};

use anyhow::{Context as _, Result};

use crate::layout::ClusterName;
use crate::programs::cache;

/// Held for as long as a cluster is changed; the kernel gives it back when the program ends, however it ends.
///
/// # Errors
/// If it cannot be had because the file cannot be made.
pub fn take(cluster: &ClusterName) -> Result<File> {
    let folder = cache()?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = File::create(folder.join(format!("cluster-{cluster}.lock"))).context("cannot make a lock")?;
    if file.try_lock().is_err() {
        println!("waiting for another program that changes cluster {cluster}");
        file.lock().context("cannot lock")?;
    }
    Ok(file)
}
