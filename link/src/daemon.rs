//! The link daemon of a node: checks guards, CNI configuration and the links of all pods, and repairs them.

mod bypasses;
mod cgroup_changes;
mod conflist;
mod guard_cgroups;
mod host_pods;
mod links;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::oneshot;

use crate::checks::SharedChecks;
use crate::cni::conflist::LinkSettings;
use crate::counters::Counters;
use crate::findings::SharedFindings;
use crate::host_pods::NodePods;
use crate::netns::Netns;
use crate::{agent_ns, guard, requirements};

/// Configuration of the daemon.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    /// Path of the pinned agent namespace.
    pub agent_namespace: PathBuf,
    /// Path of the bpf filesystem with the pins of the uplink guard, or `None` if the guard is off.
    pub guard_pins: Option<PathBuf>,
    /// Path of the bpf filesystem with the pins of the programs for pods on the host network, or `None` if those are not served.
    pub host_pods_pins: Option<PathBuf>,
    /// Pods on the host network that the operator leaves to the node's own metadata service.
    pub node_pods: Arc<NodePods>,
    /// Directory where cgroup v2 is mounted, or its parent if the node also has v1.
    pub cgroup_root: PathBuf,
    /// Namespaces whose pods on the host network may reach the node's own metadata service.
    pub node_metadata_namespaces: Vec<String>,
    /// Directory of CNI configurations.
    pub cni_config_dir: PathBuf,
    /// Socket of the container runtime.
    pub runtime_socket: PathBuf,
    /// Settings of the links.
    pub settings: LinkSettings,
}

/// Checks the requirements of the node. Adds the guards, writes the CNI configuration, redirects pods on the host network if that is on,
/// makes the links of running pods, and then repairs all of these. Returns only an error. Calls `is_ready` once, after the first check of
/// all.
///
/// # Errors
/// If the guards or the agent namespace cannot be made at the start, or a thread of the guards ends. Later failures
/// are logged and retried.
pub async fn run(
    config: DaemonConfig,
    counters: Arc<Counters>,
    findings: Arc<SharedFindings>,
    checks: Arc<SharedChecks>,
    is_ready: impl FnOnce(),
) -> Result<()> {
    let host = || Netns::current().context("cannot open the node's network namespace");
    for (kind, message) in requirements::check(&requirements::read(&host()?)) {
        findings.set(kind, Some(message));
    }
    guard::ensure(&host()?).await?;
    let guards = guard::repair::spawn(host()?, Arc::clone(&counters), Arc::clone(&findings), Arc::clone(&checks));
    let guards = guards.context("cannot start the guards' thread")?;
    let uplink_guard = spawn_uplink_guard(&config, host()?, &counters, &findings, &checks);
    let uplink_guard = uplink_guard.context("cannot start the uplink guard's thread")?;
    agent_ns::open_pinned(&config.agent_namespace).await?;
    let (conflist_tx, conflist_rx) = oneshot::channel();
    let (links_tx, links_rx) = oneshot::channel();
    let (host_pods_tx, host_pods_rx) = oneshot::channel();
    let ready = async {
        if conflist_rx.await.is_ok() && host_pods_rx.await.is_ok() && links_rx.await.is_ok() {
            checks.record_first_pass();
            is_ready();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        error = guards => Err(error.unwrap_or_else(|_| anyhow!("the guards' thread panicked"))),
        error = uplink_guard => Err(error.unwrap_or_else(|_| anyhow!("the uplink guard's thread panicked"))),
        () = guard_cgroups::run(&config, &findings, &checks) => Err(anyhow!("internal error: the task of the guard's cgroups ended")),
        () = conflist::run(&config, &counters, &findings, conflist_tx) => Err(anyhow!("internal error: the CNI task ended")),
        () = host_pods::run(&config, host()?, &findings, host_pods_tx) => Err(anyhow!("internal error: the task of pods on the host network ended")),
        () = links::run(&config, host()?, &counters, &checks, links_tx) => Err(anyhow!("internal error: the links' task ended")),
        () = bypasses::run(&config, host()?, &findings) => Err(anyhow!("internal error: the bypasses' task ended")),
        () = ready => Err(anyhow!("internal error: the readiness task ended")),
    }
}

/// Starts the thread of the uplink guard if the guard is on. The receiver gets an error if the thread ends.
fn spawn_uplink_guard(
    config: &DaemonConfig,
    host: Netns,
    counters: &Arc<Counters>,
    findings: &Arc<SharedFindings>,
    checks: &Arc<SharedChecks>,
) -> std::io::Result<impl Future<Output = Result<anyhow::Error, oneshot::error::RecvError>>> {
    let spawned = config.guard_pins.clone().map(|pins| {
        checks.require_uplink_guard();
        guard::uplink::repair::spawn(host, pins, Arc::clone(counters), Arc::clone(findings), Arc::clone(checks))
    });
    let receiver = spawned.transpose()?;
    Ok(async {
        match receiver {
            Some(receiver) => receiver.await,
            None => std::future::pending().await,
        }
    })
}
