//! Changes of the objects. Each marks the pods that it affects as pending, and the profiles whose status may change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use podmeta_metadata::credentials::SecretData;
use podmeta_metadata::facts::{NamespaceFacts, NodeFacts, PodFacts};
use podmeta_metadata::names::PodUid;
use podmeta_metadata::policy::Policy;
use podmeta_metadata::profile::{KeyRef, Profile};

use super::Index;
use super::entries::{NamespaceEntry, NodeEntry, PodEntry, keep_taint_times};
use crate::model::compiled_pod::{PodUpdate, ProfileKey};
use crate::model::profile::ProfileObject;
use crate::model::profile_state::ProfileState;
use crate::model::update::{ConfigMapRef, PolicyObject, SecretScope};

impl Index {
    /// Adds or replaces a pod. A pod never changes its namespace or node. A pod without a node is removed.
    pub fn set_pod(&mut self, facts: Box<PodFacts>, addresses: Vec<IpAddr>) {
        let uid = facts.metadata.uid.clone();
        let Some(node) = facts.spec.node_name.clone() else { return self.remove_pod(&uid) };
        let facts: Arc<PodFacts> = facts.into();
        let namespace = facts.metadata.namespace.clone();
        match self.pods.get_mut(&uid) {
            Some(known) if known.facts == facts && known.addresses == addresses => return,
            Some(known) if known.facts.origin == facts.origin => (known.facts, known.addresses) = (facts, addresses),
            known => {
                if known.is_some() {
                    self.remove_pod(&uid);
                }
                self.namespaces.entry(namespace.clone()).or_default().pods.insert(uid.clone());
                self.nodes.entry(node.clone()).or_default().pods.insert(uid.clone());
                self.pods.insert(uid.clone(), PodEntry { facts, addresses, node, compiled: None });
                self.pending_pods.insert(&namespace, uid.clone());
                self.add_claim(&uid);
            }
        }
        self.pending_pods.insert(&namespace, uid);
    }

