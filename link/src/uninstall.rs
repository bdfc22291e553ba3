//! The uninstallation of podmeta from a node.

mod sandboxes;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::cni::conflist::PLUGIN_TYPE;
use crate::cni::lock::{lock_exclusive, remove_lock_file};
use crate::guard::uplink;
use crate::netns::Netns;
use crate::{agent_ns, guard, host_pods, install};

/// Path of the link daemon's socket in the directory of podmeta's state.
const DAEMON_SOCKET: &str = "link/link.sock";

/// Longest wait for the link daemon. A pod ends within its grace period of 30 seconds; the rest is for a slow kubelet.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(60);

/// Interval of connections to the link daemon's socket. The daemon logs a warning for each of them.
const DAEMON_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Delay after which libcni's cache is read again. A runtime that has read podmeta's configuration before its removal starts this
/// plugin after the others, and then writes the entry of the sandbox.
const CACHE_WRITE_DELAY: Duration = Duration::from_secs(5);

/// Maximum number of sandboxes that a log line names.
const MAX_LOGGED_SANDBOXES: usize = 5;

/// Paths of the node. In a container they are below its mounts.
#[derive(Clone, Debug)]
pub struct UninstallPaths {
    /// Path of the pinned agent namespace.
    pub agent_namespace: PathBuf,
    /// Directory of CNI configurations.
    pub cni_config_dir: PathBuf,
    /// Directory of CNI plugins.
    pub cni_bin_dir: PathBuf,
    /// Directory of libcni's cache.
    pub cni_cache_dir: PathBuf,
    /// Directory of podmeta's state.
    pub state_dir: PathBuf,
}

/// Removes podmeta from the node: CNI configuration, links with the agent namespace, guards, and state. Removes the CNI
/// plugin if no sandbox needs it. Idempotent.
///
/// First waits until no link daemon runs, because the daemon repairs what is missing. Then waits for CNI plugins that run:
/// they could add guards again.
///
/// # Errors
/// If a link daemon or a CNI plugin does not end, or a part other than the plugin cannot be removed. The message names the
/// part. Nothing is removed while a link daemon runs, and guards stay if the agent namespace cannot be removed. A failure of a
/// later part does not keep the others from being removed. The error then contains all failures.
pub async fn uninstall(paths: &UninstallPaths) -> Result<()> {
    wait_for_daemon(&paths.state_dir.join(DAEMON_SOCKET)).await?;
    install::remove_conflist(&paths.cni_config_dir)?;
    let lock = lock_exclusive(&paths.cni_config_dir).await?;
    agent_ns::remove(&paths.agent_namespace)?;
    let host = Netns::current().context("cannot open the node's network namespace")?;
    let pins = paths.state_dir.join(uplink::PINS_DIR);
    let mut failures = Vec::new();
    let redirection = host_pods::remove(&pins, &host).await;
    failures.extend(redirection.context("cannot remove the redirection of pods on the host network").err());
    failures.extend(uplink::remove(&host, &pins).await.context("cannot remove the uplink guard").err());
    failures.extend(guard::remove(&host).await.err());
    remove_lock_file(&paths.cni_config_dir);
    drop(lock);
    failures.extend(remove_directory(&paths.state_dir).err());
    remove_unused_plugin(paths).await;
    combine(&failures)
}

/// Returns an error with the texts of all failures, or success if there are none.
fn combine(failures: &[anyhow::Error]) -> Result<()> {
    let texts = failures.iter().map(|failure| format!("{failure:#}")).collect::<Vec<_>>();
    ensure!(texts.is_empty(), "{}", texts.join("; "));
    Ok(())
}

/// Waits until no process listens on the link daemon's socket.
///
/// # Errors
/// If the daemon still runs after 60 seconds, or the socket cannot be used.
async fn wait_for_daemon(socket: &Path) -> Result<()> {
    if !is_daemon_running(socket).await? {
        return Ok(());
    }
    tracing::info!(socket = %socket.display(), "waiting until the link daemon of the node has ended");
    let ended = async {
        loop {
            sleep(DAEMON_POLL_INTERVAL).await;
            if !is_daemon_running(socket).await? {
                return Ok(());
            }
        }
    };
    let Ok(result) = timeout(DAEMON_TIMEOUT, ended).await else {
        bail!(
            "a link daemon still runs on the node after {} seconds, and nothing was removed; delete its DaemonSet, then \
             repeat the uninstallation",
            DAEMON_TIMEOUT.as_secs()
        );
    };
    result
}

