//! The JSON form of a keyring, as the node stores it in a file.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Key, KeyBytes, Keyring};
use crate::secret::JsonErrorPosition;

/// Error of a key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It is not JSON of the expected form.
    #[error("it is not a list of keys: {0}")]
    Form(#[from] JsonErrorPosition),
    /// It has no key.
    #[error("it has no key")]
    Empty,
    /// A key is not 32 bytes in base64.
    #[error("a key is not 32 bytes in base64")]
    Bytes,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    bytes: Zeroizing<String>,
    #[serde(rename = "made")]
    created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced: Option<Timestamp>,
}

impl TryFrom<StoredKey> for Key {
    type Error = KeyFileError;

    fn try_from(stored: StoredKey) -> Result<Self, KeyFileError> {
        let mut bytes = KeyBytes::default();
        match STANDARD.decode_slice(stored.bytes.as_bytes(), &mut *bytes) {
            Ok(32) => Ok(Self::new(bytes, stored.created, stored.replaced)),
            Ok(_) | Err(_) => Err(KeyFileError::Bytes),
        }
    }
}

impl Keyring {
    /// Reads a keyring from JSON.
    ///
    /// # Errors
    /// If the text is malformed or has no key.
    pub fn from_json(text: &str) -> Result<Self, KeyFileError> {
        let stored: Vec<StoredKey> = serde_json::from_str(text).map_err(|error| JsonErrorPosition::from(&error))?;
        let mut keys = stored.into_iter().map(|key| Key::try_from(key).map(Arc::new));
        let current = keys.next().ok_or(KeyFileError::Empty)??;
        Ok(Self { current, replaced: keys.collect::<Result<_, _>>()? })
    }

    /// Returns the keyring as JSON. The text is secret.
    ///
    /// # Errors
    /// If serialization fails. It does not fail for this form.
    pub fn to_json(&self) -> Result<Zeroizing<String>, serde_json::Error> {
        let stored = self.keys().map(|key| StoredKey {
            bytes: Zeroizing::new(STANDARD.encode(*key.bytes)),
            created: key.created,
            replaced: key.replaced,
        });
        serde_json::to_string(&stored.collect::<Vec<_>>()).map(Zeroizing::new)
    }
}
