//! Takes a cluster away: its processes, and all that does not go with them.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::layout::ClusterName;
use crate::processes::{Process, until};
use crate::steps::step;
use crate::{cgroups, links, lock, needs};

/// How long the kernel may take to end the processes of many pods.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends every process of the cluster and removes its link, cgroups and files. That there is none is well.
///
/// # Errors
/// What is left, and why.
pub fn down(cluster: &ClusterName) -> Result<()> {
    needs::root()?;
    let _lock = lock::take()?;
    discard(cluster)?;
    println!("cluster {cluster} is gone");
    Ok(())
}

/// The same, for whoever has the lock.
///
/// # Errors
/// What is left, and why.
pub fn discard(cluster: &ClusterName) -> Result<()> {
    step("processes", || {
        // With its init the kernel ends everything in a machine, pods too. A process that is just being started has no
        // mark for a moment, so one look that finds none is not enough.
        let mut empty = 0;
        let ended = || {
            let left = Process::of(cluster).unwrap_or_default();
            left.iter().for_each(|process| drop(process.signal(Signal::SIGKILL)));
            empty = if left.is_empty() { empty + 1 } else { 0 };
            empty == 3
        };
        let left = || Process::of(cluster).unwrap_or_default();
        ensure!(until(PATIENCE, ended), "processes of cluster {cluster} do not end: {:?}", left());
        Ok(())
    })?;
    step("links and cgroups", || {
        links::remove(cluster)?;
        cgroups::remove(cluster)
    })?;
    step("files", || {
        let state = cluster.state();
        match fs::remove_dir_all(&state) {
            Err(why) if why.kind() != ErrorKind::NotFound => {
                Err(why).with_context(|| format!("cannot remove {}", state.display()))?
            }
            _ => {}
        }
        // Other clusters may be in the folder above.
        drop(state.parent().map(fs::remove_dir));
        Ok(())
    })
}
