//! What goes into the index, and what comes out of it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use podmeta_agent_api::Item;
use podmeta_metadata::compile::Outcome;
use podmeta_metadata::facts::{NamespaceFacts, NodeFacts, PodFacts};
use podmeta_metadata::finding::Finding;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::policy::Policy;
use podmeta_metadata::profile::{KeyRef, Profile, ProfileRef};

/// One object as it is now, or the name of one that is gone.
#[derive(Clone, Debug)]
pub enum Change {
    /// A pod. One that is bound to no node is remembered only as not being there.
    Pod {
        /// What is known of it.
        facts: Box<PodFacts>,
        /// Its addresses, once its status has them.
        addresses: Vec<IpAddr>,
    },
    /// A pod is gone.
    PodGone(PodUid),
    /// A namespace. Until it is known nothing is compiled for its pods: policies select by its labels.
    Namespace(NamespaceFacts),
    /// A namespace is gone.
    NamespaceGone(String),
    /// A node.
    Node(NodeFacts),
    /// A node is gone.
    NodeGone(String),
    /// A profile that is valid.
    Profile(Box<Profile>),
    /// A profile is gone.
    ProfileGone {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A policy that is valid.
    Policy(Box<Policy>),
    /// A policy is gone.
    PolicyGone(String),
    /// The value of a ConfigMap's key that a profile names; none if there is none.
    Source {
        /// The ConfigMap's namespace.
        namespace: String,
        /// Its name, and the key.
        key: KeyRef,
        /// The value.
        value: Option<Bytes>,
    },
}

/// What follows for one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What its agent is told.
    pub item: Item,
    /// What its profiles should know.
    pub findings: Vec<Finding>,
}

impl Entry {
    /// The profile that it is served by.
    #[must_use]
    pub fn profile(&self) -> Option<&ProfileRef> {
        match &self.item.outcome {
            Outcome::Served(workload) => workload.profile.as_ref(),
            Outcome::Denied(_) | Outcome::Node(_) => None,
        }
    }

    /// Every profile that this says something of.
    pub(super) fn concerns(&self) -> BTreeSet<ProfileKey> {
        let findings = self.findings.iter().filter_map(|finding| finding.profile.as_ref());
        findings.chain(self.profile()).map(ProfileKey::of).collect()
    }
}

/// Which profile, whatever its generation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProfileKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ProfileKey {
    /// The key of a profile.
    #[must_use]
    pub fn of(profile: &ProfileRef) -> Self {
        Self { namespace: profile.namespace.clone(), name: profile.name.clone() }
    }
}

/// What changed for one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The pod.
    pub pod: PodUid,
    /// The node that it is or was bound to, whose agent is to be told.
    pub node: String,
    /// What follows for it now; none if nothing is to be served.
    pub entry: Option<Arc<Entry>>,
}
