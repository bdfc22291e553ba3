//! Finds ways past the guards: network devices in pods, and translators of addresses on the node. Each one is a finding.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use podmeta_metadata::node_finding::NodeFindingKind;
use tokio::task::spawn_blocking;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::DaemonConfig;
use crate::cri::{RuntimeClient, Sandbox};
use crate::findings::SharedFindings;
use crate::nat64;
use crate::netns::Netns;
use crate::pod_devices::{self, Device, GuardedDevices, PodNamespace};

/// Interval of checks. A device in a pod causes no event on the node.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Checks the devices of pods and the translators of the node at an interval. A container runtime that does not respond delays
/// the first check only.
pub(super) async fn run(config: &DaemonConfig, host: Netns, findings: &SharedFindings) {
    let host = Arc::new(host);
    tokio::join!(check_devices(config, Arc::clone(&host), findings), check_translators(&host, findings));
}

async fn check_translators(host: &Netns, findings: &SharedFindings) {
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        match nat64::find(host).await {
            Ok(finding) => findings.set(NodeFindingKind::Nat64, finding),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "cannot check the node for translators of addresses; keeping the last result and retrying"
            ),
        }
    }
}

async fn check_devices(config: &DaemonConfig, host: Arc<Netns>, findings: &SharedFindings) {
    let mut devices = DeviceCheck::new(config, host);
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        match devices.check().await {
            Ok(found) => findings.set(NodeFindingKind::PodDevices, pod_devices::finding(&found)),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "cannot check the network devices of pods; keeping the last result and retrying"
            ),
        }
    }
}

fn ticks() -> Interval {
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Finds the devices of pods.
struct DeviceCheck {
    host: Arc<Netns>,
    runtime: RuntimeClient,
    guarded: GuardedDevices,
    /// Paths of the network namespaces by sandbox ID. `None` for a sandbox without one of its own.
    paths: HashMap<String, Option<PathBuf>>,
}

impl DeviceCheck {
    fn new(config: &DaemonConfig, host: Arc<Netns>) -> Self {
        let runtime = RuntimeClient::new(config.runtime_socket.clone());
        let guarded = if config.guard_pins.is_some() { GuardedDevices::Stacked } else { GuardedDevices::None };
        Self { host, runtime, guarded, paths: HashMap::new() }
    }

    /// Returns the devices of the running pods that lead past the guards.
    async fn check(&mut self) -> Result<BTreeMap<String, Vec<Device>>> {
        let sandboxes = self.runtime.running_sandboxes().await?;
        let running = sandboxes.iter().map(|sandbox| sandbox.id.as_str()).collect::<HashSet<_>>();
        self.paths.retain(|id, _| running.contains(id.as_str()));
        let mut pods = Vec::new();
        for sandbox in sandboxes {
            if let Some(path) = self.path(&sandbox).await {
                pods.push(PodNamespace { pod_name: sandbox.pod_name, path });
            }
        }
        let (host, guarded) = (self.host.id()?, self.guarded);
        spawn_blocking(move || pod_devices::find(host, &pods, guarded))
            .await
            .context("internal error: the check panicked")
    }

    /// Returns the path of a sandbox's network namespace, or `None` if it has none of its own or the runtime does not report it.
    async fn path(&mut self, sandbox: &Sandbox) -> Option<PathBuf> {
        if let Some(path) = self.paths.get(sandbox.id.as_str()) {
            return path.clone();
        }
        match self.runtime.details(&sandbox.id).await {
            Ok(details) => {
                self.paths.insert(sandbox.id.as_str().to_owned(), details.network_namespace.clone());
                details.network_namespace
            }
            Err(error) => {
                let (pod, error) = (&sandbox.pod_name, format!("{error:#}"));
                tracing::debug!(%pod, error, "cannot read the network namespace of a pod; retrying");
                None
            }
        }
    }
}
