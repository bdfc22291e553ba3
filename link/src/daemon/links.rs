//! Makes the links of pods that have none. The CNI plugin makes those of new pods.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

use super::DaemonConfig;
use crate::checks::SharedChecks;
use crate::counters::Counters;
use crate::cri::{RuntimeClient, Sandbox};
use crate::netns::Netns;
use crate::pod_link::{LinkOutcome, primary};
use crate::{agent_ns, pod_link};

/// Interval of checks. A pod that the plugin did not link waits at most this time.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Result of the last attempt for a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SandboxState {
    /// It has a complete link. The index of the agent end is `None` until the next check.
    Linked(Option<u32>),
    /// It uses the host's network and needs no link.
    HostNetwork,
    /// The attempt failed, which was logged. The pod may be ending.
    Failed,
    /// The last two attempts or more failed.
    FailedAgain,
}

/// Checks the sandboxes of the node, and makes missing links.
struct LinkMaker<'a> {
    config: &'a DaemonConfig,
    counters: &'a Counters,
    checks: &'a SharedChecks,
    host: Netns,
    runtime: RuntimeClient,
    /// States by sandbox ID.
    states: HashMap<String, SandboxState>,
}

/// Checks the links at an interval. Sends to `checked_tx` once, after the first pass.
pub(super) async fn run(
    config: &DaemonConfig,
    host: Netns,
    counters: &Counters,
    checks: &SharedChecks,
    checked_tx: oneshot::Sender<()>,
) {
    let runtime = RuntimeClient::new(config.runtime_socket.clone());
    let mut maker = LinkMaker { config, counters, checks, host, runtime, states: HashMap::new() };
    let (mut checked_tx, mut passes) = (Some(checked_tx), 0);
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match maker.check().await {
            Ok(()) => {
                passes = 2.min(passes + 1);
                if is_first_pass_complete(passes, &maker.states) {
                    let _closed = checked_tx.take().map(|checked_tx| checked_tx.send(()));
                }
            }
            Err(error) => tracing::error!(error = format!("{error:#}"), "cannot check the links of pods; retrying"),
        }
    }
}

/// Returns true if every sandbox was tried, and those that failed were tried twice. `passes` is the number of checks without a
/// failure of the runtime.
fn is_first_pass_complete(passes: u32, states: &HashMap<String, SandboxState>) -> bool {
    passes >= 2 || states.values().all(|state| *state != SandboxState::Failed)
}

/// Returns true if the link that was found is the known one.
fn is_same_link(known: Option<u32>, found: Option<u32>) -> bool {
    found.is_some() && (known.is_none() || known == found)
}

impl LinkMaker<'_> {
    /// Makes the links of sandboxes that have none. A failure affects one pod only. It is logged once and retried.
    async fn check(&mut self) -> Result<()> {
        let sandboxes = self.runtime.running_sandboxes().await?;
        let agent = agent_ns::open_pinned(&self.config.agent_namespace).await?;
        let links = pod_link::list(&agent).await?.into_iter();
        let links = links.map(|(interface, alias)| (alias.sandbox.as_str().to_owned(), interface));
        let links = links.collect::<HashMap<_, _>>();
        let running = sandboxes.iter().map(|sandbox| sandbox.id.as_str()).collect::<HashSet<_>>();
        self.states.retain(|id, _| running.contains(id.as_str()));
        for sandbox in &sandboxes {
            let id = sandbox.id.as_str();
            match self.states.get(id) {
                Some(SandboxState::HostNetwork) => {}
                // An alias alone does not prove a complete link: a program can end while it makes one, and a pod with
                // NET_ADMIN can replace an interface.
                Some(SandboxState::Linked(known)) if is_same_link(*known, links.get(id).copied()) => {
                    self.states.insert(id.to_owned(), SandboxState::Linked(links.get(id).copied()));
                }
                previous => {
                    let has_failed = matches!(previous, Some(SandboxState::Failed | SandboxState::FailedAgain));
                    let state = self.check_sandbox(&agent, sandbox, has_failed).await;
                    self.states.insert(id.to_owned(), state);
                    // Attempts can be slow, and the result of the last pass expires.
                    self.record_links(&sandboxes);
                }
            }
        }
        self.record_links(&sandboxes);
        Ok(())
    }

    /// Records the sandboxes whose link is known to be missing.
    fn record_links(&self, sandboxes: &[Sandbox]) {
        let is_unlinked = |sandbox: &&Sandbox| self.states.get(sandbox.id.as_str()) == Some(&SandboxState::FailedAgain);
        let unlinked = sandboxes.iter().filter(is_unlinked).map(|sandbox| sandbox.pod_name.clone()).collect();
        self.checks.record_links(unlinked, Instant::now());
    }

    /// Makes the link of one sandbox unless it is complete. Logs and counts the result.
    async fn check_sandbox(&mut self, agent: &Netns, sandbox: &Sandbox, has_failed: bool) -> SandboxState {
        let pod = &sandbox.pod_name;
        match self.make_link(agent, sandbox).await {
            Ok(Some(LinkOutcome::Made)) => {
                self.counters.add_link_made();
                tracing::info!(%pod, "made the link of a running pod");
                SandboxState::Linked(None)
            }
            Ok(Some(LinkOutcome::Kept)) => SandboxState::Linked(None),
            Ok(None) => SandboxState::HostNetwork,
            Err(error) => {
                self.counters.add_link_failed();
                if has_failed {
                    return SandboxState::FailedAgain;
                }
                tracing::error!(%pod, error = format!("{error:#}"), "cannot make the link of a pod; retrying");
                SandboxState::Failed
            }
        }
    }

    /// Makes the link of one sandbox. Returns `None` for a pod on the host network.
    async fn make_link(&mut self, agent: &Netns, sandbox: &Sandbox) -> Result<Option<LinkOutcome>> {
        let Some(path) = self.runtime.details(&sandbox.id).await?.network_namespace else { return Ok(None) };
        let pod = Netns::open(&path).with_context(|| format!("cannot open the namespace {}", path.display()))?;
        if pod.id()? == self.host.id()? {
            return Ok(None);
        }
        let alias = primary::alias(&pod, primary::PRIMARY_INTERFACE, &sandbox.pod, &sandbox.id).await?;
        pod_link::ensure(agent, &pod, &alias, self.config.settings.link_range).await.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_pass_is_complete_when_failed_sandboxes_were_tried_twice() {
        let states = |state| HashMap::from([("a".to_owned(), SandboxState::Linked(None)), ("b".to_owned(), state)]);
        assert!(is_first_pass_complete(1, &states(SandboxState::HostNetwork)));
        assert!(!is_first_pass_complete(1, &states(SandboxState::Failed)));
        assert!(is_first_pass_complete(2, &states(SandboxState::FailedAgain)));
        assert!(is_first_pass_complete(2, &states(SandboxState::Failed)), "a sandbox that is new in the second pass");
    }
}
