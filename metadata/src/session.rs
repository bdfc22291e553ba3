//! Session tokens of 56 characters, bound to a pod and a dialect. No state is kept for them. Each node has its own keys; a
//! replaced key verifies for the maximum lifetime of a token.
//!
//! A token is URL-safe base64 of 42 bytes. Numbers are big-endian:
//!
//! | bytes | content |
//! | --- | --- |
//! | 4 | ID of the key |
//! | 4 | expiry: unsigned seconds since 1970, so until 2106 |
//! | 2 | TTL in seconds |
//! | 16 | nonce |
//! | 16 | MAC: the first half of HMAC-SHA-256 over the bytes before it, the dialect and the pod UID |
//!
//! Dialect and pod UID are not sent. The length is the same for all pods and is that of EC2's tokens, because clients keep
//! tokens in fixed buffers. The smallest known one has 64 bytes: `IMDS_RESPONSE_TOKEN_SIZE_INITIAL` in aws-c-auth,
//! `source/aws_imds_client.c`.

mod key_file;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use crate::dialect::Dialect;
use crate::names::PodUid;
use crate::options::TokenTtl;

pub use key_file::KeyFileError;

/// Length of a token in characters.
pub const TOKEN_LENGTH: usize = 56;

/// Length of a token in bytes before base64.
const TOKEN_BYTES: usize = CLAIMS_BYTES + MAC_BYTES;

/// Length of the bytes before the MAC.
const CLAIMS_BYTES: usize = 26;

const MAC_BYTES: usize = 16;

/// Duration for which a replaced key verifies tokens: the maximum lifetime of a token.
const REPLACED_KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(6);

/// Maximum time by which a key or a token may be newer than the clock. It is newer if the clock was set back.
pub const MAX_CLOCK_STEP: SignedDuration = SignedDuration::from_hours(6);

/// The bytes of a key. The caller provides them from a source of randomness.
pub type KeyBytes = Zeroizing<[u8; 32]>;

/// The random bytes of a token. They make two tokens of the same pod and second differ.
pub type Nonce = [u8; 16];

/// The keys of one node.
#[derive(Clone)]
pub struct Keyring {
    current: Arc<Key>,
    replaced: Vec<Arc<Key>>,
}

#[derive(Clone)]
struct Key {
    id: [u8; 4],
    bytes: KeyBytes,
    created: Timestamp,
    replaced: Option<Timestamp>,
    hmac: hmac::Key,
}

/// The last valid token of a connection. A repeated token is not decoded again, but its key, pod, dialect and expiry are
/// checked for every request.
#[derive(Default)]
pub struct LastToken(Mutex<Option<VerifiedToken>>);

/// A token with a valid MAC. It does not keep the key alive.
struct VerifiedToken {
    token: [u8; TOKEN_LENGTH],
    key: Weak<Key>,
    pod: PodUid,
    dialect: Dialect,
    expiry: u32,
    ttl: u16,
}

/// Reason why a token is not valid. The client gets the same response for all reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is malformed, or its MAC is not of this pod, this dialect and a key of the node.
    #[error("this node did not issue it to this pod in this dialect, or its key was replaced more than six hours ago")]
    Unknown,
    /// It has expired, or was issued more than [`MAX_CLOCK_STEP`] in the future.
    #[error("it has expired")]
    Expired,
}

/// Error of a token whose expiry does not fit into its four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the clock is not between 1970 and 2106")]
pub struct ClockError;

impl Key {
    fn new(bytes: KeyBytes, created: Timestamp, replaced: Option<Timestamp>) -> Self {
        let mut id = [0; 4];
        copy(&mut id, digest(&SHA256, &*bytes).as_ref());
        let hmac = hmac::Key::new(hmac::HMAC_SHA256, &*bytes);
        Self { id, bytes, created, replaced, hmac }
    }

    /// Returns true if the key was not replaced, or less than six hours ago. A key that is newer than the clock by more than
    /// [`MAX_CLOCK_STEP`] does not verify.
    fn verifies(&self, now: Timestamp) -> bool {
        let valid_ages = -MAX_CLOCK_STEP..REPLACED_KEY_LIFETIME;
        self.replaced.is_none_or(|replaced| valid_ages.contains(&now.duration_since(replaced)))
            && now.duration_since(self.created) >= -MAX_CLOCK_STEP
    }

    /// Returns the MAC of a token's first bytes.
    fn mac(&self, claims: &[u8], pod: &PodUid, dialect: Dialect) -> [u8; MAC_BYTES] {
        let mut context = hmac::Context::with_key(&self.hmac);
        context.update(claims);
        // The slash separates dialect and UID. Neither contains one.
        context.update(dialect.as_str().as_bytes());
        context.update(b"/");
        context.update(pod.as_str().as_bytes());
        let mut mac = [0; MAC_BYTES];
        copy(&mut mac, context.sign().as_ref());
        mac
    }
}

