//! Temporary credentials, in the same form for all clouds.

mod cause;
mod code;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::role::ProviderKind;
use crate::secret::SecretString;

pub use cause::FailureCause;

/// The lifetime of credentials from a Secret without an expiration.
const DEFAULT_LIFETIME: SignedDuration = SignedDuration::from_hours(6);

/// Namespace and name of a Secret.
pub type SecretId = (String, String);

/// The label that allows profiles to use a Secret, with the value [`USABLE_BY_PROFILES`].
pub const USABLE_BY_LABEL: &str = "podmeta.dev/usable-by";

/// The value of [`USABLE_BY_LABEL`].
pub const USABLE_BY_PROFILES: &str = "metadataprofiles";

/// Maximum size of the data of a Secret that profiles may use, in bytes. It bounds the memory that one Secret takes in the
/// operator, and is enough for the longest user data and session tokens together.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// The memory that a key of a Secret takes besides its name and value, in bytes, rounded up.
const KEY_OVERHEAD_BYTES: usize = 128;

/// The data of one Kubernetes Secret, by key: no `Display`, a fixed `Debug`, wiped from memory on drop.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretData(BTreeMap<String, Zeroizing<Vec<u8>>>);

impl SecretData {
    /// Returns the value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(|value| value.as_slice())
    }

    /// Returns the size of all keys and values, in bytes.
    fn size(&self) -> usize {
        self.0.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// Returns an upper estimate of the memory that the keys and values take, in bytes.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        self.size() + self.0.len() * KEY_OVERHEAD_BYTES
    }
}

impl FromIterator<(String, Vec<u8>)> for SecretData {
    fn from_iter<I: IntoIterator<Item = (String, Vec<u8>)>>(values: I) -> Self {
        Self(values.into_iter().map(|(key, value)| (key, Zeroizing::new(value))).collect())
    }
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretData(..)")
    }
}

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
    /// The cause, for the status of the profile. An operator of an older release does not send it.
    #[serde(default)]
    pub cause: FailureCause,
    /// The time of the failure.
    pub at: Timestamp,
}

impl CredentialsFailure {
    /// A failure without a more specific code than `Failed`.
    #[must_use]
    pub fn failed(message: String, cause: FailureCause, at: Timestamp) -> Self {
        Self { code: code::FAILED.into(), message, cause, at }
    }

    /// A failure with the code that the provider's cloud has for the cause.
    #[must_use]
    pub fn of_provider(provider: ProviderKind, message: String, cause: FailureCause, at: Timestamp) -> Self {
        Self { code: code::code(provider, cause).into(), message, cause, at }
    }

    /// A failure of a role for which the cloud is not called. Its code is that of a refused role.
    #[must_use]
    pub fn not_called(provider: ProviderKind, message: String, cause: FailureCause, at: Timestamp) -> Self {
        Self { code: code::refused_code(provider).into(), message, cause, at }
    }
}

/// Returns true if profiles may use a Secret with these labels and this data.
#[must_use]
pub fn is_usable(labels: &BTreeMap<String, String>, data: &SecretData) -> bool {
    labels.get(USABLE_BY_LABEL).is_some_and(|value| value == USABLE_BY_PROFILES) && data.size() <= MAX_SECRET_BYTES
}

/// Returns the message for a Secret that profiles cannot use. It is the same for all causes, so that an author of profiles
/// cannot find out which Secrets exist.
#[must_use]
pub fn not_usable(namespace: &str, name: &str) -> String {
    format!(
        "Secret {namespace}/{name} does not exist, does not have the label {USABLE_BY_LABEL}={USABLE_BY_PROFILES}, or is \
         larger than {MAX_SECRET_BYTES} bytes"
    )
}

/// Returns the credentials of a role whose provider is this Secret. `data` is `None` if profiles cannot use the Secret.
///
/// # Errors
/// If profiles cannot use the Secret, or it does not hold valid credentials.
pub fn from_role_secret(
    namespace: &str,
    name: &str,
    data: Option<&SecretData>,
    now: Timestamp,
) -> Result<Credentials, CredentialsFailure> {
    let credentials = match data {
        Some(data) => from_secret(data, now).map_err(|error| format!("Secret {namespace}/{name}: {error}")),
        None => Err(not_usable(namespace, name)),
    };
    credentials.map_err(|message| CredentialsFailure::failed(message, FailureCause::ProviderFailed, now))
}

/// Reads static keys from a Secret: `accessKeyId` and `secretAccessKey`, and optionally `sessionToken` and `expiration`
/// (RFC 3339). Without `expiration` the credentials expire after [`DEFAULT_LIFETIME`]. Line ends after a value are removed.
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
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
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
    fn secret_is_usable_only_with_the_label_and_up_to_the_maximum_size() {
        let labels = |value: &str| BTreeMap::from([(USABLE_BY_LABEL.to_owned(), value.to_owned())]);
        let data = |size| SecretData::from_iter([("key".to_owned(), vec![0; size])]);
        let max = MAX_SECRET_BYTES - "key".len();
        for (labels, size, usable) in [
            (labels(USABLE_BY_PROFILES), max, true),
            (labels(USABLE_BY_PROFILES), max + 1, false),
            (labels("MetadataProfiles"), 1, false),
            (labels(""), 1, false),
            (BTreeMap::from([("usable-by".to_owned(), USABLE_BY_PROFILES.to_owned())]), 1, false),
            (BTreeMap::new(), 1, false),
        ] {
            assert_eq!(is_usable(&labels, &data(size)), usable, "{labels:?} {size}");
        }
    }

    #[test]
    fn message_for_a_secret_that_cannot_be_used_names_the_label() {
        let failure = from_role_secret("shop", "keys", None, now()).unwrap_err();
        let message = "Secret shop/keys does not exist, does not have the label podmeta.dev/usable-by=metadataprofiles, or is \
                       larger than 65536 bytes";
        assert_eq!((failure.code.as_ref(), failure.message.as_str()), ("Failed", message));
    }

    #[test]
    fn debug_output_does_not_contain_the_secret() {
        assert_eq!(format!("{:?}", secret(&[("key", "hunter2")])), "SecretData(..)");
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
