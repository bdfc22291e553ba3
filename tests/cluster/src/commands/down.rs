//! The command `cluster down`.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::lock;
use super::progress::run_step;
use crate::layout::ClusterName;
use crate::machine::cgroups;
use crate::machine::processes::{ClusterProcess, poll_until};
use crate::network::links;
use crate::prerequisites;

/// Timeout until the kernel has ended the processes of all pods.
const EXIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Kills every process of the cluster and removes its link, cgroups and files. Succeeds if there is no such cluster.
///
/// # Errors
/// If something cannot be removed.
pub fn down(cluster: &ClusterName) -> Result<()> {
    prerequisites::require_root()?;
    let _lock = lock::acquire()?;
    delete(cluster)?;
    println!("cluster {cluster} is deleted");
    Ok(())
}

/// Deletes a cluster like [`down`]. The caller holds the lock.
///
/// # Errors
/// If something cannot be removed.
pub fn delete(cluster: &ClusterName) -> Result<()> {
    run_step("processes", || {
        // When an init process ends, the kernel kills every process of its machine, including pods. A process that is
        // being started may not have its tag yet, so the list must be empty three times in a row.
        let mut empty = 0;
        let all_ended = || {
            let left = ClusterProcess::all_of(cluster).unwrap_or_default();
            left.iter().for_each(|process| drop(process.signal(Signal::SIGKILL)));
            empty = if left.is_empty() { empty + 1 } else { 0 };
            empty == 3
        };
        let left = || ClusterProcess::all_of(cluster).unwrap_or_default();
        ensure!(poll_until(EXIT_TIMEOUT, all_ended), "processes of cluster {cluster} do not end: {:?}", left());
        Ok(())
    })?;
    run_step("links and cgroups", || {
        links::remove(cluster)?;
        cgroups::remove_cluster(cluster)
    })?;
    run_step("files", || {
        let state = cluster.state_dir();
        match fs::remove_dir_all(&state) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", state.display()))?
            }
            _ => {}
        }
        // Fails if other clusters exist.
        drop(state.parent().map(fs::remove_dir));
        Ok(())
    })
}
