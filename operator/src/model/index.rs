//! The objects of the cluster and the compiled pods. A change marks the pods that it affects as pending. Pending pods are
//! compiled together, once, for any number of changes. The index uses no API server, agent or clock.
//!
//! [`Index::take_batch`] copies the inputs of some pending pods. They are compiled without the index, so other tasks can use
//! it at the same time. [`Index::apply_compiled`] stores the result.

mod changes;
mod compilation;
mod entries;
mod mirror_pods;
mod pending;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use podmeta_metadata::compile::{Settings, compile};
use podmeta_metadata::credentials::SecretData;
use podmeta_metadata::facts::NodeFacts;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::policy::{EffectivePolicy, Policy};
use podmeta_metadata::profile::KeyRef;

use compilation::CompileFn;
pub use compilation::{CompileBatch, CompiledPods};
use entries::{NamespaceEntry, NodeEntry, PodEntry};
use mirror_pods::Claims;
use pending::PendingPods;

use super::compiled_pod::{CompiledPod, PodUpdate, ProfileKey};
use super::node_guard::AgentAccount;
use super::profile_state::ProfileState;
use super::update::{ConfigMapRef, References, SecretScope};

/// Objects of the cluster, compiled pods, and the pods to compile.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    compile_fn: CompileFn,
    /// The pods, by the UID of their object.
    pods: HashMap<PodUid, PodEntry>,
    /// The UIDs in the container runtime that mirror pods claim to have.
    claims: Claims,
    namespaces: HashMap<String, NamespaceEntry>,
    nodes: HashMap<String, NodeEntry>,
    /// Sorted by name: a finding names the first of several equally strict policies.
    policies: Arc<Vec<Policy>>,
    /// The namespaces whose Secrets were not listed yet.
    unread_secrets: BTreeSet<SecretScope>,
    /// The pods on which the status of each profile depends.
    pods_by_profile: HashMap<ProfileKey, BTreeSet<PodUid>>,
    /// The pods to compile.
    pending_pods: PendingPods,
    /// The pods of the initial sync that were not compiled yet.
    initial_pods: HashSet<PodUid>,
    /// Deleted pods whose deletion was not sent to their agents yet.
    deleted_pods: Vec<PodUpdate>,
    /// The profiles whose status may have changed.
    changed_profiles: BTreeSet<ProfileKey>,
}

/// Reason why the data of a Secret is not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretUnavailable {
    /// The Secrets of the namespace were not listed yet.
    Unread,
    /// The Secret does not exist, or profiles may not use it.
    NotUsable,
}

