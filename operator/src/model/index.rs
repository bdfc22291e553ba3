//! The objects of the cluster and the compiled pods. A change marks the pods that it affects as pending. Pending pods are
//! compiled together, once, for any number of changes. The index knows no API server, agent or clock.
//!
//! [`Index::compile`] only reads the index, so other tasks can read it at the same time. [`Index::apply_compiled`] stores
//! the result.

mod compilation;
mod entries;
mod mirror_pods;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use podmeta_metadata::compile::{Settings, compile};
use podmeta_metadata::credentials::SecretData;
use podmeta_metadata::facts::{NamespaceFacts, NodeFacts, PodFacts};
use podmeta_metadata::names::PodUid;
use podmeta_metadata::policy::Policy;
use podmeta_metadata::profile::{KeyRef, Profile};

use compilation::CompileFn;
pub use compilation::CompiledPods;
use entries::{NamespaceEntry, NodeEntry, PodEntry, keep_taint_times};

use super::compiled_pod::{CompiledPod, PodUpdate, ProfileKey};
use super::profile::ProfileObject;
use super::profile_state::ProfileState;
use super::update::{PolicyObject, ReferencedObject, References};

/// The index.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    compile_fn: CompileFn,
    /// The pods, by the UID of their object.
    pods: HashMap<PodUid, PodEntry>,
    /// The mirror pods that claim to have a UID in the container runtime.
    claimants: HashMap<PodUid, BTreeSet<PodUid>>,
    namespaces: HashMap<String, NamespaceEntry>,
    nodes: HashMap<String, NodeEntry>,
    /// Sorted by name: a finding names the first of several equally strict policies.
    policies: Vec<Policy>,
    /// The pods on which the status of each profile depends.
    pods_by_profile: HashMap<ProfileKey, BTreeSet<PodUid>>,
    /// The pods to compile.
    pending_pods: BTreeSet<PodUid>,
    /// Deleted pods whose agents do not know it yet.
    deleted_pods: Vec<PodUpdate>,
    /// The profiles whose status may have changed.
    changed_profiles: BTreeSet<ProfileKey>,
}

/// Reason why the data of a Secret is not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretUnavailable {
    /// The Secret was not read yet.
    Unread,
    /// The Secret does not exist.
    Missing,
}

