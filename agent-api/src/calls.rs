//! What an agent asks for one pod of its node, and what it tells of all of them. Every call is a POST of JSON. A pod that
//! is not bound to the agent's node now is refused with 403, whatever is asked.

use std::collections::BTreeMap;

use podmeta_metadata::credentials;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::profile::KeyRef;
use podmeta_metadata::secret::SecretString;
use podmeta_metadata::workload::Link;
use serde::{Deserialize, Serialize};

/// Asks for a pod's credentials: a [`PodInDialect`], answered with [`Credentials`].
pub const CREDENTIALS: &str = "/v1/credentials";

/// Asks for a pod's signed identity document: a [`DocumentRequest`], answered with a
/// [`Signed`](podmeta_metadata::signature::Signed).
pub const DOCUMENT: &str = "/v1/document";

/// Asks for a pod's user data that is in a Secret: a [`PodsKey`], answered with [`UserData`].
pub const SECRETS: &str = "/v1/secrets";

/// Tells of all pods of the node: a [`Report`], for the leader alone. Another replica answers 421 and a [`Refused`] that
/// says where the leader is.
pub const REPORTS: &str = "/v1/reports";

/// A pod, and the key of a Secret that its user data is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodsKey {
    /// Which pod.
    pub pod: PodUid,
    /// Where the agent knows its user data to be: an operator that knows it to be elsewhere answers 503.
    pub key: KeyRef,
}

/// A pod in one dialect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodInDialect {
    /// Which pod.
    pub pod: PodUid,
    /// Which dialect's role.
    pub dialect: Dialect,
    /// The profile that the agent serves the pod by: an operator that does not know that generation yet answers 503, and
    /// not with the credentials of an older role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Generation>,
}

/// Credentials, or why there are none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Credentials {
    /// The credentials.
    Given(credentials::Credentials),
    /// Why there are none.
    Failed(credentials::CredentialsFailure),
}

/// Asks for a signed document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentRequest {
    /// Which pod.
    pub pod: PodUid,
    /// In which dialect.
    pub dialect: Dialect,
    /// ECS: what the asker wants to find in the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The pod's addresses, which the document holds. Refused if the API server knows others.
    pub link: Link,
}

/// User data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserData {
    /// The bytes, in base64.
    pub data: SecretString,
}

/// What an agent tells of the pods of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Each pod that it serves.
    pub pods: BTreeMap<PodUid, Reported>,
}

/// What an agent tells of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reported {
    /// The profile that what it serves was compiled from; none if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Generation>,
    /// How it went when the pod last asked for credentials, by dialect: why there were none, or nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<Dialect, Option<String>>,
    /// Whether the pod asked without a session token lately.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tokenless: bool,
}

/// One generation of one profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// The profile's UID.
    pub uid: String,
    /// The generation of its spec.
    pub generation: i64,
}

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// In one line.
    pub message: String,
    /// Where the leader answers, `ADDRESS:PORT`: only in answers to reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
}