impl Index {
    /// Creates an empty index.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            compile_fn: |facts, profiles, policies, config_map_values, settings| {
                compile(facts, profiles, policies, config_map_values, settings)
            },
            pods: HashMap::new(),
            claims: Claims::new(),
            namespaces: HashMap::new(),
            nodes: HashMap::new(),
            policies: Arc::default(),
            unread_secrets: BTreeSet::new(),
            pods_by_profile: HashMap::new(),
            pending_pods: PendingPods::default(),
            initial_pods: HashSet::new(),
            deleted_pods: Vec::new(),
            changed_profiles: BTreeSet::new(),
        }
    }

    /// Stores the compiled pods of a batch and returns the pods that changed, including deleted ones. A pod that an update
    /// affected after the batch was taken keeps its previous state, and stays pending. So do pods that were not compiled.
    pub fn apply_compiled(&mut self, batch: &CompileBatch, compiled: CompiledPods) -> Vec<PodUpdate> {
        let mut updates = std::mem::take(&mut self.deleted_pods);
        let mut left: BTreeSet<&PodUid> = batch.pods().collect();
        for (uid, compiled) in compiled {
            left.remove(&uid);
            let Some(pod) = self.pods.get_mut(&uid) else { continue };
            if self.pending_pods.contains(&uid) {
                continue;
            }
            self.initial_pods.remove(&uid);
            if pod.compiled.as_deref() == compiled.as_ref() {
                continue;
            }
            let compiled = compiled.map(Arc::new);
            let before = std::mem::replace(&mut pod.compiled, compiled.clone());
            let (runtime_uid, node) = (pod.facts.runtime_uid().clone(), pod.node.clone());
            self.update_pods_by_profile(&uid, before.as_deref(), compiled.as_deref());
            updates.push(PodUpdate { pod: runtime_uid, node, compiled });
        }
        for uid in left {
            if let Some(pod) = self.pods.get(uid) {
                self.pending_pods.insert(&pod.facts.metadata.namespace, uid.clone());
            }
        }
        updates
    }

    /// Returns true if pods must be compiled, or the deletion of a pod must be applied.
    #[must_use]
    pub fn has_pending_pods(&self) -> bool {
        !self.pending_pods.is_empty() || !self.deleted_pods.is_empty()
    }

    /// Starts the initial sync, whose pods are those that are pending now.
    pub fn begin_initial_sync(&mut self) {
        self.initial_pods = self.pending_pods.iter().cloned().collect();
    }

    /// Returns true while pods of the initial sync are neither compiled nor deleted.
    #[must_use]
    pub fn has_initial_pods(&self) -> bool {
        !self.initial_pods.is_empty()
    }

    /// Returns the node that a pod is bound to, and the compiled pod.
    #[must_use]
    pub fn pod(&self, uid: &PodUid) -> Option<(&str, Option<&Arc<CompiledPod>>)> {
        self.pods.get(uid).map(|pod| (pod.node.as_str(), pod.compiled.as_ref()))
    }

    /// Returns the end of the grace period of a pod that was deleted.
    #[must_use]
    pub fn deletion_timestamp(&self, uid: &PodUid) -> Option<Timestamp> {
        self.pods.get(uid)?.facts.metadata.deletion_timestamp
    }

    /// Returns true if a node exists.
    #[must_use]
    pub fn has_node(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|entry| entry.facts.is_some())
    }

    /// Returns the names of the nodes that exist.
    pub fn node_names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter(|(_, entry)| entry.facts.is_some()).map(|(name, _)| name.as_str())
    }

    /// Returns the facts of a node, or `None` if it does not exist.
    #[must_use]
    pub fn node_facts(&self, node: &str) -> Option<&NodeFacts> {
        self.nodes.get(node)?.facts.as_deref()
    }

    /// Returns true if a pod of the agents' ServiceAccount is bound to a node.
    #[must_use]
    pub fn has_pod_of_account(&self, node: &str, account: &AgentAccount) -> bool {
        let mut pods = self.nodes.get(node).into_iter().flat_map(|entry| &entry.pods);
        pods.any(|uid| {
            self.pods.get(uid).is_some_and(|pod| {
                pod.facts.metadata.namespace == account.namespace
                    && pod.facts.spec.service_account_name.as_ref() == Some(&account.name)
            })
        })
    }

    /// Returns the pods on which the status of a profile depends: UID, node and compiled pod.
    pub fn pods_of_profile(&self, profile: &ProfileKey) -> impl Iterator<Item = (&PodUid, &str, &Arc<CompiledPod>)> {
        let uids = self.pods_by_profile.get(profile).into_iter().flatten();
        uids.filter_map(|uid| {
            self.pods.get_key_value(uid).and_then(|(uid, pod)| Some((uid, &*pod.node, pod.compiled.as_ref()?)))
        })
    }

    /// Returns a profile.
    #[must_use]
    pub fn profile(&self, key: &ProfileKey) -> Option<&ProfileState> {
        self.namespaces.get(&key.namespace)?.profiles.get(&key.name)
    }

    pub(super) fn profile_mut(&mut self, key: &ProfileKey) -> Option<&mut ProfileState> {
        self.namespaces.get_mut(&key.namespace)?.profiles.get_mut(&key.name)
    }

    /// Returns the keys of all profiles.
    pub fn profile_keys(&self) -> impl Iterator<Item = ProfileKey> {
        self.namespaces.iter().flat_map(|(namespace, entry)| {
            entry.profiles.keys().map(|name| ProfileKey { namespace: namespace.clone(), name: name.clone() })
        })
    }

    /// Returns the numbers of pods and profiles.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.pods.len(), self.namespaces.values().map(|entry| entry.profiles.len()).sum())
    }

    /// Returns the data of a Secret that profiles may use.
    ///
    /// # Errors
    /// If there is no such Secret, or it was not read yet.
    pub fn secret(&self, namespace: &str, name: &str) -> Result<&SecretData, SecretUnavailable> {
        let secret = self.namespaces.get(namespace).and_then(|entry| entry.secrets.get(name));
        secret.ok_or_else(|| {
            let is_unread = self.unread_secrets.iter().any(|scope| match scope {
                SecretScope::Cluster => true,
                SecretScope::Namespace(unread) => unread == namespace,
            });
            if is_unread { SecretUnavailable::Unread } else { SecretUnavailable::NotUsable }
        })
    }

    /// Returns the policies that apply to a namespace, or `None` if the namespace is not known yet.
    #[must_use]
    pub fn policies_of(&self, namespace: &str) -> Option<EffectivePolicy<'_>> {
        let facts = self.namespaces.get(namespace)?.facts.as_ref()?;
        Some(EffectivePolicy::of_namespace(&self.policies, &facts.metadata.labels))
    }

    /// Returns the ConfigMaps that the profiles in effect refer to.
    #[must_use]
    pub fn references(&self) -> References {
        let mut references = References::new();
        for (namespace, entry) in &self.namespaces {
            for profile in entry.effective_profiles() {
                if let Some(KeyRef { name, key }) = profile.config_map_key() {
                    let object = ConfigMapRef { namespace: namespace.clone(), name: name.clone() };
                    references.entry(object).or_default().insert(key.clone());
                }
            }
        }
        references
    }

    /// Returns and clears the profiles whose status may have changed.
    pub fn take_changed_profiles(&mut self) -> BTreeSet<ProfileKey> {
        std::mem::take(&mut self.changed_profiles)
    }

    /// Marks profiles whose status may have changed.
    pub fn mark_changed(&mut self, profiles: impl IntoIterator<Item = ProfileKey>) {
        self.changed_profiles.extend(profiles);
    }

    fn update_pods_by_profile(&mut self, pod: &PodUid, before: Option<&CompiledPod>, after: Option<&CompiledPod>) {
        let before = before.map(CompiledPod::related_profiles).unwrap_or_default();
        let after = after.map(CompiledPod::related_profiles).unwrap_or_default();
        for profile in before.difference(&after) {
            if let Some(pods) = self.pods_by_profile.get_mut(profile) {
                pods.remove(pod);
                if pods.is_empty() {
                    self.pods_by_profile.remove(profile);
                }
            }
        }
        for profile in after.difference(&before) {
            self.pods_by_profile.entry(profile.clone()).or_default().insert(pod.clone());
        }
        self.changed_profiles.extend(before.into_iter().chain(after));
    }
}
