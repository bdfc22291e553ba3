//! Computes the status of a profile. It is a pure function of the observed profile, the previous status and the time, so a
//! status is written only if it changed.

mod conditions;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use podmeta_crds::conditions::{ACCEPTED, CONFLICTED, CREDENTIALS_READY, PODS_EXCLUDED, PROGRAMMED};
use podmeta_crds::field::FieldError;
use podmeta_crds::metadataprofile::{LastValid, MAX_STATUS_PODS, MetadataProfileStatus};
use podmeta_metadata::credentials::FailureCause;
use podmeta_metadata::finding::Finding;

use crate::text::truncate;
pub use conditions::ConditionStatus;
use conditions::{NewCondition, conditions};

/// The maximum length of a condition's message, in bytes. Source: type `Condition` of Kubernetes `meta/v1`, in characters.
const MAX_MESSAGE_BYTES: usize = 32_768;

/// The inputs of the status of a profile.
#[derive(Clone, Debug, Default)]
pub struct ObservedProfile {
    /// The generation of the spec.
    pub generation: i64,
    /// The invalid fields of the spec. Until it is valid, pods keep the last valid generation.
    pub errors: Vec<FieldError>,
    /// The last valid generation, as the status keeps it.
    pub last_valid: Option<LastValid>,
    /// True if there is a valid generation.
    pub has_valid_generation: bool,
    /// The findings of compiling the pods.
    pub findings: Vec<Finding>,
    /// The pods that use the profile, except those in `host_network_pods`.
    pub pods: Vec<ObservedPod>,
    /// The names of the pods that the profile applies to and that are on the host network of nodes that
    /// do not redirect them to their agent.
    pub host_network_pods: Vec<String>,
    /// True if the profile has roles.
    pub has_roles: bool,
    /// The Secrets of roles that cannot be used or do not hold valid credentials.
    pub secret_errors: Vec<SecretError>,
    /// The Secrets of roles whose credentials some clients cannot use.
    pub secret_warnings: Vec<FieldError>,
    /// True if a pod that uses the profile is on a node whose agent has not reported yet.
    pub has_unreported_nodes: bool,
}

/// A Secret of a role without valid credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretError {
    /// False if the Secret does not exist or profiles may not use it. The status does not distinguish these.
    pub is_usable: bool,
    /// The profile field and the message.
    pub error: FieldError,
}

/// A pod that uses the profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedPod {
    /// The pod's name.
    pub name: String,
    /// True if the node agent has the newest compiled workload, and the pod has a link.
    pub is_programmed: bool,
    /// The result of the pod's last request for credentials.
    pub credentials: CredentialsState,
    /// True if the pod sent requests without a session token in the last 24 hours.
    pub is_tokenless: bool,
}

/// The result of a pod's last request for credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialsState {
    /// The pod did not request credentials.
    NotRequested,
    /// The pod got credentials.
    Issued,
    /// The provider failed.
    Failed {
        /// The cause: the reason of the condition.
        cause: FailureCause,
        /// The profile field of the role, and the message that the pod gets.
        error: FieldError,
    },
}

/// Returns the next status. Conditions whose status did not change keep their transition time.
#[must_use]
pub fn next(
    previous: Option<&MetadataProfileStatus>,
    observed: &ObservedProfile,
    now: Timestamp,
) -> MetadataProfileStatus {
    let before = |kind: &str| previous?.conditions.iter().find(|condition| condition.type_ == kind);
    let condition = |new: NewCondition| {
        let unchanged = before(new.kind).filter(|before| before.status == new.status.as_str());
        Condition {
            type_: new.kind.to_owned(),
            status: new.status.as_str().to_owned(),
            reason: new.reason,
            message: truncate(&new.message, MAX_MESSAGE_BYTES),
            observed_generation: Some(observed.generation),
            last_transition_time: unchanged.map_or(Time(now), |before| before.last_transition_time.clone()),
        }
    };
    let programmed = observed.pods.iter().filter(|pod| pod.is_programmed).count();
    MetadataProfileStatus {
        observed_generation: Some(observed.generation),
        conditions: conditions(observed).into_iter().map(condition).collect(),
        matched_pods: Some(to_i64(observed.pods.len())),
        programmed_pods: Some(to_i64(programmed)),
        tokenless_pods: Some(to_i64(observed.pods.iter().filter(|pod| pod.is_tokenless).count())),
        pods: status_pods(observed),
        last_valid: observed.last_valid.clone(),
    }
}

/// Returns true if the only change is pods that became pending, for a generation that was fully programmed before.
#[must_use]
pub fn is_only_pending(previous: Option<&MetadataProfileStatus>, next: &MetadataProfileStatus) -> bool {
    let Some(previous) = previous.filter(|previous| previous.observed_generation == next.observed_generation) else {
        return false;
    };
    let condition = |status: &MetadataProfileStatus, kind: &str| {
        let condition = status.conditions.iter().find(|condition| condition.type_ == kind);
        condition.map(|condition| (condition.status.clone(), condition.reason.clone()))
    };
    let is_programmed =
        |status| condition(status, PROGRAMMED).is_some_and(|(status, _)| status == ConditionStatus::True.as_str());
    let others_unchanged = [ACCEPTED, CREDENTIALS_READY, CONFLICTED, PODS_EXCLUDED]
        .iter()
        .all(|kind| condition(previous, kind) == condition(next, kind));
    is_programmed(previous) && !is_programmed(next) && others_unchanged
}

/// Returns the pods that are not programmed, then those without credentials.
fn status_pods(observed: &ObservedProfile) -> Vec<String> {
    let pending = observed.pods.iter().filter(|pod| !pod.is_programmed);
    let failed = |pod: &&ObservedPod| pod.is_programmed && matches!(pod.credentials, CredentialsState::Failed { .. });
    let [mut pending, mut failed] = [pending.collect::<Vec<_>>(), observed.pods.iter().filter(failed).collect()];
    pending.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    failed.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    pending.into_iter().chain(failed).take(MAX_STATUS_PODS).map(|pod| pod.name.clone()).collect()
}

fn to_i64(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
