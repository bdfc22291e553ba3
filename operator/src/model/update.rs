//! The updates of [`OperatorState`](super::state::OperatorState). Every change of the state is one of these, sent through
//! one channel to the reconcile task.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use bytes::Bytes;
use podmeta_agent_api::calls::Report;
use podmeta_crds::field::FieldError;
use podmeta_crds::metadataprofile::MetadataProfileStatus;
use podmeta_metadata::credentials::SecretData;
use podmeta_metadata::facts::{NamespaceFacts, NodeFacts, PodFacts};
use podmeta_metadata::names::PodUid;
use podmeta_metadata::policy::Policy;
use podmeta_metadata::profile::ProfileRef;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::compiled_pod::ProfileKey;
use super::node_guard::{GuardedCondition, NodeIncarnation};
use super::profile::ProfileObject;

/// One change of the operator's state.
#[derive(Debug)]
pub enum StateUpdate {
    /// A pod was added or modified. A pod without a node is handled as deleted.
    Pod {
        /// The pod.
        facts: Box<PodFacts>,
        /// The addresses in its status. Empty until the kubelet has reported them.
        addresses: Vec<IpAddr>,
    },
    /// A pod was deleted.
    PodDeleted(PodUid),
    /// A namespace was added or modified.
    Namespace(NamespaceFacts),
    /// A namespace was deleted.
    NamespaceDeleted(String),
    /// A node was added or modified.
    Node {
        /// The node.
        facts: NodeFacts,
        /// The object and boot that reports are about.
        incarnation: NodeIncarnation,
        /// Its condition `podmeta.dev/Guarded`.
        guarded: Option<GuardedCondition>,
    },
    /// A node was deleted.
    NodeDeleted(String),
    /// A policy was added or modified, valid or not.
    Policy(Box<PolicyObject>),
    /// A policy was deleted.
    PolicyDeleted(String),
    /// A profile was added or modified, valid or not.
    Profile(Box<ProfileObject>),
    /// A profile was deleted.
    ProfileDeleted(ProfileKey),
    /// A Secret that profiles may use was added, modified or deleted.
    Secret {
        /// The Secret's namespace.
        namespace: String,
        /// The Secret's name.
        name: String,
        /// The data, or `None` if the Secret does not exist any more, or profiles may not use it any more.
        data: Option<SecretData>,
    },
    /// The Secrets of these namespaces were not listed yet.
    SecretsUnread(SecretScope),
    /// The first list of the Secrets of these namespaces is complete.
    SecretsListed(SecretScope),
    /// A ConfigMap was read.
    ConfigMap {
        /// The ConfigMap's namespace.
        namespace: String,
        /// The ConfigMap's name.
        name: String,
        /// The values of the keys that profiles refer to. A missing key does not exist.
        values: BTreeMap<String, Bytes>,
    },
    /// No profile refers to these keys of a ConfigMap any more. Its watch has ended.
    ReferenceDropped {
        /// The ConfigMap.
        object: ConfigMapRef,
        /// The keys.
        keys: BTreeSet<String>,
    },
    /// The initial list of a watch is complete.
    ListComplete(WatchedKind),
    /// This replica became the leader, or stopped being the leader.
    Leadership(bool),
    /// A node agent reported.
    Report {
        /// The agent's node.
        node: String,
        /// The report.
        report: Report,
        /// The time at which it was received.
        received: Instant,
        /// Receives `true` if the report was recorded, or `false` if this replica is not the leader.
        recorded: oneshot::Sender<bool>,
    },
    /// The leader wrote the status of a profile.
    StatusWritten {
        /// The profile.
        profile: ProfileRef,
        /// The status that was written.
        status: MetadataProfileStatus,
        /// Is completed when the update is applied.
        applied: oneshot::Sender<()>,
    },
    /// The leader wrote the condition of a node.
    GuardedWritten {
        /// The node.
        node: String,
        /// The UID of the object that was written.
        uid: String,
        /// The condition that was written.
        condition: GuardedCondition,
    },
}

/// A `MetadataPolicy` as the API server holds it.
#[derive(Debug)]
pub struct PolicyObject {
    /// The policy's name.
    pub name: String,
    /// The parsed spec, or its invalid fields.
    pub spec: Result<Policy, Vec<FieldError>>,
}

/// A ConfigMap that a profile refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigMapRef {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl fmt::Display for ConfigMapRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The ConfigMaps that profiles refer to, with the keys of each.
pub type References = BTreeMap<ConfigMapRef, BTreeSet<String>>;

/// The namespaces of one watch of Secrets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretScope {
    /// All namespaces.
    Cluster,
    /// One namespace.
    Namespace(String),
}

/// The kinds of objects that the operator watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchedKind {
    /// Namespaces.
    Namespaces,
    /// Nodes.
    Nodes,
    /// Pods that are bound to a node.
    Pods,
    /// `MetadataPolicy` objects.
    Policies,
    /// `MetadataProfile` objects.
    Profiles,
    /// The Secrets that profiles may use.
    Secrets,
    /// The ConfigMaps that profiles refer to.
    References,
}

impl WatchedKind {
    /// Returns the `kind` of the objects.
    #[must_use]
    pub fn object_kind(self) -> &'static str {
        match self {
            Self::Namespaces => "Namespace",
            Self::Nodes => "Node",
            Self::Pods => "Pod",
            Self::Policies => "MetadataPolicy",
            Self::Profiles => "MetadataProfile",
            Self::Secrets => "Secret",
            Self::References => "ConfigMap",
        }
    }

    /// All kinds. Agents are served only after all of them are listed: a partial state would take pods away from them.
    pub const ALL: [Self; 7] =
        [Self::Namespaces, Self::Nodes, Self::Pods, Self::Policies, Self::Profiles, Self::Secrets, Self::References];
}
