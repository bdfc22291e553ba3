//! Temporary credentials, in the same form for all clouds.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::secret::SecretString;

/// The lifetime of credentials from a Secret without an expiration.
const DEFAULT_LIFETIME: SignedDuration = SignedDuration::from_hours(6);

/// The failure code of a Secret that is missing or invalid.
const SECRET_FAILED: &str = "Failed";

/// The failure code of a provider that cannot be used.
const PROVIDER_FAILED: &str = "AssumeRoleUnauthorizedAccess";

/// The data of one Kubernetes Secret, by key.
pub type SecretData = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// Credentials that expire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// The access key ID. It is not secret.
    pub access_key_id: String,
    /// The secret access key.
    pub secret_access_key: SecretString,
    /// The session token; empty for static keys.
    pub session_token: SecretString,
    /// The time at which they were issued.
    pub last_updated: Timestamp,
    /// The time at which they expire.
    pub expiration: Timestamp,
}

/// Reason why a pod has no credentials. The pod gets it in the cloud's error document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct CredentialsFailure {
    /// A code in the style of the cloud.
    pub code: Cow<'static, str>,
    /// Failed step and the change to make.
    pub message: String,
    /// The time of the failure.
    pub at: Timestamp,
}

impl CredentialsFailure {
    /// A failure of a provider that cannot be used.
    #[must_use]
    pub fn of_provider(message: String, at: Timestamp) -> Self {
        Self { code: PROVIDER_FAILED.into(), message, at }
    }
}

/// Returns the credentials of a role whose provider is this Secret. `data` is `None` if the Secret does not exist.
///
/// # Errors
/// If the Secret does not exist or does not hold valid credentials.
pub fn from_role_secret(
    namespace: &str,
    name: &str,
    data: Option<&SecretData>,
    now: Timestamp,
) -> Result<Credentials, CredentialsFailure> {
    let credentials = match data {
        Some(data) => from_secret(data, now).map_err(|error| format!("Secret {namespace}/{name}: {error}")),
        None => Err(format!("Secret {namespace}/{name} does not exist")),
    };
    credentials.map_err(|message| CredentialsFailure { code: SECRET_FAILED.into(), message, at: now })
}

/// Reads static keys from a Secret: `accessKeyId` and `secretAccessKey`, and optionally `sessionToken` and `expiration`
/// (RFC 3339).
///
/// # Errors
/// If a key is missing or invalid, or the credentials have expired. The message contains no data of the Secret.
pub fn from_secret(data: &SecretData, now: Timestamp) -> Result<Credentials, String> {
    let text = |key: &str| match data.get(key) {
        None => Ok(None),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']))),
            Err(_) => Err(format!("its key {key} is not text")),
        },
    };
    let required = |key: &str| {
        text(key)?.filter(|text| !text.is_empty()).ok_or_else(|| format!("its key {key} is missing or empty"))
    };
    let expiration = match text("expiration")? {
        None => now.checked_add(DEFAULT_LIFETIME).map_err(|error| error.to_string())?,
        Some(text) => text.parse::<Timestamp>().map_err(|_| "its key expiration is not an RFC 3339 time".to_owned())?,
    };
    if expiration <= now {
        return Err("its credentials have expired".to_owned());
    }
    Ok(Credentials {
        access_key_id: required("accessKeyId")?.to_owned(),
        secret_access_key: SecretString::new(required("secretAccessKey")?.to_owned()),
        session_token: SecretString::new(text("sessionToken")?.unwrap_or_default().to_owned()),
        last_updated: now,
        expiration,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-05T08:00:00Z".parse().unwrap()
    }

    fn secret(pairs: &[(&str, &str)]) -> SecretData {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), Zeroizing::new(value.as_bytes().to_vec()))).collect()
    }

    #[test]
    fn static_keys_expire_after_six_hours_or_at_the_expiration_of_the_secret() {
        let keys = [("accessKeyId", "AKIA"), ("secretAccessKey", "s\n")];
        let credentials = from_secret(&secret(&keys), now()).unwrap();
        assert_eq!(credentials.expiration, "2026-01-05T14:00:00Z".parse().unwrap());
        assert_eq!((credentials.secret_access_key.expose(), credentials.session_token.expose()), ("s", ""));
        let expiring = [keys[0], keys[1], ("expiration", "2026-01-05T09:00:00Z"), ("sessionToken", "t")];
        let credentials = from_secret(&secret(&expiring), now()).unwrap();
        assert_eq!(credentials.expiration, "2026-01-05T09:00:00Z".parse().unwrap());
        assert_eq!(credentials.session_token.expose(), "t");
    }

    #[test]
    fn invalid_secret_is_an_error_with_a_reason() {
        for (pairs, reason) in [
            (&[("accessKeyId", "AKIA")][..], "secretAccessKey is missing"),
            (&[("accessKeyId", ""), ("secretAccessKey", "s")], "accessKeyId is missing"),
            (&[("accessKeyId", "a"), ("secretAccessKey", "s"), ("expiration", "soon")], "not an RFC 3339"),
            (&[("accessKeyId", "a"), ("secretAccessKey", "s"), ("expiration", "2026-01-05T08:00:00Z")], "expired"),
        ] {
            let error = from_secret(&secret(pairs), now()).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
