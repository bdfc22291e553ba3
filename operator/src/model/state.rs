//! The operator's state: the index, the feed of each node and the reports of node agents. Only the reconcile task changes it, by
//! applying [`StateUpdate`]s.

mod reports;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};
use podmeta_agent_api::Epoch;
use podmeta_agent_api::calls::Report;
use podmeta_crds::metadataprofile::MetadataProfileStatus;
use podmeta_metadata::compile::Settings;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::node_finding::NodeFindings;
use podmeta_metadata::profile::ProfileRef;

use super::compiled_pod::{CompiledPod, ProfileKey};
use super::feed::Feed;
use super::index::{CompileBatch, CompiledPods, Index};
use super::node_guard::{GuardedCondition, NodeIncarnation, ReportedGuard};
use super::update::StateUpdate;

pub(super) use reports::clean;

/// Time for which a deleted pod still gets data after the end of its grace period. Without a limit, an attacker on a node could get
/// the data of a deleted pod forever: its kubelet would not confirm that the pod has ended.
const MAX_OVERTIME: SignedDuration = SignedDuration::from_mins(5);

/// The state.
#[derive(Debug)]
pub struct OperatorState {
    pub(super) index: Index,
    feed: Feed,
    /// The last report of each node's agent. Empty unless this replica is the leader.
    pub(super) reports: HashMap<String, Report>,
    /// The findings of the reports, by node. Nodes without findings have no entry.
    node_findings: BTreeMap<String, NodeFindings>,
    /// The guard states of the reports, by node.
    pub(super) node_guards: HashMap<String, ReportedGuard>,
    /// The conditions `podmeta.dev/Guarded` in the API server, by node.
    pub(super) guarded_conditions: HashMap<String, GuardedCondition>,
    /// The object and the boot of each node that exists.
    node_incarnations: HashMap<String, NodeIncarnation>,
    /// Deleted nodes whose feed still has pods.
    deleted_nodes: BTreeSet<String>,
    is_leader: bool,
}

impl OperatorState {
    /// Creates an empty state. `epoch` is part of the resource versions that agents get.
    #[must_use]
    pub fn new(settings: Settings, epoch: Epoch) -> Self {
        Self {
            index: Index::new(settings),
            feed: Feed::new(epoch),
            reports: HashMap::new(),
            node_findings: BTreeMap::new(),
            node_guards: HashMap::new(),
            guarded_conditions: HashMap::new(),
            node_incarnations: HashMap::new(),
            deleted_nodes: BTreeSet::new(),
            is_leader: false,
        }
    }

    /// Applies an update.
    pub fn apply(&mut self, update: StateUpdate) {
        match update {
            StateUpdate::Pod { facts, addresses } => self.index.set_pod(facts, addresses),
            StateUpdate::PodDeleted(uid) => self.index.remove_pod(&uid),
            StateUpdate::Namespace(facts) => self.index.set_namespace(&facts.metadata.name.clone(), Some(facts)),
            StateUpdate::NamespaceDeleted(name) => self.index.set_namespace(&name, None),
            StateUpdate::Node { facts, incarnation, guarded } => {
                let name = facts.metadata.name.clone();
                self.deleted_nodes.remove(&name);
                self.set_incarnation(&name, incarnation);
                self.set_guarded(&name, guarded);
                self.index.set_node(&name, Some(facts));
            }
            StateUpdate::NodeDeleted(name) => {
                self.index.set_node(&name, None);
                self.set_guarded(&name, None);
                // A new node can get the name immediately. The report is about the old one.
                self.node_incarnations.remove(&name);
                self.remove_report(&name);
                self.deleted_nodes.insert(name);
            }
            StateUpdate::Policy(object) => self.index.set_policy(*object),
            StateUpdate::PolicyDeleted(name) => self.index.remove_policy(&name),
            StateUpdate::Profile(object) => self.index.set_profile(*object),
            StateUpdate::ProfileDeleted(key) => self.index.remove_profile(&key),
            StateUpdate::Secret { namespace, name, data } => self.index.set_secret(namespace, name, data),
            StateUpdate::SecretsUnread(scope) => self.index.set_secrets_listed(scope, false),
            StateUpdate::SecretsListed(scope) => self.index.set_secrets_listed(scope, true),
            StateUpdate::ConfigMap { namespace, name, values } => {
                self.index.set_config_map(&namespace, &name, values);
            }
            StateUpdate::ReferenceDropped { object, keys } => self.index.remove_config_map_keys(&object, &keys),
            StateUpdate::ListComplete(_) => {}
            StateUpdate::Leadership(is_leader) => self.set_leader(is_leader),
            StateUpdate::Report { node, report, received, recorded } => {
                // The agent may have disconnected.
                let _disconnected = recorded.send(self.record_report(&node, report, received));
            }
            StateUpdate::StatusWritten { profile, status, applied } => {
                self.record_written_status(&profile, status);
                // The status writer may have stopped.
                let _stopped = applied.send(());
            }
            StateUpdate::GuardedWritten { node, uid, condition } => {
                // The node may have been deleted or replaced meanwhile.
                if self.node_incarnations.get(&node).is_some_and(|incarnation| incarnation.uid == uid) {
                    self.set_guarded(&node, Some(condition));
                }
            }
        }
    }

