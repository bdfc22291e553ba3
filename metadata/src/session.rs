//! Session tokens: JWTs (HS256) that name the pod and the dialect they open, and nothing that must be kept. The keys are
//! a node's own; a key that was replaced verifies for as long as a token signed with it may live.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use aws_lc_rs::digest::{SHA256, digest};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::dialect::Dialect;
use crate::names::PodUid;
use crate::options::TokenTtl;

/// The longest token that is looked at, in bytes; ours are about 220.
const MAX_TOKEN_BYTES: usize = 512;

/// How long a replaced key still verifies: the longest life of a token.
const OLD_KEY_LIFE: SignedDuration = SignedDuration::from_hours(6);

/// The bytes of a key, to be given by whoever has randomness.
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
    made: Timestamp,
    replaced: Option<Timestamp>,
    signing: EncodingKey,
    verifying: DecodingKey,
}

/// A key as it is kept in the node's file.
#[derive(Serialize, Deserialize)]
struct Stored {
    bytes: Zeroizing<String>,
    made: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: PodUid,
    aud: Dialect,
    iat: i64,
    exp: i64,
}

/// The token that was sent last on a connection, if one of our keys had signed it. Sent again it is not decoded again;
/// key, pod, dialect and time are judged for every request.
#[derive(Default)]
pub struct LastToken(Mutex<Option<VerifiedToken>>);

/// A token whose signature was found to be that of a key. It does not keep the key alive.
struct VerifiedToken {
    token: Box<[u8]>,
    key: Weak<Key>,
    claims: Claims,
}

/// Why a token does not open anything. All are the same to the one who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not a token of this node: malformed, or signed with another key.
    #[error("it was not made by this node, or its key was replaced more than six hours ago")]
    Unknown,
    /// It was made for another pod.
    #[error("it was made for another pod")]
    OtherPod,
    /// It was made for another dialect.
    #[error("it was made for another dialect")]
    OtherDialect,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
}

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It is not JSON of the right form.
    #[error("it is not a list of keys: {0}")]
    Form(#[from] serde_json::Error),
    /// It holds no key.
    #[error("it holds no key")]
    Empty,
    /// A key is not 32 bytes in base64.
    #[error("a key is not 32 bytes in base64")]
    Bytes,
}

impl Key {
    fn new(bytes: KeyBytes, made: Timestamp, replaced: Option<Timestamp>) -> Self {
        let id = digest(&SHA256, &*bytes).as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let (signing, verifying) = (EncodingKey::from_secret(&*bytes), DecodingKey::from_secret(&*bytes));
        Self { id, bytes, made, replaced, signing, verifying }
    }

    fn verifies(&self, now: Timestamp) -> bool {
        self.replaced.is_none_or(|replaced| now.duration_since(replaced) < OLD_KEY_LIFE)
    }
}

impl Keyring {
    /// A ring with one key.
    #[must_use]
    pub fn new(bytes: KeyBytes, now: Timestamp) -> Self {
        Self { keys: vec![Arc::new(Key::new(bytes, now, None))] }
    }

    /// Replaces the current key; the old one verifies for six hours more.
    #[must_use]
    pub fn rotated(&self, bytes: KeyBytes, now: Timestamp) -> Self {
        let old = self.keys.iter().map(|key| Key { replaced: key.replaced.or(Some(now)), ..Key::clone(key) });
        let old = old.filter(|key| key.verifies(now));
        Self { keys: std::iter::once(Key::new(bytes, now, None)).chain(old).map(Arc::new).collect() }
    }

    /// When the current key was made.
    #[must_use]
    pub fn made(&self) -> Timestamp {
        self.keys.first().map_or(Timestamp::UNIX_EPOCH, |key| key.made)
    }

