//! The pods of the node as of one resource version of the operator, published to the edge.

mod pods;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use podmeta_agent_api::calls::{PodReport, ProfileGeneration, Report};
use podmeta_agent_api::{ResourceVersion, WatchChange, WatchEvent, WorkloadItem, WorkloadList};
use podmeta_link::protocol::HostPodsMode;
use podmeta_metadata::compile::Outcome;
use podmeta_metadata::credentials::CredentialsFailure;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::node_finding::NodeFindings;
use podmeta_metadata::node_guard::NodeGuardState;
use podmeta_metadata::workload::Link;
use tokio::sync::watch;
use tokio::time::Instant;

use self::pods::{EarlierItems, NodePods, PodLink, retain_changed, reuse, roles, uid};
use crate::broker::OperatorBroker;
use crate::edge::Edge;
use crate::serve::state_file::SavedState;

/// Seconds after a request without a token during which a pod is reported as tokenless.
const TOKENLESS_WINDOW_SECONDS: i64 = 24 * 3600;

/// Age from which a guard state is reported as unknown. The link daemon is called every 5 seconds.
const MAX_GUARD_AGE: Duration = Duration::from_secs(60);

/// The pods of the node. Items that a list or event does not change are shared, not copied.
pub struct NodeState {
    pods: Mutex<NodePods>,
    edge: Arc<Edge>,
    broker: Arc<OperatorBroker>,
    /// The number of changes.
    changes: watch::Sender<u64>,
    /// Findings about the node.
    findings: watch::Sender<NodeFindings>,
    /// State of the node's guards and the time of its check, or `None` until the link daemon was called.
    guard: watch::Sender<Option<(NodeGuardState, Instant)>>,
    /// Redirection of pods on the host network to this agent.
    host_pods: watch::Sender<HostPodsMode>,
    /// The number of times that a pod got or lost its link.
    link_changes: watch::Sender<u64>,
}

impl NodeState {
    /// Creates the state from saved pods and publishes them. `saved.broker_state` is not used here.
    #[must_use]
    pub fn new(edge: Arc<Edge>, broker: Arc<OperatorBroker>, saved: SavedState) -> Arc<Self> {
        let items = saved.items.into_iter().map(|item| (uid(&item).clone(), item)).collect();
        let pods = NodePods { version: saved.resource_version, items, links: BTreeMap::new() };
        edge.publish(pods.items.keys().filter_map(|uid| Some((uid.clone(), pods.view(uid)?))));
        Arc::new(Self {
            pods: Mutex::new(pods),
            edge,
            broker,
            changes: watch::Sender::default(),
            findings: watch::Sender::default(),
            guard: watch::Sender::default(),
            host_pods: watch::Sender::default(),
            link_changes: watch::Sender::default(),
        })
    }

    /// Returns the resource version to continue the watch from, or `None` if the pods must be listed.
    #[must_use]
    pub fn version(&self) -> Option<ResourceVersion> {
        self.lock().version.clone()
    }

    /// Subscribes to changes of the pods.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Subscribes to changes of the findings about the node.
    #[must_use]
    pub fn findings(&self) -> watch::Receiver<NodeFindings> {
        self.findings.subscribe()
    }

    /// Subscribes to changes of the state of the node's guards. The value is `None` until the link daemon was called.
    #[must_use]
    pub fn guard(&self) -> watch::Receiver<Option<(NodeGuardState, Instant)>> {
        self.guard.subscribe()
    }

    /// Sets the state of the node's guards.
    pub fn set_guard(&self, guard: NodeGuardState) {
        self.guard.send_if_modified(|known| {
            let has_changed = known.as_ref().is_none_or(|(known, _)| *known != guard);
            *known = Some((guard, Instant::now()));
            has_changed
        });
    }

    /// Sets whether pods on the host network are redirected to this agent.
    pub fn set_host_pods(&self, mode: HostPodsMode) {
        self.host_pods.send_if_modified(|known| std::mem::replace(known, mode) != mode);
    }

    /// Returns the pods that the operator leaves to the node's own metadata service, or `None` until the pods are known.
    #[must_use]
    pub fn node_pods(&self) -> Option<BTreeSet<PodUid>> {
        let pods = self.lock();
        if pods.items.is_empty() && pods.version.is_none() {
            return None;
        }
        let is_of_node = |(_, item): &(&PodUid, &Arc<WorkloadItem>)| matches!(item.outcome, Outcome::Node(_));
        Some(pods.items.iter().filter(is_of_node).map(|(uid, _)| uid.clone()).collect())
    }

    /// Subscribes to pods that get or lose their link.
    #[must_use]
    pub fn link_changes(&self) -> watch::Receiver<u64> {
        self.link_changes.subscribe()
    }

    /// Sets the findings about the node.
    pub fn set_findings(&self, findings: NodeFindings) {
        self.findings.send_if_modified(|known| {
            let has_changed = *known != findings;
            *known = findings;
            has_changed
        });
    }

    /// Replaces all pods. Pods that are not in the list are removed.
    pub fn apply_list(&self, list: WorkloadList) {
        let mut pods = self.lock();
        let before = std::mem::take(&mut pods.items);
        let mut earlier: EarlierItems =
            before.iter().map(|(uid, item)| (uid.clone(), Some(Arc::clone(item)))).collect();
        for item in list.items {
            let uid = uid(&item).clone();
            earlier.entry(uid.clone()).or_default();
            let item = reuse(before.get(&uid), item);
            pods.items.insert(uid, item);
        }
        pods.version = Some(list.resource_version);
        self.publish(&pods, &retain_changed(earlier, &pods));
    }

