//! What the index keeps of pods, and of what they are in and on.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use podmeta_metadata::compile::Sources;
use podmeta_metadata::facts::{NamespaceFacts, NodeFacts, PodFacts, Taint};
use podmeta_metadata::names::PodUid;
use podmeta_metadata::profile::Profile;

use super::Entry;

/// A pod that is bound to a node, and what was compiled for it last.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) facts: Box<PodFacts>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) node: String,
    pub(super) entry: Option<Arc<Entry>>,
}

/// A namespace and what is in it. Objects may come before their namespace, and go after it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Namespace {
    pub(super) facts: Option<NamespaceFacts>,
    pub(super) pods: BTreeSet<PodUid>,
    pub(super) profiles: Vec<Profile>,
    pub(super) sources: Sources,
}

/// A node and the pods that are bound to it, which may come before it and go after it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Node {
    pub(super) facts: Option<NodeFacts>,
    pub(super) pods: BTreeSet<PodUid>,
}

/// A taint need not say since when it is there: then it is there since it was seen first, not since it was seen last.
pub(super) fn keep_times(known: &NodeFacts, facts: &mut NodeFacts) {
    for taint in &mut facts.spec.taints {
        let same =
            |other: &&Taint| (&other.key, &other.value, &other.effect) == (&taint.key, &taint.value, &taint.effect);
        if let Some(before) = known.spec.taints.iter().find(same) {
            taint.time_added = taint.time_added.min(before.time_added);
        }
    }
}

/// The pods of a namespace that one of these profiles selects.
pub(super) fn selected(
    of: &BTreeSet<PodUid>,
    pods: &HashMap<PodUid, Bound>,
    profiles: &[Option<&Profile>],
) -> Vec<PodUid> {
    let selects = |pod: &Bound| profiles.iter().flatten().any(|profile| profile.matches(&pod.facts));
    of.iter().filter(|uid| pods.get(uid).is_some_and(selects)).cloned().collect()
}
