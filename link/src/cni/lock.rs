//! Lock between the plugin and the uninstallation: `flock` on a file in the directory of CNI configurations. Only root can open
//! the file. The directory itself could be locked by any process that can read it.
//!
//! The plugin holds it shared while it adds guards, the agent namespace and a link. The uninstallation removes podmeta's
//! CNI configuration, and then holds the lock alone. So no plugin that started before adds guards again.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::sys::stat::Mode;
use tokio::time::{Instant, sleep};

/// Name of the file. Container runtimes do not read files without an extension.
const LOCK_FILE_NAME: &str = ".podmeta-lock";

/// Longest wait for plugins that run. One takes some milliseconds, and about a second if 250 pods start at the same time.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Interval of attempts while plugins run.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// A held lock. It is released on drop.
pub(crate) type ConfigDirLock = Flock<File>;

/// Locks a directory for the plugin. Creates the file if it is missing. Returns `None` while podmeta is being removed from
/// the node.
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

/// Removes the file. Called by the uninstallation at its end, and by a plugin that created the file after it.
pub(crate) fn remove_lock_file(directory: &Path) {
    // A file that is left has no effect.
    let _result = std::fs::remove_file(directory.join(LOCK_FILE_NAME));
}

/// Returns `None` if another process holds the lock.
fn try_lock(directory: &Path, lock: FlockArg) -> io::Result<Option<ConfigDirLock>> {
    // Without write access: the link daemon watches the directory for written files.
    let flags = OFlag::O_RDONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let file = open(&directory.join(LOCK_FILE_NAME), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    match Flock::lock(File::from(file), lock) {
        Ok(locked) => Ok(Some(locked)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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
    async fn lock_of_the_directory_by_another_process_has_no_effect() {
        let directory = tempfile::tempdir().unwrap();
        let _other = Flock::lock(File::open(directory.path()).unwrap(), FlockArg::LockExclusive).unwrap();
        assert!(lock_shared(directory.path()).unwrap().is_some());
        let mode = std::fs::metadata(directory.path().join(LOCK_FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "only root can lock the file");
    }

    #[tokio::test]
    async fn missing_directory_needs_no_lock() {
        let directory = tempfile::tempdir().unwrap();
        assert!(lock_exclusive(&directory.path().join("missing")).await.unwrap().is_none());
    }
}
