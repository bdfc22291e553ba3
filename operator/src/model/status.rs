//! Computes the status of a profile. It is a pure function of the observed profile, the previous status and the time, so a
//! status is written only if it changed.

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use podmeta_crds::conditions::{ACCEPTED, CONFLICTED, CREDENTIALS_READY, PODS_EXCLUDED, PROGRAMMED};
use podmeta_crds::field::FieldError;
use podmeta_crds::metadataprofile::{LastValid, MAX_STATUS_PODS, MetadataProfileStatus};
use podmeta_metadata::credentials::FailureCause;
use podmeta_metadata::finding::{Finding, FindingReason};

/// The maximum length of a condition's message, in bytes. Source: type `Condition` of Kubernetes `meta/v1`, in characters.
const MAX_MESSAGE_BYTES: usize = 32_768;

/// The maximum number of pods that a message about pods on the host network names.
const MAX_NAMED_PODS: usize = 5;

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
    /// The pods that use the profile, except those on the host network.
    pub pods: Vec<ObservedPod>,
    /// The names of the pods that the profile applies to and that are on the host network. Agents cannot serve them.
    pub host_network_pods: Vec<String>,
    /// True if the profile has roles.
    pub has_roles: bool,
    /// The Secrets of roles that cannot be used or do not hold valid credentials.
    pub secret_errors: Vec<SecretError>,
    /// The Secrets of roles whose credentials some clients cannot use.
    pub secret_warnings: Vec<FieldError>,
    /// True if the agent of a node with such pods has not reported yet.
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
    /// True if the node agent has the newest compiled workload.
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
    let conditions = [
        accepted(observed),
        programmed(observed),
        credentials_ready(observed),
        conflicted(observed),
        pods_excluded(observed),
    ];
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
        conditions: conditions.into_iter().map(condition).collect(),
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConditionStatus {
    True,
    False,
    Unknown,
}

