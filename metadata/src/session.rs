//! Session tokens: JWTs (HS256) that name a pod and a dialect. No state is kept for them. Each node has its own keys; a
//! replaced key verifies for the maximum lifetime of a token.

mod key_file;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aws_lc_rs::digest::{SHA256, digest};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::dialect::Dialect;
use crate::names::PodUid;
use crate::options::TokenTtl;

pub use key_file::KeyFileError;

/// Maximum length of a token that is decoded, in bytes. Issued tokens have about 220.
const MAX_TOKEN_BYTES: usize = 512;

/// Duration for which a replaced key verifies tokens: the maximum lifetime of a token.
const REPLACED_KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(6);

/// The bytes of a key. The caller provides them from a source of randomness.
pub type KeyBytes = Zeroizing<[u8; 32]>;

/// The keys of one node, the current one first.
#[derive(Clone)]
pub struct Keyring {
    keys: Vec<Arc<Key>>,
}

#[derive(Clone)]
struct Key {
    id: String,
    bytes: KeyBytes,
    created: Timestamp,
    replaced: Option<Timestamp>,
    signing: EncodingKey,
    verifying: DecodingKey,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: PodUid,
    aud: Dialect,
    iat: i64,
    exp: i64,
}

/// The last token of a connection that had a valid signature. A repeated token is not decoded again, but its key, pod,
/// dialect and expiry are checked for every request.
#[derive(Default)]
pub struct LastToken(Mutex<Option<VerifiedToken>>);

/// A token with a valid signature. It does not keep the key alive.
struct VerifiedToken {
    token: Box<[u8]>,
    key: Weak<Key>,
    claims: Claims,
}

/// Reason why a token is not valid. The client gets the same response for all reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is malformed, or signed with a key that the node does not have.
    #[error("it was not issued by this node, or its key was replaced more than six hours ago")]
    Unknown,
    /// It was issued to another pod.
    #[error("it was issued to another pod")]
    OtherPod,
    /// It was issued for another dialect.
    #[error("it was issued for another dialect")]
    OtherDialect,
    /// It has expired.
    #[error("it has expired")]
    Expired,
}

impl Key {
    fn new(bytes: KeyBytes, created: Timestamp, replaced: Option<Timestamp>) -> Self {
        let id = digest(&SHA256, &*bytes).as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let (signing, verifying) = (EncodingKey::from_secret(&*bytes), DecodingKey::from_secret(&*bytes));
        Self { id, bytes, created, replaced, signing, verifying }
    }

    fn verifies(&self, now: Timestamp) -> bool {
        self.replaced.is_none_or(|replaced| now.duration_since(replaced) < REPLACED_KEY_LIFETIME)
    }
}

impl Keyring {
    /// Returns a keyring with one key.
    #[must_use]
    pub fn new(bytes: KeyBytes, now: Timestamp) -> Self {
        Self { keys: vec![Arc::new(Key::new(bytes, now, None))] }
    }

    /// Returns the keyring with a new current key. The old one verifies for six more hours.
    #[must_use]
    pub fn rotated(&self, bytes: KeyBytes, now: Timestamp) -> Self {
        let old = self.keys.iter().map(|key| Key { replaced: key.replaced.or(Some(now)), ..Key::clone(key) });
        let old = old.filter(|key| key.verifies(now));
        Self { keys: std::iter::once(Key::new(bytes, now, None)).chain(old).map(Arc::new).collect() }
    }

    /// Returns the time at which the current key was created.
    #[must_use]
    pub fn created(&self) -> Timestamp {
        self.keys.first().map_or(Timestamp::UNIX_EPOCH, |key| key.created)
    }

    /// Issues a token for one pod in one dialect. It is valid for `ttl` from `now` on.
    ///
    /// # Errors
    /// If signing fails. It does not fail for keys of this length.
    pub fn issue(
        &self,
        pod: &PodUid,
        dialect: Dialect,
        ttl: TokenTtl,
        now: Timestamp,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let Some(key) = self.keys.first() else {
            return Err(jsonwebtoken::errors::ErrorKind::InvalidKeyFormat.into());
        };
        let iat = now.as_second();
        let claims = Claims { sub: pod.clone(), aud: dialect, iat, exp: iat + i64::from(ttl.seconds()) };
        let header = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, &claims, &key.signing)
    }

    /// Verifies a token that a pod sent, and returns its remaining lifetime in seconds. `last` is the last token of the
    /// connection; it is updated.
    ///
    /// # Errors
    /// If the token is not valid for this pod and dialect now.
    pub fn verify(
        &self,
        token: &[u8],
        last: &LastToken,
        pod: &PodUid,
        dialect: Dialect,
        now: Timestamp,
    ) -> Result<u32, TokenError> {
        let mut last = last.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !last.as_ref().is_some_and(|last| *last.token == *token && self.contains(&last.key, now)) {
            *last = self.decode(token, now);
        }
        let claims = &last.as_ref().ok_or(TokenError::Unknown)?.claims;
        if claims.sub != *pod {
            return Err(TokenError::OtherPod);
        }
        if claims.aud != dialect {
            return Err(TokenError::OtherDialect);
        }
        // If the clock was set back, the remaining lifetime is at most the whole lifetime.
        let left = (claims.exp - now.as_second()).min(claims.exp - claims.iat);
        match u32::try_from(left) {
            Ok(0) | Err(_) => Err(TokenError::Expired),
            Ok(left) => Ok(left),
        }
    }

    /// Returns true if a key is in this keyring and still verifies.
    fn contains(&self, key: &Weak<Key>, now: Timestamp) -> bool {
        self.keys.iter().any(|held| std::ptr::eq(Arc::as_ptr(held), key.as_ptr()) && held.verifies(now))
    }

    /// Decodes a token with the key that signed it.
    fn decode(&self, token: &[u8], now: Timestamp) -> Option<VerifiedToken> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let mut validation = Validation::new(Algorithm::HS256);
        // `verify` checks time and audience. The library would read the system clock and allow a minute of leeway.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        self.keys.iter().filter(|key| key.verifies(now)).find_map(|key| {
            let claims = jsonwebtoken::decode::<Claims>(token, &key.verifying, &validation).ok()?.claims;
            Some(VerifiedToken { token: token.into(), key: Arc::downgrade(key), claims })
        })
    }
}

impl fmt::Debug for LastToken {
    /// Writes nothing of the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LastToken")
    }
}

impl fmt::Debug for Keyring {
    /// Writes the key IDs only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>();
        write!(f, "Keyring({})", ids.join(", "))
    }
}