    /// Reads the keys of a file.
    ///
    /// # Errors
    /// If the text does not hold at least one whole key.
    pub fn from_json(text: &str) -> Result<Self, KeyFileError> {
        use base64::Engine as _;
        let stored: Vec<Stored> = serde_json::from_str(text)?;
        let keys = stored.into_iter().map(|stored| {
            let mut bytes = KeyBytes::default();
            let length = base64::engine::general_purpose::STANDARD.decode_slice(stored.bytes.as_bytes(), &mut *bytes);
            match length {
                Ok(32) => Ok(Arc::new(Key::new(bytes, stored.made, stored.replaced))),
                Ok(_) | Err(_) => Err(KeyFileError::Bytes),
            }
        });
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(KeyFileError::Empty) } else { Ok(Self { keys }) }
    }

    /// The keys as a file holds them. The text is a secret.
    ///
    /// # Errors
    /// Never, as far as is known: the form has no part that JSON cannot hold.
    pub fn to_json(&self) -> Result<Zeroizing<String>, serde_json::Error> {
        use base64::Engine as _;
        let stored = self.keys.iter().map(|key| Stored {
            bytes: Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(*key.bytes)),
            made: key.made,
            replaced: key.replaced,
        });
        serde_json::to_string(&stored.collect::<Vec<_>>()).map(Zeroizing::new)
    }

    /// Makes a token that opens one pod's tree in one dialect for `ttl` from `now` on.
    ///
    /// # Errors
    /// If signing fails, which it does not for keys of this length.
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

    /// Judges a token sent by `pod` to `dialect` on a connection whose last token is `last`; gives the whole seconds that
    /// it still has.
    ///
    /// # Errors
    /// If the token does not open that pod's tree in that dialect now.
    pub fn verify(
        &self,
        token: &[u8],
        last: &LastToken,
        pod: &PodUid,
        dialect: Dialect,
        now: Timestamp,
    ) -> Result<u32, TokenError> {
        let mut last = last.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !last.as_ref().is_some_and(|last| *last.token == *token && self.holds(&last.key, now)) {
            *last = self.check(token, now);
        }
        let claims = &last.as_ref().ok_or(TokenError::Unknown)?.claims;
        if claims.sub != *pod {
            return Err(TokenError::OtherPod);
        }
        if claims.aud != dialect {
            return Err(TokenError::OtherDialect);
        }
        // A token is dead once its age reaches its life; if the clock was set back, it has no more than its life.
        let left = (claims.exp - now.as_second()).min(claims.exp - claims.iat);
        match u32::try_from(left) {
            Ok(0) | Err(_) => Err(TokenError::Expired),
            Ok(left) => Ok(left),
        }
    }

    /// Whether a key is one of these and still verifies.
    fn holds(&self, key: &Weak<Key>, now: Timestamp) -> bool {
        self.keys.iter().any(|held| std::ptr::eq(Arc::as_ptr(held), key.as_ptr()) && held.verifies(now))
    }

    /// The claims of a token, and the key that signed it.
    fn check(&self, token: &[u8], now: Timestamp) -> Option<VerifiedToken> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let mut validation = Validation::new(Algorithm::HS256);
        // Time and audience are judged above: the library reads the system's clock and grants a minute of leeway.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        self.keys.iter().filter(|key| key.verifies(now)).find_map(|key| {
            let claims = jsonwebtoken::decode::<Claims>(token, &key.verifying, &validation).ok()?.claims;
            Some(VerifiedToken { token: token.into(), key: Arc::downgrade(key), claims })
        })
    }
}

