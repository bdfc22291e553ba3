//! The link daemon of a node: checks guards, CNI configuration and the links of all pods, and repairs them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{MissedTickBehavior, interval};

use crate::cni::conflist::Settings;
use crate::cri::{Runtime, Sandbox};
use crate::guard::Repairs;
use crate::install::ConflistState;
use crate::netns::Netns;
use crate::pod_link::{Outcome, primary};
use crate::{agent_ns, guard, install, pod_link};

/// Interval of checks. The daemon repairs what another program removes after at most this time.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Configuration of the daemon.
#[derive(Clone, Debug)]
pub struct Config {
    /// Path of the pinned agent namespace.
    pub agent_namespace: PathBuf,
    /// Directory of CNI configurations.
    pub cni_config_dir: PathBuf,
    /// Socket of the container runtime.
    pub runtime_socket: PathBuf,
    /// Settings of the links.
    pub settings: Settings,
}

/// Adds the guards, makes the links of the pods that run already, and then repeats both at an interval. Returns only an
/// error. Calls `is_ready` once, after the first complete pass.
///
/// # Errors
/// If the guards or the agent namespace cannot be made at the start. Later failures are logged and retried.
pub async fn run(config: Config, is_ready: impl FnOnce()) -> Result<()> {
    let host = Netns::current().context("cannot open the node's network namespace")?;
    guard::ensure(&host).await?;
    agent_ns::ensure(&config.agent_namespace).await?;
    let mut daemon = Daemon {
        host,
        runtime: Runtime::new(config.runtime_socket.clone()),
        config,
        conflist: None,
        failed: HashSet::new(),
    };
    let mut is_ready = Some(is_ready);
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match daemon.check().await {
            Ok(()) => {
                if let Some(is_ready) = is_ready.take() {
                    is_ready();
                }
            }
            Err(error) => tracing::error!(error = format!("{error:#}"), "cannot check the node; retrying"),
        }
    }
}

struct Daemon {
    config: Config,
    host: Netns,
    runtime: Runtime,
    /// State of the CNI configuration that was logged last.
    conflist: Option<ConflistState>,
    /// Sandboxes whose failure was logged.
    failed: HashSet<String>,
}

impl Daemon {
    /// Runs one pass. The guards come first.
    async fn check(&mut self) -> Result<()> {
        let repairs = guard::ensure(&self.host).await?;
        if repairs != Repairs::default() {
            tracing::warn!(rules = repairs.rules, tables = repairs.tables, "guards were missing; added them again");
        }
        let agent = agent_ns::ensure(&self.config.agent_namespace).await?;
        self.write_conflist()?;
        self.make_links(&agent).await
    }

    /// Writes the CNI configuration and logs a change of its state.
    fn write_conflist(&mut self) -> Result<()> {
        let state = install::write_conflist(&self.config.cni_config_dir, self.config.settings)?;
        if self.conflist.as_ref() != Some(&state) {
            match &state {
                ConflistState::Current => {}
                ConflistState::Written => tracing::info!("wrote the CNI configuration"),
                ConflistState::Absent(reason) => tracing::warn!(%reason, "no CNI configuration; new pods get no link"),
            }
            self.conflist = Some(state);
        }
        Ok(())
    }

    /// Makes the links of sandboxes that have none. A failure affects one pod only. It is logged once and retried.
    async fn make_links(&mut self, agent: &Netns) -> Result<()> {
        let sandboxes = self.runtime.running_sandboxes().await?;
        let linked = pod_link::list(agent).await?.into_iter().map(|alias| alias.sandbox.as_str().to_owned());
        let linked = linked.collect::<HashSet<_>>();
        self.failed.retain(|id| sandboxes.iter().any(|sandbox| sandbox.id.as_str() == id));
        for sandbox in sandboxes.into_iter().filter(|sandbox| !linked.contains(sandbox.id.as_str())) {
            let pod = &sandbox.pod_name;
            match self.make_link(agent, &sandbox).await {
                Ok(Some(Outcome::Made)) => tracing::info!(pod, "made the link of a running pod"),
                Ok(Some(Outcome::Kept) | None) => {}
                Err(error) => {
                    if self.failed.insert(sandbox.id.as_str().to_owned()) {
                        tracing::error!(pod, error = format!("{error:#}"), "cannot make the link of a pod; retrying");
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes the link of one sandbox. Returns `None` for a pod on the host network.
    async fn make_link(&mut self, agent: &Netns, sandbox: &Sandbox) -> Result<Option<Outcome>> {
        let Some(path) = self.runtime.network_namespace(&sandbox.id).await? else { return Ok(None) };
        let pod = Netns::open(&path).with_context(|| format!("cannot open the namespace {}", path.display()))?;
        if pod.id()? == self.host.id()? {
            return Ok(None);
        }
        let alias = primary::alias(&pod, primary::PRIMARY_INTERFACE, &sandbox.pod, &sandbox.id).await?;
        pod_link::ensure(agent, &pod, &alias, self.config.settings.link_range).await.map(Some)
    }
}

/// Removes everything from the node: CNI configuration, links with the agent namespace, and the guards last.
///
/// # Errors
/// If a part cannot be removed. The message names the part.
pub async fn uninstall(agent_namespace: &Path, cni_config_dir: &Path) -> Result<()> {
    install::remove_conflist(cni_config_dir)?;
    agent_ns::remove(agent_namespace)?;
    guard::remove(&Netns::current().context("cannot open the node's network namespace")?).await
}
