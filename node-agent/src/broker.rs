//! Gets what an answer needs from outside the tree: credentials, data of Secrets, signatures. In dev mode all of it comes
//! from the files; providers that ask a cloud are the operator's and answer with the cloud's error here.

use std::collections::BTreeMap;

use arc_swap::ArcSwap;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use podmeta_metadata::credentials::{Credentials, Failure};
use podmeta_metadata::profile::{KeyRef, MAX_USER_DATA_BYTES};
use podmeta_metadata::role::{Provider, Role};
use podmeta_metadata::secret::Secret;
use podmeta_metadata::signature::{Signed, Signer};
use zeroize::Zeroizing;

/// How long credentials live whose Secret does not say.
const DEFAULT_LIFE: SignedDuration = SignedDuration::from_hours(6);

/// The data of one Secret, by key.
pub type SecretData = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// Secrets by namespace and name.
pub type Secrets = BTreeMap<(String, String), SecretData>;

/// What the edge asks.
pub struct Broker {
    secrets: ArcSwap<Secrets>,
    signer: Signer,
}

impl Broker {
    /// A broker that signs with `signer` and knows no Secret yet.
    #[must_use]
    pub fn new(signer: Signer) -> Self {
        Self { secrets: ArcSwap::default(), signer }
    }

    /// Replaces all Secrets.
    pub fn set_secrets(&self, secrets: Secrets) {
        self.secrets.store(std::sync::Arc::new(secrets));
    }

    /// User data in a Secret.
    ///
    /// # Errors
    /// If the Secret or the key is missing, or the data too long for user data.
    pub fn secret(&self, namespace: &str, key: &KeyRef) -> Result<Bytes, String> {
        let secrets = self.secrets.load();
        let data = secrets.get(&(namespace.to_owned(), key.name.clone())).and_then(|data| data.get(&key.key));
        match data {
            Some(data) if data.len() <= MAX_USER_DATA_BYTES => Ok(Bytes::copy_from_slice(data)),
            Some(_) => Err(format!("Secret {namespace}/{} key {} is longer than 16 KiB", key.name, key.key)),
            None => Err(format!("Secret {namespace}/{} or its key {} does not exist", key.name, key.key)),
        }
    }

    /// Credentials of a role.
    ///
    /// # Errors
    /// If there are none; the failure is served in the cloud's own words.
    pub fn credentials(&self, namespace: &str, role: &Role, now: Timestamp) -> Result<Credentials, Failure> {
        let fail = |code, message| Failure { code, message, at: now };
        let Provider::Secret { name } = &role.provider else {
            let kind = role.provider.kind();
            let message = format!(
                "{kind} asks a cloud for credentials, which the operator does in a cluster; here there are secret providers only"
            );
            return Err(fail("AssumeRoleUnauthorizedAccess", message));
        };
        let secrets = self.secrets.load();
        let Some(data) = secrets.get(&(namespace.to_owned(), name.clone())) else {
            return Err(fail("Failed", format!("Secret {namespace}/{name} does not exist")));
        };
        from_secret(data, now).map_err(|why| fail("Failed", format!("Secret {namespace}/{name}: {why}")))
    }

    /// An identity document in all its forms.
    ///
    /// # Errors
    /// If it could not be signed.
    pub fn sign(&self, document: String) -> Result<Signed, String> {
        self.signer.sign(&document).map_err(|error| format!("the identity document could not be signed: {error}"))
    }
}

/// Static keys: `accessKeyId`, `secretAccessKey`, and if they are there `sessionToken` and `expiration` (RFC 3339).
fn from_secret(data: &SecretData, now: Timestamp) -> Result<Credentials, String> {
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
