//! The changes of each node, in the order of their resource versions. The feed keeps only the current state of each pod and
//! the version of its last change. An agent that was disconnected gets each changed pod once.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use podmeta_agent_api::{Epoch, ResourceVersion, WatchChange, WatchEvent, WorkloadList};
use podmeta_metadata::names::PodUid;
use podmeta_metadata::workload::PodRef;
use serde::{Serialize, Serializer};

use super::compiled_pod::{CompiledPod, PodUpdate, ProfileKey};

/// The number of deletions that are kept for each node. An agent that missed more must list again.
const MAX_DELETIONS: usize = 256;

/// The changes of one epoch.
#[derive(Debug)]
pub struct Feed {
    epoch: Epoch,
    /// The number of the last change.
    number: u64,
    nodes: HashMap<String, NodeFeed>,
    /// The number of the change that removed a node last.
    last_node_removal: u64,
}

/// The requested changes are not available: the agent must list again (410).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the resourceVersion is too old, or of another operator process: list again")]
pub struct VersionExpired;

#[derive(Debug, Default)]
struct NodeFeed {
    pods: HashMap<PodUid, FeedPod>,
    /// The last deleted pods, with the number of the change.
    deletions: VecDeque<(u64, PodUid)>,
    /// The number of the last deletion that is not kept any more.
    last_dropped_deletion: u64,
}

#[derive(Debug)]
struct FeedPod {
    /// The number of the change that added the pod.
    added: u64,
    /// The number of the pod's last change.
    modified: u64,
    compiled: Arc<CompiledPod>,
}

/// A pod as it is sent to an agent. Shares the compiled pod with the index.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedItem(Arc<CompiledPod>);

impl SharedItem {
    /// Returns the namespace, name and UID of the pod.
    #[must_use]
    pub fn pod(&self) -> &PodRef {
        self.0.item.outcome.pod()
    }
}

impl Serialize for SharedItem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.item.serialize(serializer)
    }
}

impl Feed {
    /// Creates an empty feed.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        Self { epoch, number: 0, nodes: HashMap::new(), last_node_removal: 0 }
    }

    /// Applies changed pods and returns the nodes whose agents get a change. Agents do not get findings, so a pod with only
    /// new findings is not a change.
    pub fn apply(&mut self, updates: Vec<PodUpdate>) -> Vec<String> {
        let mut changed_nodes = Vec::new();
        for PodUpdate { pod, node, compiled } in updates {
            let new = || NodeFeed { last_dropped_deletion: self.last_node_removal, ..NodeFeed::default() };
            let feed = self.nodes.entry(node.clone()).or_insert_with(new);
            if feed.apply(self.number + 1, pod, compiled) {
                self.number += 1;
                changed_nodes.push(node);
            }
        }
        changed_nodes.sort_unstable();
        changed_nodes.dedup();
        changed_nodes
    }

    /// Returns true if a node has pods.
    #[must_use]
    pub fn has_pods(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|node| !node.pods.is_empty())
    }

    /// Returns the profiles that apply to pods on the host network of a node.
    pub fn host_network_profiles(&self, node: &str) -> impl Iterator<Item = &ProfileKey> {
        let pods = self.nodes.get(node).into_iter().flat_map(|node| node.pods.values());
        pods.filter_map(|pod| pod.compiled.host_network_profile.as_ref())
    }

    /// Removes a deleted node. An agent on a new node with the same name must list again.
    pub fn remove_node(&mut self, node: &str) {
        if self.nodes.remove(node).is_some() {
            self.number += 1;
            self.last_node_removal = self.number;
        }
    }

    /// Returns all pods of a node.
    #[must_use]
    pub fn list(&self, node: &str) -> WorkloadList<SharedItem> {
        let pods = self.nodes.get(node).into_iter().flat_map(|node| node.pods.values());
        let items = pods.map(FeedPod::item).collect();
        WorkloadList { resource_version: self.version(self.number), items }
    }

    /// Returns up to `max_changes` changes of a node since a version, in order. If these are all, a bookmark with the
    /// current version follows.
    ///
    /// # Errors
    /// If the version is of another epoch, in the future, or older than the kept deletions.
    pub fn since(
        &self,
        node: &str,
        version: &ResourceVersion,
        max_changes: usize,
    ) -> Result<Vec<WatchEvent<SharedItem>>, VersionExpired> {
        if version.epoch != self.epoch || version.number > self.number {
            return Err(VersionExpired);
        }
        let mut changes = match self.nodes.get(node) {
            Some(feed) if version.number < feed.last_dropped_deletion => return Err(VersionExpired),
            Some(feed) => feed.since(version.number),
            None if version.number < self.last_node_removal => return Err(VersionExpired),
            None => Vec::new(),
        };
        changes.sort_unstable_by_key(|(number, _)| *number);
        let is_complete = changes.len() <= max_changes;
        changes.truncate(max_changes);
        let last = changes.last().map_or(version.number, |(number, _)| *number);
        let event = |(number, change): (u64, FeedChange<'_>)| WatchEvent {
            resource_version: self.version(number),
            change: change.to_watch_change(version.number),
        };
        let mut events: Vec<WatchEvent<SharedItem>> = changes.into_iter().map(event).collect();
        if is_complete && last < self.number {
            events.push(WatchEvent { resource_version: self.version(self.number), change: WatchChange::Bookmark });
        }
        Ok(events)
    }

    fn version(&self, number: u64) -> ResourceVersion {
        ResourceVersion { epoch: self.epoch.clone(), number }
    }
}

