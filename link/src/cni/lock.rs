//! Lock between the plugin and the uninstallation: `flock` on the directory of CNI configurations.
//!
//! The plugin holds it shared while it adds guards, the agent namespace and a link. The uninstallation removes podmeta's
//! CNI configuration, and then holds the lock alone. So no plugin that started before adds guards again.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::time::{Instant, sleep};

/// Longest wait for plugins that run. One takes some milliseconds, and about a second if 250 pods start at once.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Interval of attempts while plugins run.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// A held lock. It is released on drop.
pub(crate) type ConfigDirLock = Flock<File>;

/// Locks a directory for the plugin. Returns `None` while podmeta is being removed from the node.
pub(super) fn lock_shared(directory: &Path) -> io::Result<Option<ConfigDirLock>> {
    try_lock(directory, FlockArg::LockSharedNonblock)
}

/// Locks a directory for the uninstallation. Waits for plugins that run. Returns `None` if the directory does not exist.
///
/// # Errors
/// If the directory cannot be locked, or a plugin runs for longer than 30 seconds.
pub(crate) async fn lock_exclusive(directory: &Path) -> Result<Option<ConfigDirLock>> {
    let deadline = Instant::now() + PLUGIN_TIMEOUT;
    loop {
        match try_lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(None) if Instant::now() > deadline => {
                bail!("a CNI plugin still runs after {} seconds", PLUGIN_TIMEOUT.as_secs());
            }
            Ok(None) => sleep(RETRY_INTERVAL).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => return result.with_context(|| format!("cannot lock {}", directory.display())),
        }
    }
}

/// Returns `None` if another process holds the lock.
fn try_lock(directory: &Path, lock: FlockArg) -> io::Result<Option<ConfigDirLock>> {
    match Flock::lock(File::open(directory)?, lock) {
        Ok(locked) => Ok(Some(locked)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn plugins_share_the_lock_and_the_uninstallation_has_it_alone() {
        let directory = tempfile::tempdir().unwrap();
        let plugins = [(); 2].map(|()| lock_shared(directory.path()).unwrap().unwrap());
        assert!(try_lock(directory.path(), FlockArg::LockExclusiveNonblock).unwrap().is_none());
        drop(plugins);
        let uninstallation = lock_exclusive(directory.path()).await.unwrap().unwrap();
        assert!(lock_shared(directory.path()).unwrap().is_none());
        drop(uninstallation);
        assert!(lock_shared(directory.path()).unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn plugin_that_does_not_end_fails_the_uninstallation() {
        let directory = tempfile::tempdir().unwrap();
        let _plugin = lock_shared(directory.path()).unwrap().unwrap();
        let error = lock_exclusive(directory.path()).await.unwrap_err();
        assert!(error.to_string().contains("a CNI plugin still runs after 30 seconds"), "{error:#}");
    }

    #[tokio::test]
    async fn missing_directory_needs_no_lock() {
        let directory = tempfile::tempdir().unwrap();
        assert!(lock_exclusive(&directory.path().join("missing")).await.unwrap().is_none());
    }
}
