//! Temporary credentials as they pass from a provider to a pod, whatever the cloud calls their parts.

use jiff::Timestamp;

use crate::secret::Secret;

/// Credentials that end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The key's id, which is no secret.
    pub access_key_id: String,
    /// The key.
    pub secret_access_key: Secret,
    /// The session's token; empty for static keys.
    pub session_token: Secret,
    /// When they were made.
    pub last_updated: Timestamp,
    /// When they end.
    pub expiration: Timestamp,
}

/// Why there are none: it is served in the cloud's own error JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// A word in the style of the cloud's codes.
    pub code: &'static str,
    /// What the owner of the pod should do.
    pub message: String,
    /// When it was found out.
    pub at: Timestamp,
}
