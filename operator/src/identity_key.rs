//! The key that signs identity documents. It is created once and kept in a Secret. Its certificate is published in a
//! ConfigMap with the same name.

use anyhow::{Result, bail};
use k8s_openapi::ByteString;
use kube::Client;
use podmeta_service::identity::IdentityKey;
use zeroize::Zeroizing;

use crate::cluster::own_objects::{OwnSecretData, publish_config_map, retry_while_unavailable, update_tls_secret};

/// Loads the key, or creates it if the Secret does not exist or is empty. Retries while the API server is unavailable.
///
/// # Errors
/// If the key cannot be read, created or published.
pub async fn load(client: &Client, namespace: &str, name: &str) -> Result<IdentityKey> {
    retry_while_unavailable("load the signing key of identity documents", || async {
        let key = update_tls_secret(client, namespace, name, read_or_create).await?;
        publish_config_map(client, namespace, name, "certificate.pem", &key.certificate).await?;
        Ok(key)
    })
    .await
}

/// Returns the key of the Secret, or a new key with the data to write.
fn read_or_create(data: Option<OwnSecretData>) -> Result<(Option<OwnSecretData>, IdentityKey)> {
    let text = |key: &str| data.as_ref().and_then(|data| String::from_utf8(data.get(key)?.0.clone()).ok());
    if let (Some(certificate), Some(key)) = (text("tls.crt"), text("tls.key")) {
        return Ok((None, IdentityKey { key: Zeroizing::new(key), certificate }));
    }
    if data.is_some_and(|data| !data.is_empty()) {
        bail!(
            "the Secret has no tls.crt and tls.key; delete it to create a new key, whose certificate verifiers must then pin"
        );
    }
    let key = IdentityKey::generate("podmeta identity")?;
    let entry = |name: &str, text: &str| (name.to_owned(), ByteString(text.as_bytes().to_vec()));
    let data = OwnSecretData::from([entry("tls.crt", &key.certificate), entry("tls.key", &key.key)]);
    Ok((Some(data), key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_key_is_read_again() {
        let (data, created) = read_or_create(None).unwrap();
        let (written, read) = read_or_create(data).unwrap();
        assert!(written.is_none());
        assert_eq!((read.certificate, read.key), (created.certificate, created.key));
    }

    #[test]
    fn secret_without_a_key_is_not_overwritten() {
        let data = OwnSecretData::from([("other".to_owned(), ByteString(b"x".to_vec()))]);
        assert!(read_or_create(Some(data)).is_err());
    }
}
