//! User data: its sources and its size limit.

use bytes::Bytes;

use crate::credentials::{SecretData, not_usable};
use crate::names::InvalidValue;
use crate::profile::KeyRef;

/// Maximum size of user data, in bytes. Source: EC2 "Work with instance user data", 16 KB before encoding.
pub const MAX_USER_DATA_BYTES: usize = 16 * 1024;

/// Source of a profile's user data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserDataSource {
    /// The data itself, at most [`MAX_USER_DATA_BYTES`] long.
    Inline(Bytes),
    /// A key of a ConfigMap in the profile's namespace.
    ConfigMap(KeyRef),
    /// A key of a Secret in the profile's namespace.
    Secret(KeyRef),
}

impl UserDataSource {
    /// Returns a source of inline user data.
    ///
    /// # Errors
    /// If the text is longer than [`MAX_USER_DATA_BYTES`].
    pub fn inline(text: String) -> Result<Self, InvalidValue> {
        check_size(&text).map_err(InvalidValue)?;
        Ok(Self::Inline(text.into()))
    }
}

/// Returns user data from the value of a ConfigMap key. `value` is `None` if the ConfigMap or the key does not exist.
///
/// # Errors
/// If the value does not exist or is too long.
pub fn from_config_map(key: &KeyRef, value: Option<&Bytes>) -> Result<Bytes, String> {
    let KeyRef { name, key } = key;
    let value = value.ok_or_else(|| format!("ConfigMap {name} or its key {key} does not exist"))?;
    check_size(value).map_err(|error| format!("ConfigMap {name} key {key}: {error}"))?;
    Ok(value.clone())
}

/// Returns user data from a Secret. `data` is `None` if profiles cannot use the Secret.
///
/// # Errors
/// If profiles cannot use the Secret, the key does not exist, or the value is too long.
pub fn from_secret<'s>(namespace: &str, key: &KeyRef, data: Option<&'s SecretData>) -> Result<&'s [u8], String> {
    let KeyRef { name, key } = key;
    let data = data.ok_or_else(|| not_usable(namespace, name))?;
    let value = data.get(key).ok_or_else(|| format!("Secret {namespace}/{name} has no key {key}"))?;
    check_size(value).map_err(|error| format!("Secret {namespace}/{name} key {key}: {error}"))?;
    Ok(value)
}

fn check_size(value: impl AsRef<[u8]>) -> Result<(), String> {
    match value.as_ref().len() {
        0..=MAX_USER_DATA_BYTES => Ok(()),
        size => Err(format!("must be at most {MAX_USER_DATA_BYTES} bytes long, not {size}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_value_is_limited_to_16_kib() {
        let key = KeyRef { name: "boot".to_owned(), key: "script".to_owned() };
        let data = |size| SecretData::from_iter([("script".to_owned(), vec![0; size])]);
        let read = |data: Option<&SecretData>| from_secret("shop", &key, data).map(<[u8]>::len);
        assert_eq!(read(Some(&data(MAX_USER_DATA_BYTES))), Ok(MAX_USER_DATA_BYTES));
        let too_long = "Secret shop/boot key script: must be at most 16384 bytes long, not 16385";
        assert_eq!(read(Some(&data(MAX_USER_DATA_BYTES + 1))), Err(too_long.to_owned()));
        assert_eq!(read(Some(&SecretData::default())), Err("Secret shop/boot has no key script".to_owned()));
        assert_eq!(read(None), Err(not_usable("shop", "boot")));
    }
}
