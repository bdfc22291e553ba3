//! Data of the broker that the agent's state file keeps.

use podmeta_metadata::credentials::Credentials;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::role::Role;
use podmeta_metadata::signature::SignedDocument;
use serde::{Deserialize, Serialize};

/// Credentials and signed documents of all pods, saved for a restart without the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedBrokerState {
    /// Credentials of roles.
    pub credentials: Vec<PodRecord<RoleCredentials>>,
    /// Signed documents without an audience.
    pub documents: Vec<PodRecord<SignedDocument>>,
}

/// Credentials and their role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleCredentials {
    /// The role. The credentials are not served for another role.
    pub role: Role,
    /// The credentials.
    pub credentials: Credentials,
}

/// A value that belongs to one pod in one dialect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRecord<T> {
    /// The pod.
    pub pod: PodUid,
    /// The dialect.
    pub dialect: Dialect,
    /// The value.
    pub value: T,
}
