//! The conditions of a profile, with their reasons and messages.

use podmeta_crds::conditions::{ACCEPTED, CONFLICTED, CREDENTIALS_READY, PODS_EXCLUDED, PROGRAMMED};
use podmeta_metadata::credentials::FailureCause;
use podmeta_metadata::finding::{Finding, FindingReason};

use super::{CredentialsState, ObservedProfile};

/// The maximum number of pod names in a message about pods on the host network.
const MAX_NAMED_PODS: usize = 5;

/// Returns the conditions, in their order in the status.
pub(super) fn conditions(observed: &ObservedProfile) -> [NewCondition; 5] {
    [
        accepted(observed),
        programmed(observed),
        credentials_ready(observed),
        conflicted(observed),
        pods_excluded(observed),
    ]
}

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    /// `True`.
    True,
    /// `False`.
    False,
    /// `Unknown`.
    Unknown,
}

impl ConditionStatus {
    /// All statuses.
    pub const ALL: [Self; 3] = [Self::True, Self::False, Self::Unknown];

    /// Returns the text in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A condition without its times.
#[derive(Debug)]
pub(super) struct NewCondition {
    pub(super) kind: &'static str,
    pub(super) status: ConditionStatus,
    pub(super) reason: String,
    pub(super) message: String,
}

impl NewCondition {
    fn new(kind: &'static str, status: ConditionStatus, reason: impl ToString, message: impl Into<String>) -> Self {
        Self { kind, status, reason: reason.to_string(), message: message.into() }
    }
}

/// Reports whether the spec is valid and in effect.
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

/// Reports whether the node agents have the data of all pods, and whether each pod has a link.
fn programmed(observed: &ObservedProfile) -> NewCondition {
    let condition = |status, reason: &str, message: String| NewCondition::new(PROGRAMMED, status, reason, message);
    let pending = observed.pods.iter().filter(|pod| !pod.is_programmed).count();
    match (observed.pods.len(), pending) {
        (0, _) if observed.host_network_pods.is_empty() => {
            condition(ConditionStatus::True, "NoPods", "no pod uses this profile".to_owned())
        }
        (0, _) => {
            let message = "no pod uses this profile, except pods on the host network of nodes without redirection";
            condition(ConditionStatus::True, "NoPods", message.to_owned())
        }
        (all, 0) => {
            let message = format!("node agents have the data of all {all} pods, and each pod has a link");
            condition(ConditionStatus::True, "Programmed", message)
        }
        (all, pending) => condition(
            ConditionStatus::False,
            "Pending",
            format!(
                "{pending} of {all} pods are pending: their node agent does not have their data, or they have no link"
            ),
        ),
    }
}

/// Reports whether pods that requested credentials got them.
fn credentials_ready(observed: &ObservedProfile) -> NewCondition {
    let condition =
        |status, reason: &str, message: String| NewCondition::new(CREDENTIALS_READY, status, reason, message);
    if !observed.secret_errors.is_empty() {
        let errors = join(observed.secret_errors.iter().map(|secret| secret.error.to_string()));
        return if observed.secret_errors.iter().all(|error| error.is_usable) {
            // Profiles may use each of these Secrets, but its data is not valid.
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
            condition(ConditionStatus::True, "Issued", with_warnings("every pod that requested credentials got them"))
        }
        (true, None, false) => {
            condition(ConditionStatus::Unknown, "NotRequested", with_warnings("no pod has requested credentials yet"))
        }
    }
}

/// Reports other profiles of the same priority that match the same pods.
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

/// Reports the pods that no agent can serve: they are on the host network, and their node does not redirect them to its agent.
fn pods_excluded(observed: &ObservedProfile) -> NewCondition {
    let mut names: Vec<&str> = observed.host_network_pods.iter().map(String::as_str).collect();
    if names.is_empty() {
        let message = "this profile applies to no pod on the host network of a node without redirection";
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
        "pods on the host network of nodes without redirection: {count} ({named}); podmeta does not serve them, and they reach \
         the node's own metadata service unless the uplink guard drops their requests"
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