impl ConditionStatus {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A condition without its times.
#[derive(Debug)]
struct NewCondition {
    kind: &'static str,
    status: ConditionStatus,
    reason: String,
    message: String,
}

impl NewCondition {
    fn new(kind: &'static str, status: ConditionStatus, reason: impl ToString, message: impl Into<String>) -> Self {
        Self { kind, status, reason: reason.to_string(), message: message.into() }
    }
}

fn accepted(observed: &ObservedProfile) -> NewCondition {
    let condition = |status, reason: &str, message: String| NewCondition::new(ACCEPTED, status, reason, message);
    if !observed.errors.is_empty() {
        let errors = join(observed.errors.iter().map(ToString::to_string));
        let effect = match (observed.has_valid_generation, &observed.last_valid) {
            (true, Some(last)) => format!("pods keep the last valid generation, {}", last.generation),
            (true, None) => "pods keep the last valid generation".to_owned(),
            (false, _) => "there is no valid generation, so agents serve no metadata to its pods".to_owned(),
        };
        return condition(ConditionStatus::False, "Invalid", format!("{errors}; {effect}"));
    }
    let restrictions: Vec<&Finding> =
        observed.findings.iter().filter(|finding| is_restriction(finding.reason)).collect();
    match restrictions.iter().map(|finding| finding.reason).min() {
        Some(first) => {
            condition(ConditionStatus::False, &first.to_string(), join(restrictions.into_iter().map(format_finding)))
        }
        None => condition(
            ConditionStatus::True,
            "Accepted",
            "the spec is valid and every part of it is in effect".to_owned(),
        ),
    }
}

/// Reports which data the node agents have.
fn programmed(observed: &ObservedProfile) -> NewCondition {
    let condition = |status, reason: &str, message: String| NewCondition::new(PROGRAMMED, status, reason, message);
    let pending = observed.pods.iter().filter(|pod| !pod.is_programmed).count();
    match (observed.pods.len(), pending) {
        (0, _) if observed.host_network_pods.is_empty() => {
            condition(ConditionStatus::True, "NoPods", "no pod uses this profile".to_owned())
        }
        (0, _) => {
            let message = "this profile applies to pods on the host network only, which podmeta does not serve";
            condition(ConditionStatus::True, "NoPods", message.to_owned())
        }
        (all, 0) => {
            let message = format!("node agents have the data of all {all} pods");
            condition(ConditionStatus::True, "Programmed", message)
        }
        (all, pending) => condition(
            ConditionStatus::False,
            "Pending",
            format!("node agents do not have the data of {pending} of {all} pods yet"),
        ),
    }
}

fn credentials_ready(observed: &ObservedProfile) -> NewCondition {
    let condition =
        |status, reason: &str, message: String| NewCondition::new(CREDENTIALS_READY, status, reason, message);
    if !observed.secret_errors.is_empty() {
        let errors = join(observed.secret_errors.iter().map(|secret| secret.error.to_string()));
        return if observed.secret_errors.iter().all(|error| error.is_usable) {
            condition(ConditionStatus::False, "SecretUnusable", errors)
        } else {
            condition(ConditionStatus::False, "SecretNotOptedIn", errors)
        };
    }
    let failures = observed.pods.iter().filter_map(|pod| match &pod.credentials {
        CredentialsState::Failed { cause, error } => Some((*cause, format!("pod {}: {error}", pod.name))),
        CredentialsState::Issued | CredentialsState::NotRequested => None,
    });
    let (causes, failures): (Vec<FailureCause>, Vec<String>) = failures.unzip();
    let first_cause = causes.into_iter().min();
    let failures = join(failures.into_iter());
    let warnings = join(observed.secret_warnings.iter().map(ToString::to_string));
    let with_warnings =
        |message: &str| if warnings.is_empty() { message.to_owned() } else { format!("{message}; {warnings}") };
    let any_issued = observed.pods.iter().any(|pod| pod.credentials == CredentialsState::Issued);
    match (observed.has_roles, first_cause, any_issued) {
        (false, _, _) => condition(ConditionStatus::True, "NoRoles", "the profile has no roles".to_owned()),
        (true, Some(cause), _) => condition(ConditionStatus::False, &cause.to_string(), failures),
        (true, None, true) => {
            condition(ConditionStatus::True, "Given", with_warnings("every pod that requested credentials got them"))
        }
        (true, None, false) => {
            condition(ConditionStatus::Unknown, "NotAsked", with_warnings("no pod has requested credentials yet"))
        }
    }
}

fn conflicted(observed: &ObservedProfile) -> NewCondition {
    let conflicts = observed.findings.iter().filter(|finding| finding.reason == FindingReason::Conflicted);
    let conflicts = join(conflicts.map(format_finding));
    if conflicts.is_empty() {
        let message = "no other profile with the same priority matches its pods";
        NewCondition::new(CONFLICTED, ConditionStatus::False, "NoConflict", message)
    } else {
        NewCondition::new(CONFLICTED, ConditionStatus::True, "Conflicted", conflicts)
    }
}

/// Reports the pods that no agent can serve, because they are on the host network and have no link.
fn pods_excluded(observed: &ObservedProfile) -> NewCondition {
    let mut names: Vec<&str> = observed.host_network_pods.iter().map(String::as_str).collect();
    if names.is_empty() {
        let message = "this profile applies to no pod on the host network";
        return NewCondition::new(PODS_EXCLUDED, ConditionStatus::False, "NoHostNetworkPods", message);
    }
    names.sort_unstable();
    let count = names.len();
    names.truncate(MAX_NAMED_PODS);
    let mut named = names.join(", ");
    if count > names.len() {
        named.push_str(&format!(" and {} more", count - names.len()));
    }
    let message = format!(
        "podmeta does not serve pods on the host network, and they still reach the node's own metadata service; \
         affected pods: {count} ({named})"
    );
    NewCondition::new(PODS_EXCLUDED, ConditionStatus::True, "HostNetwork", message)
}

/// Returns true if a finding means that a part of the spec is not in effect.
fn is_restriction(reason: FindingReason) -> bool {
    match reason {
        FindingReason::PolicyTightened
        | FindingReason::PolicyForbids
        | FindingReason::RoleUnavailable
        | FindingReason::UserDataUnavailable
        | FindingReason::ItemUnavailable
        | FindingReason::ItemMisplaced
        | FindingReason::TooManyTags
        | FindingReason::WorkloadTooLarge
        | FindingReason::InternalError => true,
        // A conflict has its own condition. Most labels are not valid tag keys.
        FindingReason::Conflicted | FindingReason::TagDropped => false,
    }
}

fn format_finding(finding: &Finding) -> String {
    format!("{}: {}", finding.field, finding.message)
}

/// Joins the lines in an order that does not depend on the order of the pods.
fn join(lines: impl Iterator<Item = String>) -> String {
    let mut lines: Vec<String> = lines.collect();
    lines.sort_unstable();
    lines.dedup();
    lines.join("; ")
}

/// Shortens a text to at most `max_bytes`, which must be at least 3. A shortened text ends with an ellipsis.
#[must_use]
pub fn truncate(text: &str, max_bytes: usize) -> String {
    const ELLIPSIS: char = '…';
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(max_bytes.saturating_sub(ELLIPSIS.len_utf8()));
    let mut short = text.get(..end).unwrap_or_default().to_owned();
    short.push(ELLIPSIS);
    short
}

/// Replaces each control character with a space.
#[must_use]
pub fn replace_control_characters(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
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