    /// Returns the inputs of pending pods; see [`Index::take_batch`].
    #[must_use]
    pub fn take_batch(&mut self, max_pods: usize) -> CompileBatch {
        self.index.take_batch(max_pods)
    }

    /// Stores compiled pods. Returns the nodes whose feed changed, and the number of changed pods.
    pub fn apply_compiled(&mut self, batch: &CompileBatch, compiled: CompiledPods) -> (Vec<String>, usize) {
        let updates = self.index.apply_compiled(batch, compiled);
        let changed_pods = updates.len();
        let nodes = self.feed.apply(updates);
        // The pods of a deleted node can be withdrawn in several batches.
        let feed = &mut self.feed;
        self.deleted_nodes.retain(|node| {
            let has_pods = feed.has_pods(node);
            if !has_pods {
                feed.remove_node(node);
            }
            has_pods
        });
        (nodes, changed_pods)
    }

    /// Returns true if pods must be compiled.
    #[must_use]
    pub fn has_pending_pods(&self) -> bool {
        self.index.has_pending_pods()
    }

    /// Starts the initial sync; see [`Index::begin_initial_sync`].
    pub fn begin_initial_sync(&mut self) {
        self.index.begin_initial_sync();
    }

    /// Returns true while pods of the initial sync are not compiled.
    #[must_use]
    pub fn has_initial_pods(&self) -> bool {
        self.index.has_initial_pods()
    }

    /// Returns true if this replica is the leader.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.is_leader
    }

    /// Returns the index.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Returns the findings that agents report, by node. Empty unless this replica is the leader.
    #[must_use]
    pub fn node_findings(&self) -> &BTreeMap<String, NodeFindings> {
        &self.node_findings
    }

    /// Returns the feed.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Returns true if the node exists and the pod is bound to it.
    #[must_use]
    pub fn is_bound(&self, node: &str, uid: &PodUid) -> bool {
        self.index.has_node(node) && self.index.pod(uid).is_some_and(|(bound, _)| bound == node)
    }

    /// Returns a compiled pod if it is bound to this node. Mirror pods are excluded: they have no credentials, user data or
    /// documents.
    #[must_use]
    pub fn pod_on_node(&self, node: &str, uid: &PodUid) -> Option<&CompiledPod> {
        let (bound, compiled) = self.index.pod(uid)?;
        compiled.filter(|_| bound == node && !self.index.is_mirror(uid)).map(AsRef::as_ref)
    }

    /// Returns true if a pod was deleted, and 5 minutes have passed since the end of its grace period.
    #[must_use]
    pub fn has_ended(&self, uid: &PodUid, now: Timestamp) -> bool {
        self.index.deletion_timestamp(uid).is_some_and(|deletion| now.duration_since(deletion) > MAX_OVERTIME)
    }

    /// Returns and clears the profiles whose status may have changed.
    pub fn take_changed_profiles(&mut self) -> BTreeSet<ProfileKey> {
        self.index.take_changed_profiles()
    }

    /// A new leader writes the status of every profile. A former leader drops the reports: agents send them to the new one.
    fn set_leader(&mut self, is_leader: bool) {
        self.is_leader = is_leader;
        if is_leader {
            let profiles: Vec<ProfileKey> = self.index.profile_keys().collect();
            self.index.mark_changed(profiles);
        } else {
            self.reports.clear();
            self.node_findings.clear();
            self.node_guards.clear();
        }
    }

    /// Returns the UID of a node, or an empty text if it does not exist.
    pub(super) fn node_uid(&self, node: &str) -> String {
        self.node_incarnations.get(node).map(|incarnation| incarnation.uid.clone()).unwrap_or_default()
    }

    /// Sets the object and the boot of a node. A report about another object does not count, nor do guards of an earlier boot.
    fn set_incarnation(&mut self, node: &str, incarnation: NodeIncarnation) {
        match self.node_incarnations.get(node) {
            Some(known) if known.uid != incarnation.uid => self.remove_report(node),
            Some(known) if incarnation.is_reboot_of(known) => drop(self.node_guards.remove(node)),
            Some(_) | None => {}
        }
        self.node_incarnations.insert(node.to_owned(), incarnation);
    }

    fn set_guarded(&mut self, node: &str, condition: Option<GuardedCondition>) {
        match condition {
            Some(condition) => drop(self.guarded_conditions.insert(node.to_owned(), condition)),
            None => drop(self.guarded_conditions.remove(node)),
        }
    }

    /// Records a status that was written, so that it is not written again before the watch returns it.
    fn record_written_status(&mut self, profile: &ProfileRef, status: MetadataProfileStatus) {
        if let Some(known) = self.index.profile_mut(&ProfileKey::of(profile))
            && known.reference.uid == profile.uid
        {
            known.status = Some(status);
        }
    }
}