    /// Removes a pod.
    pub fn remove_pod(&mut self, uid: &PodUid) {
        self.pending_pods.remove(uid);
        self.initial_pods.remove(uid);
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
            let update = PodUpdate { pod: facts.runtime_uid().clone(), node: node.clone(), compiled: None };
            self.deleted_pods.push(update);
        }
        self.remove_claim(uid, &facts, &node);
    }

    /// Sets the facts of a namespace, or removes them with `None`.
    pub fn set_namespace(&mut self, name: &str, facts: Option<NamespaceFacts>) {
        let entry = self.namespaces.entry(name.to_owned()).or_default();
        if entry.facts.as_deref() != facts.as_ref() {
            entry.facts = facts.map(Arc::new);
            self.pending_pods.extend(name, entry.pods.iter().cloned());
            self.changed_profiles.extend(entry.profile_keys(name));
        }
        self.remove_namespace_if_empty(name);
    }

    /// Sets the facts of a node, or removes them with `None`.
    pub fn set_node(&mut self, name: &str, mut facts: Option<NodeFacts>) {
        let entry = self.nodes.entry(name.to_owned()).or_default();
        if let (Some(known), Some(facts)) = (&entry.facts, &mut facts) {
            keep_taint_times(known, facts);
        }
        if entry.facts.as_deref() != facts.as_ref() {
            entry.facts = facts.map(Arc::new);
            for uid in &entry.pods {
                if let Some(pod) = self.pods.get(uid) {
                    self.pending_pods.insert(&pod.facts.metadata.namespace, uid.clone());
                }
            }
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
        let affected: Vec<&Arc<Profile>> = before.iter().chain(next.profile()).filter(|_| changed).collect();
        self.pending_pods.extend(&key.namespace, entry.selected_pods(&self.pods, &affected));
        entry.profiles.insert(key.name, next);
    }

    /// Removes a profile.
    pub fn remove_profile(&mut self, key: &ProfileKey) {
        let Some(entry) = self.namespaces.get_mut(&key.namespace) else { return };
        let Some(previous) = entry.profiles.remove(&key.name) else { return };
        let affected: Vec<&Arc<Profile>> = previous.profile().into_iter().collect();
        self.pending_pods.extend(&key.namespace, entry.selected_pods(&self.pods, &affected));
        self.changed_profiles.insert(key.clone());
        self.remove_namespace_if_empty(&key.namespace);
    }

    /// Adds or replaces a policy. An invalid one leaves its last valid version in effect, because without a policy its
    /// namespaces would have no limits. If no version was valid, the strictest policy takes its place.
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

    /// A policy affects the pods and the status of the profiles of the namespaces that it selects now and those that it
    /// selected before.
    fn replace_policy(&mut self, name: &str, new: Option<Policy>) {
        let policies = Arc::make_mut(&mut self.policies);
        let position = policies.iter().position(|policy| policy.name == name);
        let old = position.map(|position| policies.remove(position));
        if old != new {
            let is_selected = |facts: &NamespaceFacts| {
                [&old, &new].into_iter().flatten().any(|policy| policy.namespaces.matches(&facts.metadata.labels))
            };
            for (namespace, entry) in &self.namespaces {
                if entry.facts.as_deref().is_some_and(is_selected) {
                    self.pending_pods.extend(namespace, entry.pods.iter().cloned());
                    self.changed_profiles.extend(entry.profile_keys(namespace));
                }
            }
        }
        policies.extend(new);
        policies.sort_by(|one, other| one.name.cmp(&other.name));
    }

    /// Records whether the Secrets of a scope were listed. Marks all profiles of the scope as changed.
    pub fn set_secrets_listed(&mut self, scope: SecretScope, is_listed: bool) {
        for (namespace, entry) in &self.namespaces {
            let is_affected = match &scope {
                SecretScope::Cluster => true,
                SecretScope::Namespace(name) => name == namespace,
            };
            if is_affected {
                self.changed_profiles.extend(entry.profile_keys(namespace));
            }
        }
        if is_listed {
            self.unread_secrets.remove(&scope);
        } else {
            self.unread_secrets.insert(scope);
        }
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
        match data {
            Some(data) => drop(entry.secrets.insert(name, data)),
            None => drop(entry.secrets.remove(&name)),
        }
        self.remove_namespace_if_empty(&namespace);
    }

    /// Sets the values of a ConfigMap's keys. It affects the pods of the profiles that refer to a changed key.
    pub fn set_config_map(&mut self, namespace: &str, name: &str, values: BTreeMap<String, Bytes>) {
        let entry = self.namespaces.entry(namespace.to_owned()).or_default();
        let all = Arc::make_mut(&mut entry.config_map_values);
        let old: BTreeMap<KeyRef, Bytes> = all.extract_if(.., |key, _| key.name == name).collect();
        let new: BTreeMap<KeyRef, Bytes> =
            values.into_iter().map(|(key, value)| (KeyRef { name: name.to_owned(), key }, value)).collect();
        let refers_to_change = |profile: &&Arc<Profile>| {
            profile.config_map_key().is_some_and(|key| key.name == name && old.get(key) != new.get(key))
        };
        let affected: Vec<&Arc<Profile>> = entry.effective_profiles().into_iter().filter(refers_to_change).collect();
        self.pending_pods.extend(namespace, entry.selected_pods(&self.pods, &affected));
        Arc::make_mut(&mut entry.config_map_values).extend(new);
        self.remove_namespace_if_empty(namespace);
    }

    /// Removes the values of some keys of a ConfigMap.
    pub fn remove_config_map_keys(&mut self, object: &ConfigMapRef, keys: &BTreeSet<String>) {
        let ConfigMapRef { namespace, name } = object;
        let Some(entry) = self.namespaces.get(namespace) else { return };
        let values = entry.config_map_values.iter();
        let kept = values.filter(|(key_ref, _)| key_ref.name == *name && !keys.contains(&key_ref.key));
        let kept = kept.map(|(key_ref, value)| (key_ref.key.clone(), value.clone())).collect();
        self.set_config_map(namespace, name, kept);
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