impl Index {
    /// Creates an empty index.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            compile_fn: |facts, profiles, policies, sources, settings| {
                compile(facts, profiles, policies, sources, settings)
            },
            pods: HashMap::new(),
            claimants: HashMap::new(),
            namespaces: HashMap::new(),
            nodes: HashMap::new(),
            policies: Vec::new(),
            pods_by_profile: HashMap::new(),
            pending_pods: BTreeSet::new(),
            deleted_pods: Vec::new(),
            changed_profiles: BTreeSet::new(),
        }
    }

    /// Stores compiled pods and returns the pods that changed, including deleted ones.
    pub fn apply_compiled(&mut self, compiled: CompiledPods) -> Vec<PodUpdate> {
        let mut updates = std::mem::take(&mut self.deleted_pods);
        for (uid, compiled) in compiled {
            self.pending_pods.remove(&uid);
            let Some(pod) = self.pods.get_mut(&uid) else { continue };
            if pod.compiled.as_deref() == compiled.as_ref() {
                continue;
            }
            let compiled = compiled.map(Arc::new);
            let before = std::mem::replace(&mut pod.compiled, compiled.clone());
            let (runtime_uid, node) = (pod.facts.runtime_uid().clone(), pod.node.clone());
            self.update_pods_by_profile(&uid, before.as_deref(), compiled.as_deref());
            updates.push(PodUpdate { pod: runtime_uid, node, compiled });
        }
        updates
    }

    /// Returns true if pods must be compiled, or the deletion of a pod must be applied.
    #[must_use]
    pub fn has_pending_pods(&self) -> bool {
        !self.pending_pods.is_empty() || !self.deleted_pods.is_empty()
    }

    /// Returns the node that a pod is bound to, and the compiled pod.
    #[must_use]
    pub fn pod(&self, uid: &PodUid) -> Option<(&str, Option<&Arc<CompiledPod>>)> {
        self.pods.get(uid).map(|pod| (pod.node.as_str(), pod.compiled.as_ref()))
    }

    /// Returns true if a node exists.
    #[must_use]
    pub fn has_node(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|entry| entry.facts.is_some())
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

    /// Returns the data of a Secret that a profile refers to.
    ///
    /// # Errors
    /// If the Secret does not exist or was not read yet.
    pub fn secret(&self, namespace: &str, name: &str) -> Result<&SecretData, SecretUnavailable> {
        let secret = self.namespaces.get(namespace).and_then(|entry| entry.secrets.get(name));
        secret.ok_or(SecretUnavailable::Unread)?.as_ref().ok_or(SecretUnavailable::Missing)
    }

    /// Returns the Secrets and ConfigMaps that the profiles in effect refer to.
    #[must_use]
    pub fn references(&self) -> References {
        let mut references = References::new();
        for (namespace, entry) in &self.namespaces {
            for profile in entry.effective_profiles() {
                for name in profile.secret_names() {
                    let object = ReferencedObject::Secret { namespace: namespace.clone(), name: name.to_owned() };
                    references.entry(object).or_default();
                }
                if let Some(KeyRef { name, key }) = profile.config_map_key() {
                    let object = ReferencedObject::ConfigMap { namespace: namespace.clone(), name: name.clone() };
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

    /// Adds or replaces a pod. A pod never changes its namespace or node. A pod without a node is removed.
    pub fn set_pod(&mut self, facts: Box<PodFacts>, addresses: Vec<IpAddr>) {
        let uid = facts.metadata.uid.clone();
        let Some(node) = facts.spec.node_name.clone() else { return self.remove_pod(&uid) };
        match self.pods.get_mut(&uid) {
            Some(known) if known.facts == facts && known.addresses == addresses => return,
            Some(known) if known.facts.origin == facts.origin => (known.facts, known.addresses) = (facts, addresses),
            known => {
                if known.is_some() {
                    self.remove_pod(&uid);
                }
                let namespace = facts.metadata.namespace.clone();
                self.namespaces.entry(namespace).or_default().pods.insert(uid.clone());
                self.nodes.entry(node.clone()).or_default().pods.insert(uid.clone());
                self.pods.insert(uid.clone(), PodEntry { facts, addresses, node, compiled: None });
                self.add_claim(&uid);
            }
        }
        self.pending_pods.insert(uid);
    }

    /// Removes a pod.
    pub fn remove_pod(&mut self, uid: &PodUid) {
        self.pending_pods.remove(uid);
        let Some(PodEntry { facts, node, compiled, .. }) = self.pods.remove(uid) else { return };
        if let Some(namespace) = self.namespaces.get_mut(&facts.metadata.namespace) {
            namespace.pods.remove(uid);
        }
        self.remove_namespace_if_empty(&facts.metadata.namespace);
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.pods.remove(uid);
        }
        self.remove_node_if_empty(&node);
        if let Some(compiled) = compiled {
            self.update_pods_by_profile(uid, Some(&compiled), None);
            self.deleted_pods.push(PodUpdate { pod: facts.runtime_uid().clone(), node, compiled: None });
        }
        self.remove_claim(uid, &facts);
    }

    /// Sets the facts of a namespace, or removes them with `None`.
    pub fn set_namespace(&mut self, name: &str, facts: Option<NamespaceFacts>) {
        let entry = self.namespaces.entry(name.to_owned()).or_default();
        if entry.facts != facts {
            entry.facts = facts;
            self.pending_pods.extend(entry.pods.iter().cloned());
        }
        self.remove_namespace_if_empty(name);
    }

    /// Sets the facts of a node, or removes them with `None`.
    pub fn set_node(&mut self, name: &str, mut facts: Option<NodeFacts>) {
        let entry = self.nodes.entry(name.to_owned()).or_default();
        if let (Some(known), Some(facts)) = (&entry.facts, &mut facts) {
            keep_taint_times(known, facts);
        }
        if entry.facts != facts {
            entry.facts = facts;
            self.pending_pods.extend(entry.pods.iter().cloned());
        }
        self.remove_node_if_empty(name);
    }

    /// Adds or replaces a profile. It affects the pods that it selects now and those that it selected before.
    pub fn set_profile(&mut self, object: ProfileObject) {
        let key = ProfileKey::of(&object.reference);
        let entry = self.namespaces.entry(key.namespace.clone()).or_default();
        let previous = entry.profiles.remove(&key.name);
        let before = previous.as_ref().and_then(ProfileState::profile).cloned();
        let is_same =
            |previous: &ProfileState| previous.reference == object.reference && previous.status == object.status;
        if !previous.as_ref().is_some_and(is_same) {
            self.changed_profiles.insert(key.clone());
        }
        let previous = previous.filter(|previous| previous.reference.uid == object.reference.uid);
        let next = ProfileState::next(previous, object);
        let changed = before.as_ref() != next.profile();
        let affected: Vec<&Profile> = before.iter().chain(next.profile()).filter(|_| changed).collect();
        self.pending_pods.extend(entry.selected_pods(&self.pods, &affected));
        entry.profiles.insert(key.name, next);
    }

    /// Removes a profile.
    pub fn remove_profile(&mut self, key: &ProfileKey) {
        let Some(entry) = self.namespaces.get_mut(&key.namespace) else { return };
        let Some(previous) = entry.profiles.remove(&key.name) else { return };
        let affected: Vec<&Profile> = previous.profile().into_iter().collect();
        self.pending_pods.extend(entry.selected_pods(&self.pods, &affected));
        self.changed_profiles.insert(key.clone());
        self.remove_namespace_if_empty(&key.namespace);
    }

    /// Adds or replaces a policy. An invalid policy leaves the last valid one in effect: removing it would allow what it
    /// forbids. If there is none, the strictest policy takes its place.
    pub fn set_policy(&mut self, object: PolicyObject) {
        let PolicyObject { name, spec } = object;
        match spec {
            Ok(policy) => self.replace_policy(&name, Some(policy)),
            Err(_) if self.policies.iter().any(|policy| policy.name == name) => {}
            Err(_) => self.replace_policy(&name, Some(Policy::strictest(name.clone()))),
        }
    }

    /// Removes a policy.
    pub fn remove_policy(&mut self, name: &str) {
        self.replace_policy(name, None);
    }

    /// A policy affects the pods of the namespaces that it selects now and those that it selected before.
    fn replace_policy(&mut self, name: &str, new: Option<Policy>) {
        let position = self.policies.iter().position(|policy| policy.name == name);
        let old = position.map(|position| self.policies.remove(position));
        if old != new {
            let is_selected = |facts: &NamespaceFacts| {
                [&old, &new].into_iter().flatten().any(|policy| policy.namespaces.matches(&facts.metadata.labels))
            };
            let selected = self.namespaces.values().filter(|entry| entry.facts.as_ref().is_some_and(is_selected));
            self.pending_pods.extend(selected.flat_map(|entry| entry.pods.iter().cloned()));
        }
        self.policies.extend(new);
        self.policies.sort_by(|one, other| one.name.cmp(&other.name));
    }

    /// Sets the data of a Secret. It affects the status of the profiles that refer to it, but no compiled pod.
    pub fn set_secret(&mut self, namespace: String, name: String, data: Option<SecretData>) {
        let entry = self.namespaces.entry(namespace.clone()).or_default();
        for (profile, state) in &entry.profiles {
            if state.profile().is_some_and(|profile| profile.secret_names().any(|secret| secret == name)) {
                let key = ProfileKey { namespace: namespace.clone(), name: profile.clone() };
                self.changed_profiles.insert(key);
            }
        }
        entry.secrets.insert(name, data);
    }

    /// Sets the values of a ConfigMap's keys. It affects the pods of the profiles that refer to a changed key.
    pub fn set_config_map(&mut self, namespace: &str, name: &str, values: BTreeMap<String, Bytes>) {
        let entry = self.namespaces.entry(namespace.to_owned()).or_default();
        let old: BTreeMap<KeyRef, Bytes> = entry.config_map_values.extract_if(.., |key, _| key.name == name).collect();
        let new: BTreeMap<KeyRef, Bytes> =
            values.into_iter().map(|(key, value)| (KeyRef { name: name.to_owned(), key }, value)).collect();
        let refers_to_change = |profile: &&Profile| {
            profile.config_map_key().is_some_and(|key| key.name == name && old.get(key) != new.get(key))
        };
        let affected: Vec<&Profile> = entry.effective_profiles().into_iter().filter(refers_to_change).collect();
        self.pending_pods.extend(entry.selected_pods(&self.pods, &affected));
        entry.config_map_values.extend(new);
        self.remove_namespace_if_empty(namespace);
    }

    /// Removes a Secret, or these keys of a ConfigMap.
    pub fn drop_reference(&mut self, object: &ReferencedObject, keys: &BTreeSet<String>) {
        match object {
            ReferencedObject::Secret { namespace, name } => {
                if let Some(entry) = self.namespaces.get_mut(namespace) {
                    entry.secrets.remove(name);
                }
                self.remove_namespace_if_empty(namespace);
            }
            ReferencedObject::ConfigMap { namespace, name } => {
                let Some(entry) = self.namespaces.get(namespace) else { return };
                let values = entry.config_map_values.iter();
                let kept = values.filter(|(value, _)| value.name == *name && !keys.contains(&value.key));
                let kept = kept.map(|(value, bytes)| (value.key.clone(), bytes.clone())).collect();
                self.set_config_map(namespace, name, kept);
            }
        }
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

    fn remove_namespace_if_empty(&mut self, namespace: &str) {
        if self.namespaces.get(namespace).is_some_and(NamespaceEntry::is_empty) {
            self.namespaces.remove(namespace);
        }
    }

    fn remove_node_if_empty(&mut self, node: &str) {
        if self.nodes.get(node).is_some_and(NodeEntry::is_empty) {
            self.nodes.remove(node);
        }
    }
}
