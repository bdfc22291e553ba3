//! What a profile's status says, from what is known of it. A pure function of that, of the status that is there and of the
//! time, so that a status is written only when it says something else.

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use podmeta_crds::conditions::{ACCEPTED, CONFLICTED, CREDENTIALS_READY, PROGRAMMED};
use podmeta_crds::field::FieldError;
use podmeta_crds::metadataprofile::{LastValid, MAX_STATUS_PODS, MetadataProfileStatus};
use podmeta_metadata::finding::{Finding, FindingReason};

/// The longest message of a condition: enough for a few fields, and far below what the API server allows (32,768).
const MAX_MESSAGE: usize = 1024;

/// What is known of a profile.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The generation of its spec.
    pub generation: i64,
    /// What is wrong with its spec. Then its pods are served by the last valid generation, or nothing.
    pub invalid: Vec<FieldError>,
    /// The newest generation that is valid, as the status keeps it.
    pub last_valid: Option<LastValid>,
    /// Whether its pods are served by that one while the spec is not valid.
    pub held: bool,
    /// What compiling its pods found.
    pub findings: Vec<Finding>,
    /// The pods that it serves.
    pub pods: Vec<ObservedPod>,
    /// Whether the profile has a role.
    pub has_roles: bool,
    /// The Secrets of its roles that are not there, or do not hold credentials.
    pub bad_secrets: Vec<FieldError>,
    /// Whether a node that it has pods on has not reported yet, so that nothing is known of what its agent has.
    pub unreported: bool,
}

/// What is known of a pod that a profile serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedPod {
    /// Its name.
    pub name: String,
    /// Whether its node's agent has what was compiled for it last.
    pub programmed: bool,
    /// How it went when it last asked for credentials.
    pub credentials: Credentials,
    /// Whether it asked without a session token lately.
    pub tokenless: bool,
}

/// How it went when a pod last asked for credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// It did not ask.
    NotAsked,
    /// There were some.
    Given,
    /// There were none: why, with the profile's field that it is about.
    Failed(FieldError),
}

/// The status that says all this. Where it says the same as before, it is the same, times included.
#[must_use]
pub fn next(previous: Option<&MetadataProfileStatus>, observed: &Observed, now: Timestamp) -> MetadataProfileStatus {
    let verdicts = [accepted(observed), programmed(observed), credentials_ready(observed), conflicted(observed)];
    let before = |kind: &str| previous?.conditions.iter().find(|condition| condition.type_ == kind);
    let condition = |verdict: Verdict| {
        let since = before(verdict.kind).filter(|before| before.status == verdict.status.as_str());
        Condition {
            type_: verdict.kind.to_owned(),
            status: verdict.status.as_str().to_owned(),
            reason: verdict.reason,
            message: shortened(verdict.message),
            observed_generation: Some(observed.generation),
            last_transition_time: since.map_or(Time(now), |before| before.last_transition_time.clone()),
        }
    };
    let programmed = observed.pods.iter().filter(|pod| pod.programmed).count();
    MetadataProfileStatus {
        observed_generation: Some(observed.generation),
        conditions: verdicts.into_iter().map(condition).collect(),
        matched_pods: Some(count(observed.pods.len())),
        programmed_pods: Some(count(programmed)),
        tokenless_pods: Some(count(observed.pods.iter().filter(|pod| pod.tokenless).count())),
        pods: named(observed),
        last_valid: observed.last_valid.clone(),
    }
}

