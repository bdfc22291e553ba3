//! Keeps podmeta's CNI configuration current.

use std::time::Duration;

use anyhow::{Context as _, Result};
use podmeta_metadata::node_finding::NodeFindingKind;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::DaemonConfig;
use crate::counters::Counters;
use crate::events::{self, Events};
use crate::findings::SharedFindings;
use crate::install::{self, ConflistFile};

/// Interval of checks without an event. A symbolic link can point to a file whose changes are no events.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Minimum interval of checks. Many events in a short time start few checks.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Checks the configuration after each change of the directory, and at an interval. Sends to `checked_tx` once, after the
/// first check that succeeded.
pub(super) async fn run(
    config: &DaemonConfig,
    counters: &Counters,
    findings: &SharedFindings,
    checked_tx: oneshot::Sender<()>,
) {
    let mut checked_tx = Some(checked_tx);
    loop {
        // A watch follows the directory, not its path. A new watch for each check also detects a replaced directory.
        let events = Events::of_directory(&config.cni_config_dir);
        match check(config, counters, findings) {
            Ok(()) => drop(checked_tx.take().map(|checked_tx| checked_tx.send(()))),
            Err(error) => tracing::error!(error = format!("{error:#}"), "cannot check the CNI configuration; retrying"),
        }
        sleep(MIN_CHECK_INTERVAL).await;
        let waited = match events {
            Ok(events) => spawn_blocking(move || events::wait(&[&events], CHECK_INTERVAL)).await.unwrap_or(Ok(())),
            Err(error) => Err(error),
        };
        if let Err(error) = waited {
            tracing::error!(%error, "cannot watch the directory of CNI configurations; retrying");
            sleep(CHECK_INTERVAL).await;
        }
    }
}

/// Writes the configuration if it is not current, and sets the findings about the directory.
fn check(config: &DaemonConfig, counters: &Counters, findings: &SharedFindings) -> Result<()> {
    let state = install::write_conflist(&config.cni_config_dir, config.settings)
        .context("cannot update podmeta's CNI configuration")?;
    if state.file == ConflistFile::Written {
        counters.add_conflist_write();
        tracing::info!(directory = %config.cni_config_dir.display(), "wrote podmeta's CNI configuration");
    }
    let absent = (state.file == ConflistFile::Absent).then(|| {
        "no valid CNI configuration sorts after podmeta's, so new pods get their link late; install a network plugin"
            .to_owned()
    });
    findings.set(NodeFindingKind::CniConfig, absent);
    let sorts_before = state.sorts_before.map(|file| {
        format!("the CNI configuration {file} sorts before podmeta's, so new pods get their link late; rename it")
    });
    findings.set(NodeFindingKind::CniOrder, sorts_before);
    Ok(())
}