impl NodeFeed {
    /// Applies a changed pod. Returns true if the agent gets a change.
    fn apply(&mut self, number: u64, pod: PodUid, compiled: Option<Arc<CompiledPod>>) -> bool {
        match (self.pods.get_mut(&pod), compiled) {
            (Some(known), Some(compiled)) => {
                let is_same = known.compiled.item == compiled.item;
                if !is_same {
                    known.modified = number;
                }
                known.compiled = compiled;
                !is_same
            }
            (None, Some(compiled)) => {
                self.pods.insert(pod, FeedPod { added: number, modified: number, compiled });
                true
            }
            (Some(_), None) => {
                self.pods.remove(&pod);
                self.deletions.push_back((number, pod));
                if self.deletions.len() > MAX_DELETIONS
                    && let Some((dropped, _)) = self.deletions.pop_front()
                {
                    self.last_dropped_deletion = dropped;
                }
                true
            }
            (None, None) => false,
        }
    }

    fn since(&self, number: u64) -> Vec<(u64, FeedChange<'_>)> {
        let set = self.pods.values().filter(|pod| pod.modified > number);
        let set = set.map(|pod| (pod.modified, FeedChange::Set(pod)));
        let deleted = self.deletions.iter().filter(|(deleted, _)| *deleted > number);
        set.chain(deleted.map(|(deleted, uid)| (*deleted, FeedChange::Deleted(uid)))).collect()
    }
}

/// A change, by reference: only the changes that are sent are copied.
enum FeedChange<'f> {
    Set(&'f FeedPod),
    Deleted(&'f PodUid),
}

impl FeedChange<'_> {
    /// Returns the change for an agent that has all changes up to `number`.
    fn to_watch_change(&self, number: u64) -> WatchChange<SharedItem> {
        match self {
            Self::Set(pod) if pod.added > number => WatchChange::Added { object: Box::new(pod.item()) },
            Self::Set(pod) => WatchChange::Modified { object: Box::new(pod.item()) },
            Self::Deleted(uid) => WatchChange::Deleted { uid: (*uid).clone() },
        }
    }
}

impl FeedPod {
    fn item(&self) -> SharedItem {
        SharedItem(Arc::clone(&self.compiled))
    }
}