/// Whether all that a status says anew is that agents do not have some pods yet, of a generation that they all had.
#[must_use]
pub fn only_waits(previous: Option<&MetadataProfileStatus>, next: &MetadataProfileStatus) -> bool {
    let Some(previous) = previous.filter(|previous| previous.observed_generation == next.observed_generation) else {
        return false;
    };
    let said = |status: &MetadataProfileStatus, kind: &str| {
        let conditions = status.conditions.iter().find(|condition| condition.type_ == kind);
        conditions.map(|condition| (condition.status.clone(), condition.reason.clone()))
    };
    let programmed = |status| said(status, PROGRAMMED).is_some_and(|(status, _)| status == Status::True.as_str());
    let others_same =
        [ACCEPTED, CREDENTIALS_READY, CONFLICTED].iter().all(|kind| said(previous, kind) == said(next, kind));
    programmed(previous) && !programmed(next) && others_same
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    True,
    False,
    Unknown,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

#[derive(Debug)]
struct Verdict {
    kind: &'static str,
    status: Status,
    reason: String,
    message: String,
}

fn accepted(observed: &Observed) -> Verdict {
    let verdict =
        |status, reason: &str, message| Verdict { kind: ACCEPTED, status, reason: reason.to_owned(), message };
    if !observed.invalid.is_empty() {
        let wrong = list(observed.invalid.iter().map(ToString::to_string));
        let meanwhile = match (observed.held, &observed.last_valid) {
            (true, Some(last)) => format!("its pods are served by generation {} meanwhile", last.generation),
            (true, None) => "its pods are served by a generation before meanwhile".to_owned(),
            (false, _) => "it gives its pods nothing meanwhile".to_owned(),
        };
        return verdict(Status::False, "Invalid", format!("{wrong}; {meanwhile}"));
    }
    let refusals: Vec<&Finding> = observed.findings.iter().filter(|finding| is_refusal(finding.reason)).collect();
    match refusals.iter().map(|finding| finding.reason).min() {
        Some(first) => verdict(Status::False, &first.to_string(), list(refusals.into_iter().map(line))),
        None => verdict(Status::True, "Accepted", "the profile is valid, and policies allow all of it".to_owned()),
    }
}

fn programmed(observed: &Observed) -> Verdict {
    let verdict =
        |status, reason: &str, message| Verdict { kind: PROGRAMMED, status, reason: reason.to_owned(), message };
    let missing = observed.pods.iter().filter(|pod| !pod.programmed).count();
    match (observed.pods.len(), missing) {
        (0, _) => verdict(Status::True, "NoPods", "the profile serves no pod".to_owned()),
        (all, 0) => verdict(Status::True, "Programmed", format!("the agents of all {all} pods have it")),
        (all, missing) => {
            verdict(Status::False, "Pending", format!("the agents of {missing} of {all} pods do not have it yet"))
        }
    }
}

fn credentials_ready(observed: &Observed) -> Verdict {
    let verdict =
        |status, reason: &str, message| Verdict { kind: CREDENTIALS_READY, status, reason: reason.to_owned(), message };
    if !observed.bad_secrets.is_empty() {
        let bad = list(observed.bad_secrets.iter().map(ToString::to_string));
        return verdict(Status::False, "SecretUnusable", bad);
    }
    let failed = observed.pods.iter().filter_map(|pod| match &pod.credentials {
        Credentials::Failed(why) => Some(format!("pod {}: {why}", pod.name)),
        Credentials::Given | Credentials::NotAsked => None,
    });
    let failed = list(failed);
    let given = observed.pods.iter().any(|pod| pod.credentials == Credentials::Given);
    match (observed.has_roles, failed.is_empty(), given) {
        (false, _, _) => verdict(Status::True, "NoRoles", "the profile has no role".to_owned()),
        (true, false, _) => verdict(Status::False, "ProviderFailed", failed),
        (true, true, true) => verdict(Status::True, "Given", "every pod that asked has credentials".to_owned()),
        (true, true, false) => verdict(Status::Unknown, "NotAsked", "no pod has asked for credentials yet".to_owned()),
    }
}

fn conflicted(observed: &Observed) -> Verdict {
    let verdict =
        |status, reason: &str, message| Verdict { kind: CONFLICTED, status, reason: reason.to_owned(), message };
    let conflicts = observed.findings.iter().filter(|finding| finding.reason == FindingReason::Conflicted);
    let conflicts = list(conflicts.map(line));
    if conflicts.is_empty() {
        verdict(Status::False, "NoConflict", "no other profile of the same priority matches its pods".to_owned())
    } else {
        verdict(Status::True, "Conflicted", conflicts)
    }
}

/// Whether a finding is about a part of the spec that is not done as it says.
fn is_refusal(reason: FindingReason) -> bool {
    match reason {
        FindingReason::PolicyTightened
        | FindingReason::PolicyForbids
        | FindingReason::UserDataUnavailable
        | FindingReason::ItemUnavailable
        | FindingReason::ItemMisplaced => true,
        // The first has a condition of its own; the other is what most labels are.
        FindingReason::Conflicted | FindingReason::TagDropped => false,
    }
}

fn line(finding: &Finding) -> String {
    format!("{}: {}", finding.field, finding.message)
}

/// In an order that does not depend on that in which pods were compiled.
fn list(lines: impl Iterator<Item = String>) -> String {
    let mut lines: Vec<String> = lines.collect();
    lines.sort_unstable();
    lines.dedup();
    lines.join("; ")
}

fn shortened(message: String) -> String {
    if message.len() <= MAX_MESSAGE {
        return message;
    }
    let mut short: String = message.chars().take(MAX_MESSAGE / 4 - 1).collect(); // a character has up to four bytes
    short.push('…');
    short
}

/// The pods that are not programmed first, then those without credentials.
fn named(observed: &Observed) -> Vec<String> {
    let pending = observed.pods.iter().filter(|pod| !pod.programmed);
    let failed = |pod: &&ObservedPod| pod.programmed && matches!(pod.credentials, Credentials::Failed(_));
    let [mut pending, mut failed] = [pending.collect::<Vec<_>>(), observed.pods.iter().filter(failed).collect()];
    pending.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    failed.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    pending.into_iter().chain(failed).take(MAX_STATUS_PODS).map(|pod| pod.name.clone()).collect()
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