    /// Applies events in order.
    pub fn apply_events(&self, events: Vec<WatchEvent>) {
        let mut pods = self.lock();
        let mut earlier = EarlierItems::new();
        for WatchEvent { resource_version, change } in events {
            match change {
                WatchChange::Added { object } | WatchChange::Modified { object } => {
                    let uid = uid(&object).clone();
                    let before = pods.items.get(&uid).cloned();
                    let item = reuse(before.as_ref(), *object);
                    pods.items.insert(uid.clone(), item);
                    earlier.entry(uid).or_insert(before);
                }
                WatchChange::Deleted { uid } => {
                    let before = pods.items.remove(&uid);
                    earlier.entry(uid).or_insert(before);
                }
                WatchChange::Bookmark => {}
            }
            pods.version = Some(resource_version);
        }
        let changed = retain_changed(earlier, &pods);
        if !changed.is_empty() {
            self.publish(&pods, &changed);
        }
    }

    /// Removes all links, because they belong to an agent namespace that was replaced.
    pub fn clear_links(&self) {
        let mut pods = self.lock();
        let removed = std::mem::take(&mut pods.links);
        self.edge.update(removed.keys().map(|uid| (uid.clone(), pods.view(uid))));
        self.link_changes.send_modify(|changes| *changes += 1);
    }

    /// Sets the link of a pod's sandbox.
    pub fn set_link(&self, pod: &PodUid, sandbox: &str, link: Link) {
        let mut pods = self.lock();
        let before = pods.links.insert(pod.clone(), PodLink { sandbox: sandbox.to_owned(), link });
        self.edge.update([(pod.clone(), pods.view(pod))]);
        if before.is_none() {
            self.link_changes.send_modify(|changes| *changes += 1);
        }
    }

    /// Removes the link of a pod, unless the pod has another sandbox now.
    pub fn remove_link(&self, pod: &PodUid, sandbox: &str) {
        let mut pods = self.lock();
        if pods.links.get(pod).is_some_and(|link| link.sandbox == sandbox) {
            pods.links.remove(pod);
            self.edge.update([(pod.clone(), pods.view(pod))]);
            self.link_changes.send_modify(|changes| *changes += 1);
        }
    }

    /// Forgets the resource version, so that the pods are listed next. The pods stay published.
    pub fn request_list(&self) {
        self.lock().version = None;
    }

    /// Returns the UID of the pod `NAMESPACE/NAME`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<PodUid> {
        let pods = self.lock();
        let found = pods.items.iter().find(|(_, item)| item.outcome.pod().to_string() == name);
        found.map(|(uid, _)| uid.clone())
    }

    /// Returns the state to save. It shares the items.
    #[must_use]
    pub fn state(&self) -> SavedState {
        let pods = self.lock();
        SavedState {
            resource_version: pods.version.clone(),
            items: pods.items.values().cloned().collect(),
            broker_state: self.broker.saved_state(),
        }
    }

    /// Returns the report for the leader at a time in seconds.
    #[must_use]
    pub fn report(&self, now: i64) -> Report {
        let mut outcomes = self.broker.outcomes();
        let pods = self.lock();
        let report_pod = |(uid, item): (&PodUid, &Arc<WorkloadItem>)| {
            let Outcome::Served(workload) = &item.outcome else { return None };
            let profile = workload.profile.as_ref();
            let profile =
                profile.map(|profile| ProfileGeneration { uid: profile.uid.clone(), generation: profile.generation });
            let last_tokenless = self.edge.pod(uid).and_then(|pod| pod.last_tokenless());
            let tokenless = last_tokenless.is_some_and(|second| now - second < TOKENLESS_WINDOW_SECONDS);
            let outcomes = outcomes.remove(uid).unwrap_or_default();
            let cause = |(dialect, failure): (&Dialect, &Option<CredentialsFailure>)| {
                failure.as_ref().map(|failure| (*dialect, failure.cause))
            };
            let causes = outcomes.iter().filter_map(cause).collect();
            let message = |failure: Option<CredentialsFailure>| failure.map(|failure| failure.message);
            let credentials = outcomes.into_iter().map(|(dialect, failure)| (dialect, message(failure))).collect();
            let linked = Some(pods.links.contains_key(uid));
            Some((uid.clone(), PodReport { profile, credentials, causes, tokenless, linked }))
        };
        let reports = pods.items.iter().filter_map(report_pod).collect();
        let guard = self.guard.borrow().clone().filter(|(_, checked)| checked.elapsed() < MAX_GUARD_AGE);
        let guard = guard.map(|(guard, _)| guard).unwrap_or_default();
        let host_pods = *self.host_pods.borrow() == HostPodsMode::Served;
        Report { pods: reports, findings: self.findings.borrow().clone(), guard, host_pods }
    }

    fn lock(&self) -> MutexGuard<'_, NodePods> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes changed pods. Removes the broker's data of pods that are gone or whose roles changed.
    fn publish(&self, pods: &NodePods, changed: &EarlierItems) {
        self.broker.retain(|uid| match (pods.items.get(uid), changed.get(uid)) {
            (None, _) => false,
            (Some(now), Some(Some(before))) => roles(before) == roles(now),
            (Some(_), Some(None) | None) => true,
        });
        self.edge.update(changed.keys().map(|uid| (uid.clone(), pods.view(uid))));
        self.changes.send_modify(|changes| *changes += 1);
    }
}