/// Returns true if a process listens on the link daemon's socket. The kernel closes the socket with the process.
async fn is_daemon_running(socket: &Path) -> Result<bool> {
    match UnixStream::connect(socket).await {
        // The queue of the socket is full.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot connect to {}", socket.display())),
        Ok(_) => Ok(true),
    }
}

fn remove_directory(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes the CNI plugin if no sandbox made through it exists. CRI-O and Multus delete a sandbox with the configuration
/// that made it. Without the plugin, its pod would stay in `Terminating`. On errors the plugin stays.
async fn remove_unused_plugin(paths: &UninstallPaths) {
    let plugin = paths.cni_bin_dir.join(PLUGIN_TYPE);
    if !plugin.exists() {
        return;
    }
    let plugin = plugin.display();
    let sandboxes = match sandboxes::of_plugin(&paths.cni_cache_dir) {
        Ok(sandboxes) if sandboxes.is_empty() => {
            sleep(CACHE_WRITE_DELAY).await;
            sandboxes::of_plugin(&paths.cni_cache_dir)
        }
        result => result,
    };
    match sandboxes {
        Ok(sandboxes) if sandboxes.is_empty() => match install::remove_plugin(&paths.cni_bin_dir) {
            Ok(()) => tracing::info!(%plugin, "removed the CNI plugin"),
            Err(error) => tracing::warn!(
                %plugin,
                error = format!("{error:#}"),
                "cannot remove the CNI plugin, which no pod needs; delete the file"
            ),
        },
        Ok(sandboxes) => tracing::info!(
            %plugin,
            sandboxes = name_some(&sandboxes),
            "the CNI plugin stays: {} sandboxes that it made still exist; after their pods have ended, repeat the \
             uninstallation to remove it",
            sandboxes.len()
        ),
        Err(error) => tracing::warn!(
            %plugin,
            error = format!("{error:#}"),
            "the CNI plugin stays: cannot find out whether sandboxes that it made still exist; delete the file after the \
             pods that started with podmeta have ended"
        ),
    }
}

/// Returns the first IDs of sandboxes, as text.
fn name_some(sandboxes: &BTreeSet<String>) -> String {
    let mut names = sandboxes.iter().take(MAX_LOGGED_SANDBOXES).map(String::as_str).collect::<Vec<_>>();
    if sandboxes.len() > names.len() {
        names.push("…");
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use tokio::time::Instant;

    use super::*;
    use crate::protocol::SOCKET_PATH;

    #[test]
    fn socket_in_the_default_state_directory_is_that_of_the_daemon() {
        assert_eq!(Path::new("/run/podmeta").join(DAEMON_SOCKET), Path::new(SOCKET_PATH));
    }

    #[tokio::test(start_paused = true)]
    async fn daemon_that_does_not_end_fails_the_uninstallation_after_60_seconds() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("link.sock");
        let _daemon = UnixListener::bind(&socket).unwrap();
        let started = Instant::now();
        let error = format!("{:#}", wait_for_daemon(&socket).await.unwrap_err());
        assert!(error.contains("still runs") && error.contains("delete its DaemonSet"), "{error}");
        assert_eq!(started.elapsed().as_secs(), DAEMON_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn daemon_whose_queue_is_full_runs() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("link.sock");
        let daemon = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        daemon.bind(&socket2::SockAddr::unix(&socket).unwrap()).unwrap();
        daemon.listen(1).unwrap();
        let mut connections = Vec::new();
        let error = loop {
            match UnixStream::connect(&socket).await {
                Ok(connection) => connections.push(connection),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
        assert!(is_daemon_running(&socket).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn ended_daemon_and_missing_socket_need_no_wait() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("link.sock");
        let started = Instant::now();
        wait_for_daemon(&socket).await.unwrap();
        drop(UnixListener::bind(&socket).unwrap());
        assert!(socket.exists(), "the socket of an ended process stays");
        wait_for_daemon(&socket).await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[test]
    fn log_line_names_the_first_sandboxes() {
        let ids = |count: usize| (0..count).map(|n| format!("id{n}")).collect::<BTreeSet<_>>();
        assert_eq!(name_some(&ids(2)), "id0, id1");
        assert_eq!(name_some(&ids(6)), "id0, id1, id2, id3, id4, …");
    }
}
