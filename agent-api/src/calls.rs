//! Requests for one pod, and the report of a node. Each is a POST with a JSON body. A request for a pod that is not bound to
//! the agent's node is rejected with 403.

use std::collections::BTreeMap;

use podmeta_metadata::credentials::{Credentials, CredentialsFailure, FailureCause};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::node_finding::NodeFindings;
use podmeta_metadata::node_guard::NodeGuardState;
use podmeta_metadata::profile::KeyRef;
use podmeta_metadata::secret::SecretString;
use podmeta_metadata::workload::Link;
use serde::{Deserialize, Serialize};

/// Path of a pod's credentials: [`CredentialsRequest`], [`CredentialsResponse`].
pub const CREDENTIALS: &str = "/v1/credentials";

/// Path of a pod's signed identity document: [`DocumentRequest`], [`SignedDocument`](podmeta_metadata::signature::SignedDocument).
pub const DOCUMENT: &str = "/v1/document";

/// Path of a pod's user data in a Secret: [`UserDataRequest`], [`UserDataResponse`].
pub const USER_DATA: &str = "/v1/secrets";

/// Path of the [`Report`] of a node. Only the leader accepts it. Other replicas return 421 and a [`CallError`] with the
/// leader's address.
pub const REPORTS: &str = "/v1/reports";

/// Requests the credentials of a pod's role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialsRequest {
    /// The pod.
    pub pod: PodUid,
    /// The dialect of the role.
    pub dialect: Dialect,
    /// The profile generation that the agent serves. An operator that does not know it yet returns 503, not the
    /// credentials of an older role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileGeneration>,
}

/// The credentials of a pod's role, or the failure of their provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CredentialsResponse {
    /// The credentials.
    Issued(Credentials),
    /// The failure.
    Failed(CredentialsFailure),
    /// The cloud has not responded yet. The call continues. Request again.
    Pending,
}

/// Requests a pod's signed identity document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentRequest {
    /// The pod.
    pub pod: PodUid,
    /// The dialect of the document.
    pub dialect: Dialect,
    /// The audience in the document (ECS only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The addresses in the document. Rejected with 403 if the API server has other addresses for the pod.
    pub link: Link,
}

/// Requests a pod's user data in a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDataRequest {
    /// The pod.
    pub pod: PodUid,
    /// The key of the Secret that the agent knows. An operator that knows another key returns 503.
    pub key: KeyRef,
}

/// The user data of a pod, from a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDataResponse {
    /// The user data, in base64.
    pub data: SecretString,
}

/// The report of a node's agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The pods that the agent serves.
    pub pods: BTreeMap<PodUid, PodReport>,
    /// Findings about the node. Agents of an older version send none.
    #[serde(default, skip_serializing_if = "NodeFindings::is_empty")]
    pub findings: NodeFindings,
    /// State of the node's guards and links. Unknown for an agent of an older version, which sends none.
    #[serde(default)]
    pub guard: NodeGuardState,
    /// True if pods on the host network are redirected to the agent. False for an agent of an older version.
    #[serde(default, rename = "hostPods", skip_serializing_if = "std::ops::Not::not")]
    pub host_pods: bool,
}

/// The report of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// The profile generation that is served, or `None` without a profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileGeneration>,
    /// The result of the pod's last request for credentials in each dialect: `None` if it succeeded, or the error.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<Dialect, Option<String>>,
    /// The causes of the errors in `credentials`. An agent of an older release does not report them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub causes: BTreeMap<Dialect, FailureCause>,
    /// True if the pod sent requests without a session token in the last 24 hours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tokenless: bool,
    /// True if the pod has a link on the node. `None`: the agent has an older version, which does not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked: Option<bool>,
}

/// A generation of a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileGeneration {
    /// The profile's UID.
    pub uid: String,
    /// The generation of its spec.
    pub generation: i64,
}

/// The body of an error response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallError {
    /// The error, on one line.
    pub message: String,
    /// The address of the leader, `ADDRESS:PORT`. Only in 421 responses to reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_of_an_older_agent_has_no_findings_no_links_and_an_unknown_guard() {
        let report = serde_json::from_str::<Report>(r#"{"pods":{"u1":{}}}"#).unwrap();
        let pods = BTreeMap::from([("u1".try_into().unwrap(), PodReport::default())]);
        assert_eq!(report, Report { pods, ..Report::default() });
        assert_eq!(report.guard, NodeGuardState::Unknown);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(text, r#"{"pods":{"u1":{}},"guard":{"state":"unknown"}}"#, "an older operator ignores the guard");
    }
}
