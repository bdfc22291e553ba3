//! The outcome of compiling one pod, and the data that a node agent serves for it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::profile::ProfileRef;
use crate::workload::{Link, PodRef, Workload};

/// Result of compiling one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub enum Outcome {
    /// The pod is served.
    Served(Box<Workload>),
    /// The pod gets 403 on every path.
    Denied(Denied),
    /// The pod is in the host network, and its profile and policies leave it to the node's own metadata service.
    Node(PodRef),
}

impl Outcome {
    /// Returns the pod.
    #[must_use]
    pub fn pod(&self) -> &PodRef {
        match self {
            Self::Served(workload) => &workload.pod,
            Self::Denied(denied) => &denied.pod,
            Self::Node(pod) => pod,
        }
    }

    /// Returns the workload, or `None` if the pod is not served.
    #[must_use]
    pub fn workload(&self) -> Option<&Workload> {
        match self {
            Self::Served(workload) => Some(workload),
            Self::Denied(_) | Self::Node(_) => None,
        }
    }

    /// Returns the data that a node agent serves for the pod, or `None` if it leaves the pod to the node's own service.
    pub fn into_view(self, link: impl FnOnce() -> Link) -> Option<PodView> {
        match self {
            Self::Served(workload) => Some(PodView::Served(workload, link())),
            Self::Denied(denied) => Some(PodView::Denied(denied)),
            Self::Node(_) => None,
        }
    }
}

/// Data that a node agent serves for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodView {
    /// The trees of the workload, rendered with the pod's link.
    Served(Box<Workload>, Link),
    /// 403 on every path.
    Denied(Denied),
}

/// A pod that gets 403 on every path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// The pod.
    pub pod: PodRef,
    /// Reason for the denial.
    #[serde(flatten)]
    pub reason: DenialReason,
}

/// Reason why a pod is denied, and the profile to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialReason {
    /// The reason, as one clause.
    #[serde(rename = "reason", alias = "why")]
    pub message: String,
    /// The profile that matches the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileRef>,
}

impl DenialReason {
    /// Creates a reason that does not come from a profile, such as that none matches.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), profile: None }
    }

    /// Creates a reason that comes from this profile, or from a policy that restricts it.
    #[must_use]
    pub fn of_profile(profile: ProfileRef, message: impl Into<String>) -> Self {
        Self { message: message.into(), profile: Some(profile) }
    }
}

impl fmt::Display for DenialReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.profile {
            Some(profile) => write!(f, " (MetadataProfile {}/{})", profile.namespace, profile.name),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denied_of_version_0_1_is_read() {
        let json = r#"{"outcome":"denied","pod":{"namespace":"shop","name":"web","uid":"u"},"why":"no profile"}"#;
        let outcome = serde_json::from_str::<Outcome>(json).unwrap();
        let pod = PodRef { namespace: "shop".into(), name: "web".into(), uid: "u".try_into().unwrap() };
        assert_eq!(outcome, Outcome::Denied(Denied { pod, reason: DenialReason::new("no profile") }));
    }
}
