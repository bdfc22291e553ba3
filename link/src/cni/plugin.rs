//! Runs a request of the container runtime.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::VERSIONS;
use super::conflist::{FILE_NAME, sha256};
use super::error::{CniError, CniErrorCode};
use super::lock::{ConfigDirLock, lock_shared, remove_lock_file};
use super::request::{Attachment, CniCommand, OnFailure, PluginConfig};
use crate::alias::Alias;
use crate::netns::Netns;
use crate::pod_link::{Conflict, primary};
use crate::{agent_ns, guard, pod_link};

/// Runs a request and returns the text for standard output. `agent` is the path of the pinned agent namespace. An uninstallation
/// waits until requests that add guards or links have ended.
///
/// # Errors
/// If the guards or the link cannot be made. The error names pod, cause and remedy.
pub async fn run(command: CniCommand, agent: &Path) -> Result<String, CniError> {
    match command {
        CniCommand::Add(attachment) => {
            let _lock = lock_current(&attachment.config)?;
            // Without guards a pod must not start, whatever happens to its link.
            ensure_guards().await.map_err(|error| link_error(&attachment, &error))?;
            match add(&attachment, agent).await {
                Ok(()) => Ok(previous_result(attachment.config)),
                Err(error) if attachment.config.on_failure == OnFailure::Fail => Err(link_error(&attachment, &error)),
                Err(error) => {
                    // The runtime logs standard error. Source: `RawExec` in containernetworking/cni pkg/invoke.
                    eprintln!(
                        "{}; the pod starts, and its metadata requests can fail",
                        link_error(&attachment, &error)
                    );
                    Ok(previous_result(attachment.config))
                }
            }
        }
        CniCommand::Check(attachment) => match check(&attachment, agent).await {
            Ok(()) => Ok(String::new()),
            Err(error) => Err(link_error(&attachment, &error)),
        },
        CniCommand::PassThrough(config) => {
            let _lock = lock_current(&config)?;
            match ensure_guards().await {
                Ok(()) => Ok(previous_result(config)),
                Err(error) => Err(CniError::new(
                    CniErrorCode::Link,
                    "podmeta cannot add the guards of this node",
                    format!("{error:#}"),
                )),
            }
        }
        CniCommand::Del | CniCommand::Gc => Ok(String::new()),
        CniCommand::Status(config) => {
            let _lock = lock_current(&config)?;
            match ensure_guards().await.and(agent_ns::ensure(agent).await.map(drop)) {
                Ok(()) => Ok(String::new()),
                Err(error) => Err(CniError::new(
                    CniErrorCode::Link,
                    "podmeta cannot make links on this node",
                    format!("{error:#}"),
                )),
            }
        }
        CniCommand::Version => Ok(json!({"cniVersion": VERSIONS.last(), "supportedVersions": VERSIONS}).to_string()),
    }
}

fn previous_result(config: PluginConfig) -> String {
    config.prev_result.map_or_else(String::new, |result| result.get().to_owned())
}

/// Returns an error with pod, cause and remedy. A conflict names its own remedy.
fn link_error(attachment: &Attachment, error: &anyhow::Error) -> CniError {
    let message = format!("podmeta cannot make the metadata link of pod {}", attachment.pod_name);
    let remedy = match error.downcast_ref::<Conflict>() {
        Some(_) => "",
        None => "; the runtime retries; read the log of the link daemon on this node",
    };
    CniError::new(CniErrorCode::Link, &message, format!("{error:#}{remedy}"))
}

/// Locks the directory of CNI configurations. Returns `None` for a configuration that an administrator wrote.
///
/// # Errors
/// `TryAgainLater` if podmeta's configuration does not exist, or its source has changed since podmeta wrote it. It does not exist if
/// podmeta is not installed, or if the network plugin has no configuration.
fn lock_current(config: &PluginConfig) -> Result<Option<ConfigDirLock>, CniError> {
    let Some(source) = &config.source else { return Ok(None) };
    let try_again = |details| {
        CniError::new(CniErrorCode::TryAgainLater, "the CNI configuration is out of date: try again", details)
    };
    let directory = source.file.parent().unwrap_or(Path::new("/"));
    let ours = directory.join(FILE_NAME);
    let missing = || try_again(format!("{} does not exist", ours.display()));
    if !ours.exists() {
        return Err(missing());
    }
    let lock = match lock_shared(directory) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Err(try_again("podmeta is being removed from this node".to_owned())),
        Err(error) => return Err(try_again(format!("cannot lock {}: {error}", directory.display()))),
    };
    if !ours.exists() {
        remove_lock_file(directory);
        return Err(missing());
    }
    match std::fs::read(&source.file) {
        Ok(content) if sha256(&content) == source.sha256 => Ok(Some(lock)),
        _ => {
            let file = source.file.display();
            Err(try_again(format!("{file} has changed; podmeta updates its own configuration")))
        }
    }
}

async fn ensure_guards() -> Result<()> {
    let host = Netns::current().context("cannot open the node's network namespace")?;
    guard::ensure(&host).await.map(drop)
}

async fn add(attachment: &Attachment, agent: &Path) -> Result<()> {
    let agent = agent_ns::ensure(agent).await?;
    let (pod, alias) = pod(attachment).await?;
    pod_link::ensure(&agent, &pod, &alias, attachment.config.link_range).await?;
    pod_link::wait_until_active(&agent, &alias).await
}

async fn check(attachment: &Attachment, agent: &Path) -> Result<()> {
    let agent = Netns::open(agent).context("the agent namespace does not exist")?;
    let (pod, alias) = pod(attachment).await?;
    if !pod_link::is_complete(&agent, &pod, &alias).await? {
        bail!("the link is missing or incomplete: the link daemon repairs it");
    }
    Ok(())
}

/// Opens the pod's namespace and returns the alias of its link.
async fn pod(attachment: &Attachment) -> Result<(Netns, Alias)> {
    let path = &attachment.netns;
    let pod = Netns::open(path).with_context(|| format!("cannot open the pod's namespace {}", path.display()))?;
    let alias = primary::alias(&pod, &attachment.interface, &attachment.pod, &attachment.sandbox).await?;
    Ok((pod, alias))
}
