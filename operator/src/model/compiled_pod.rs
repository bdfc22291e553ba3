//! The result of compiling one pod, its change for the node agent, and the key of a profile.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use podmeta_agent_api::WorkloadItem;
use podmeta_metadata::finding::Finding;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::profile::ProfileRef;

/// A compiled pod, as the operator keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledPod {
    /// The item that is sent to the pod's node agent.
    pub item: WorkloadItem,
    /// The profile that applies to the pod, if the pod is on the host network. Such a pod has no link of its own.
    pub host_network_profile: Option<ProfileKey>,
    /// The findings about the pod, for the status of profiles.
    pub findings: Vec<Finding>,
}

impl CompiledPod {
    /// Returns the profile that the pod is served by, or `None` if the pod is not served or has no profile.
    #[must_use]
    pub fn profile(&self) -> Option<&ProfileRef> {
        self.item.outcome.workload()?.profile.as_ref()
    }

    /// Returns every profile whose status depends on this pod.
    pub(super) fn related_profiles(&self) -> BTreeSet<ProfileKey> {
        let findings = self.findings.iter().filter_map(|finding| finding.profile.as_ref());
        findings.chain(self.profile()).map(ProfileKey::of).chain(self.host_network_profile.clone()).collect()
    }
}

/// Identifies a profile, independent of its generation and UID.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProfileKey {
    /// The profile's namespace.
    pub namespace: String,
    /// The profile's name.
    pub name: String,
}

impl fmt::Display for ProfileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl ProfileKey {
    /// Returns the key of a profile.
    #[must_use]
    pub fn of(profile: &ProfileRef) -> Self {
        Self { namespace: profile.namespace.clone(), name: profile.name.clone() }
    }
}

/// A changed pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodUpdate {
    /// The pod's UID in the container runtime.
    pub pod: PodUid,
    /// The node that the pod is or was bound to.
    pub node: String,
    /// The compiled pod, or `None` if the pod was deleted.
    pub compiled: Option<Arc<CompiledPod>>,
}