/// Fills `to` with the first bytes of `from`.
fn copy(to: &mut [u8], from: &[u8]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}

impl Keyring {
    /// Returns a keyring with one key.
    #[must_use]
    pub fn new(bytes: KeyBytes, now: Timestamp) -> Self {
        Self { current: Arc::new(Key::new(bytes, now, None)), replaced: Vec::new() }
    }

    /// Returns the keyring with a new current key. The old one verifies for six more hours.
    #[must_use]
    pub fn rotated(&self, bytes: KeyBytes, now: Timestamp) -> Self {
        let old = self.keys().map(|key| Key { replaced: key.replaced.or(Some(now)), ..Key::clone(key) });
        let replaced = old.filter(|key| key.verifies(now)).map(Arc::new).collect();
        Self { replaced, ..Self::new(bytes, now) }
    }

    /// Returns the time at which the current key was created.
    #[must_use]
    pub fn created(&self) -> Timestamp {
        self.current.created
    }

    /// Returns all keys, the current one first.
    fn keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        std::iter::once(&self.current).chain(&self.replaced)
    }

    /// Issues a token of [`TOKEN_LENGTH`] characters for one pod in one dialect. It is valid for `ttl` from `now` on.
    ///
    /// # Errors
    /// If the expiry is before 1970 or after 2106.
    pub fn issue(
        &self,
        pod: &PodUid,
        dialect: Dialect,
        ttl: TokenTtl,
        nonce: Nonce,
        now: Timestamp,
    ) -> Result<String, ClockError> {
        let key = &self.current;
        let expiry = u32::try_from(now.as_second() + i64::from(ttl.seconds())).map_err(|_| ClockError)?;
        let mut bytes = [0; TOKEN_BYTES];
        let (claims, mac) = bytes.split_at_mut(CLAIMS_BYTES);
        let values = key.id.into_iter().chain(expiry.to_be_bytes()).chain(ttl.seconds().to_be_bytes()).chain(nonce);
        claims.iter_mut().zip(values).for_each(|(to, from)| *to = from);
        copy(mac, &key.mac(claims, pod, dialect));
        Ok(URL_SAFE_NO_PAD.encode(bytes))
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
        let repeats = |last: &&VerifiedToken| {
            last.token == *token && last.pod == *pod && last.dialect == dialect && self.contains(&last.key, now)
        };
        let verified = match last.as_ref().filter(repeats) {
            Some(verified) => verified,
            None => last.insert(self.decode(token, pod, dialect, now).ok_or(TokenError::Unknown)?),
        };
        let issued = i64::from(verified.expiry) - i64::from(verified.ttl);
        if issued - now.as_second() > MAX_CLOCK_STEP.as_secs() {
            return Err(TokenError::Expired);
        }
        // If the clock was set back, the remaining lifetime is at most the whole lifetime.
        let left = (i64::from(verified.expiry) - now.as_second()).min(verified.ttl.into());
        match u32::try_from(left) {
            Ok(0) | Err(_) => Err(TokenError::Expired),
            Ok(left) => Ok(left),
        }
    }

    /// Returns true if a key is in this keyring and still verifies.
    fn contains(&self, key: &Weak<Key>, now: Timestamp) -> bool {
        self.keys().any(|held| std::ptr::eq(Arc::as_ptr(held), key.as_ptr()) && held.verifies(now))
    }

    /// Decodes a token and checks its MAC with the key that it names. Does not check its expiry.
    fn decode(&self, token: &[u8], pod: &PodUid, dialect: Dialect, now: Timestamp) -> Option<VerifiedToken> {
        let token: [u8; TOKEN_LENGTH] = token.try_into().ok()?;
        let mut bytes = [0; TOKEN_BYTES];
        URL_SAFE_NO_PAD.decode_slice(token, &mut bytes).ok()?;
        let (claims, mac) = bytes.split_at(CLAIMS_BYTES);
        let (id, rest) = claims.split_first_chunk()?;
        let (expiry, rest) = rest.split_first_chunk()?;
        let (ttl, _nonce) = rest.split_first_chunk()?;
        let mut keys = self.keys().filter(|key| key.id == *id && key.verifies(now));
        let key = keys.find(|key| verify_slices_are_equal(&key.mac(claims, pod, dialect), mac).is_ok())?;
        let (expiry, ttl) = (u32::from_be_bytes(*expiry), u16::from_be_bytes(*ttl));
        Some(VerifiedToken { token, key: Arc::downgrade(key), pod: pod.clone(), dialect, expiry, ttl })
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
        let ids = self.keys().map(|key| format!("{:08x}", u32::from_be_bytes(key.id))).collect::<Vec<_>>();
        write!(f, "Keyring({})", ids.join(", "))
    }
}