impl std::fmt::Debug for LastToken {
    /// Nothing of the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LastToken")
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids = self.keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>();
        write!(f, "Keyring({})", ids.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_767_600_000 + seconds).unwrap()
    }

    fn uid(text: &str) -> PodUid {
        PodUid::try_from(text).unwrap()
    }

    fn ring(byte: u8) -> Keyring {
        Keyring::new(Zeroizing::new([byte; 32]), at(0))
    }

    fn ttl(seconds: i64) -> TokenTtl {
        TokenTtl::try_from(seconds).unwrap()
    }

    /// Verifies on a new connection.
    fn verify(ring: &Keyring, token: &str, pod: &str, dialect: Dialect, now: i64) -> Result<u32, TokenError> {
        ring.verify(token.as_bytes(), &LastToken::default(), &uid(pod), dialect, at(now))
    }

    #[test]
    fn a_token_opens_its_pod_and_dialect_until_the_very_second_of_its_end() {
        let ring = ring(1);
        let token = ring.issue(&uid("a"), Dialect::Ec2, ttl(60), at(0)).unwrap();
        let verify = |pod: &str, dialect, now| verify(&ring, &token, pod, dialect, now);
        assert_eq!(verify("a", Dialect::Ec2, 0), Ok(60));
        assert_eq!(verify("a", Dialect::Ec2, 59), Ok(1));
        assert_eq!(verify("a", Dialect::Ec2, 60), Err(TokenError::Expired));
        assert_eq!(verify("a", Dialect::Ec2, 100_000), Err(TokenError::Expired));
        assert_eq!(verify("b", Dialect::Ec2, 0), Err(TokenError::OtherPod));
        assert_eq!(verify("a", Dialect::Ecs, 0), Err(TokenError::OtherDialect));
    }

    #[test]
    fn a_clock_that_is_set_back_gives_a_token_no_longer_life() {
        let ring = ring(1);
        let token = ring.issue(&uid("a"), Dialect::Ec2, ttl(60), at(1000)).unwrap();
        assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 0), Ok(60));
    }

    #[test]
    fn a_replaced_key_verifies_for_six_hours_and_no_longer() {
        let old = ring(1);
        let token = old.issue(&uid("a"), Dialect::Ec2, TokenTtl::MAX, at(0)).unwrap();
        let new = old.rotated(Zeroizing::new([2; 32]), at(10));
        let verify = |ring: &Keyring, now| verify(ring, &token, "a", Dialect::Ec2, now);
        assert!(verify(&new, 21_599).is_ok());
        let later = new.rotated(Zeroizing::new([3; 32]), at(21_700));
        assert_eq!(verify(&later, 21_701), Err(TokenError::Unknown));
        assert_eq!(later.keys.len(), 2);
    }

    #[test]
    fn keys_survive_a_restart() {
        let before = ring(1).rotated(Zeroizing::new([2; 32]), at(5));
        let token = before.issue(&uid("a"), Dialect::Ecs, ttl(60), at(6)).unwrap();
        let after = Keyring::from_json(&before.to_json().unwrap()).unwrap();
        assert_eq!(verify(&after, &token, "a", Dialect::Ecs, 7), Ok(59));
        assert_eq!(after.made(), at(5));
        for bad in ["", "[]", "{}", r#"[{"bytes":"AA==","made":"2026-01-05T08:00:00Z"}]"#] {
            assert!(Keyring::from_json(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_another_key_or_no_key_signed_opens_nothing() {
        let (ring, other) = (ring(1), ring(9));
        let token = other.issue(&uid("a"), Dialect::Ec2, ttl(60), at(0)).unwrap();
        let own = ring.issue(&uid("a"), Dialect::Ec2, ttl(60), at(0)).unwrap();
        let body = own.split('.').nth(1).unwrap();
        let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.");
        let cut = own.get(..own.len() - 1).unwrap();
        let flipped = format!("{}{}", cut, if own.ends_with('A') { 'B' } else { 'A' });
        for bad in [token.as_str(), none.as_str(), cut, "", ".", "..", &flipped, &"a".repeat(600), &own.repeat(2)] {
            assert_eq!(verify(&ring, bad, "a", Dialect::Ec2, 0), Err(TokenError::Unknown), "{bad}");
        }
    }

    #[test]
    fn a_token_that_a_connection_sends_again_is_judged_again() {
        let (ring, last) = (ring(1), LastToken::default());
        let token = ring.issue(&uid("a"), Dialect::Ec2, ttl(60), at(0)).unwrap();
        let verify = |ring: &Keyring, token: &str, pod: &str, dialect, now| {
            ring.verify(token.as_bytes(), &last, &uid(pod), dialect, at(now))
        };
        assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 0), Ok(60));
        assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 1), Ok(59));
        assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 60), Err(TokenError::Expired));
        assert_eq!(verify(&ring, &token, "b", Dialect::Ec2, 1), Err(TokenError::OtherPod));
        assert_eq!(verify(&ring, &token, "a", Dialect::Ecs, 1), Err(TokenError::OtherDialect));
        assert_eq!(verify(&ring, &token[1..], "a", Dialect::Ec2, 1), Err(TokenError::Unknown));
        assert_eq!(verify(&ring, &token, "a", Dialect::Ec2, 1), Ok(59));
        let other = super::tests::ring(2);
        assert_eq!(verify(&other, &token, "a", Dialect::Ec2, 1), Err(TokenError::Unknown), "its key is gone");
    }

    #[test]
    fn a_token_sent_again_dies_with_its_replaced_key() {
        let (ring, last) = (ring(1), LastToken::default());
        let token = ring.issue(&uid("a"), Dialect::Ec2, TokenTtl::MAX, at(20)).unwrap();
        let ring = ring.rotated(Zeroizing::new([2; 32]), at(10));
        let verify = |now| ring.verify(token.as_bytes(), &last, &uid("a"), Dialect::Ec2, at(now));
        assert!(verify(10 + 21_599).is_ok());
        assert_eq!(verify(10 + 21_600), Err(TokenError::Unknown));
    }

    #[test]
    fn keys_do_not_show_in_debug_output() {
        let shown = format!("{:?}", ring(7));
        assert!(!shown.contains("07, 07") && !shown.contains("BwcH"), "{shown}");
    }
}
