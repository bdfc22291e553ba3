//! The entries of the index: pods, namespaces and nodes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use podmeta_metadata::compile::ConfigMapValues;
use podmeta_metadata::credentials::SecretData;
use podmeta_metadata::facts::{NamespaceFacts, NodeFacts, PodFacts, Taint};
use podmeta_metadata::names::PodUid;
use podmeta_metadata::profile::Profile;

use crate::model::compiled_pod::{CompiledPod, ProfileKey};
use crate::model::profile_state::ProfileState;

/// A pod that is bound to a node.
#[derive(Debug)]
pub(super) struct PodEntry {
    pub(super) facts: Arc<PodFacts>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) node: String,
    pub(super) compiled: Option<Arc<CompiledPod>>,
}

/// A namespace and its objects. Objects can arrive before their namespace and stay after it is deleted.
#[derive(Debug, Default)]
pub(super) struct NamespaceEntry {
    pub(super) facts: Option<Arc<NamespaceFacts>>,
    pub(super) pods: BTreeSet<PodUid>,
    /// Profiles by name.
    pub(super) profiles: BTreeMap<String, ProfileState>,
    /// The Secrets that profiles may use, by name.
    pub(super) secrets: BTreeMap<String, SecretData>,
    /// The values of ConfigMap keys that profiles refer to.
    pub(super) config_map_values: Arc<ConfigMapValues>,
}

impl NamespaceEntry {
    pub(super) fn is_empty(&self) -> bool {
        let Self { facts, pods, profiles, secrets, config_map_values } = self;
        facts.is_none() && pods.is_empty() && profiles.is_empty() && secrets.is_empty() && config_map_values.is_empty()
    }

    /// Returns the keys of the namespace's profiles. The caller passes the name of the namespace.
    pub(super) fn profile_keys(&self, name: &str) -> impl Iterator<Item = ProfileKey> {
        self.profiles.keys().map(move |profile| ProfileKey { namespace: name.to_owned(), name: profile.clone() })
    }

    /// Returns the profiles that are in effect.
    pub(super) fn effective_profiles(&self) -> Vec<&Arc<Profile>> {
        self.profiles.values().filter_map(ProfileState::profile).collect()
    }

    /// Returns the pods that one of these profiles selects.
    pub(super) fn selected_pods(
        &self,
        pods: &HashMap<PodUid, PodEntry>,
        profiles: &[&Arc<Profile>],
    ) -> impl Iterator<Item = PodUid> {
        let is_selected = |pod: &PodEntry| profiles.iter().any(|profile| profile.matches(&pod.facts));
        self.pods.iter().filter(move |uid| pods.get(*uid).is_some_and(is_selected)).cloned()
    }
}

/// A node and the pods that are bound to it. Pods can arrive before their node and stay after it is deleted. Agents get
/// the pods only while the node exists.
#[derive(Debug, Default)]
pub(super) struct NodeEntry {
    pub(super) facts: Option<Arc<NodeFacts>>,
    pub(super) pods: BTreeSet<PodUid>,
}

impl NodeEntry {
    pub(super) fn is_empty(&self) -> bool {
        self.facts.is_none() && self.pods.is_empty()
    }
}

/// Keeps the earlier of the known and the new time of each taint. A taint without `timeAdded` gets the time at which it
/// was read, which would change with every heartbeat of the node.
pub(super) fn keep_taint_times(known: &NodeFacts, new: &mut NodeFacts) {
    for taint in &mut new.spec.taints {
        let is_same =
            |other: &&Taint| (&other.key, &other.value, &other.effect) == (&taint.key, &taint.value, &taint.effect);
        if let Some(before) = known.spec.taints.iter().find(is_same) {
            taint.time_added = taint.time_added.min(before.time_added);
        }
    }
}
