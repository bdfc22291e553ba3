//! Temporary credentials as they pass from a provider to a pod, whatever the cloud calls their parts.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// How long credentials live whose Secret does not say.
const DEFAULT_LIFE: SignedDuration = SignedDuration::from_hours(6);

/// The data of one Kubernetes Secret, by key.
pub type SecretData = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// Credentials that end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct CredentialsFailure {
    /// A word in the style of the cloud's codes.
    pub code: Cow<'static, str>,
    /// What the owner of the pod should do.
    pub message: String,
    /// When it was found out.
    pub at: Timestamp,
}

/// Static keys of a Secret: `accessKeyId`, `secretAccessKey`, and if they are there `sessionToken` and `expiration`
/// (RFC 3339).
///
/// # Errors
/// What is wrong with the data, without any of it.
pub fn from_secret(data: &SecretData, now: Timestamp) -> Result<Credentials, String> {
    let text = |key: &str| match data.get(key) {
        None => Ok(None),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']))),
            Err(_) => Err(format!("its key {key} is not text")),
        },
    };
    let needed = |key: &str| {
        text(key)?.filter(|text| !text.is_empty()).ok_or_else(|| format!("its key {key} is missing or empty"))
    };
    let expiration = match text("expiration")? {
        None => now.checked_add(DEFAULT_LIFE).map_err(|error| error.to_string())?,
        Some(text) => text.parse::<Timestamp>().map_err(|_| "its key expiration is not an RFC 3339 time".to_owned())?,
    };
    if expiration <= now {
        return Err("its credentials have expired".to_owned());
    }
    Ok(Credentials {
        access_key_id: needed("accessKeyId")?.to_owned(),
        secret_access_key: Secret::new(needed("secretAccessKey")?.to_owned()),
        session_token: Secret::new(text("sessionToken")?.unwrap_or_default().to_owned()),
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
    fn static_keys_end_in_six_hours_unless_the_secret_says_when() {
        let keys = [("accessKeyId", "AKIA"), ("secretAccessKey", "s\n")];
        let given = from_secret(&secret(&keys), now()).unwrap();
        assert_eq!(given.expiration, "2026-01-05T14:00:00Z".parse().unwrap());
        assert_eq!((given.secret_access_key.expose(), given.session_token.expose()), ("s", ""));
        let until = [keys[0], keys[1], ("expiration", "2026-01-05T09:00:00Z"), ("sessionToken", "t")];
        let given = from_secret(&secret(&until), now()).unwrap();
        assert_eq!(given.expiration, "2026-01-05T09:00:00Z".parse().unwrap());
        assert_eq!(given.session_token.expose(), "t");
    }

    #[test]
    fn a_secret_that_is_no_good_gives_a_reason_and_no_keys() {
        for (pairs, why) in [
            (&[("accessKeyId", "AKIA")][..], "secretAccessKey is missing"),
            (&[("accessKeyId", ""), ("secretAccessKey", "s")], "accessKeyId is missing"),
            (&[("accessKeyId", "a"), ("secretAccessKey", "s"), ("expiration", "soon")], "not an RFC 3339"),
            (&[("accessKeyId", "a"), ("secretAccessKey", "s"), ("expiration", "2026-01-05T08:00:00Z")], "expired"),
        ] {
            let error = from_secret(&secret(pairs), now()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
