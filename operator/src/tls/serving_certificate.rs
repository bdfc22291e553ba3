//! The certificate that the agents' API serves. It comes from the operator's own authority, kept in a Secret, or from files
//! that are renewed outside the operator. The certificates of the authorities are published in a ConfigMap.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use kube::Client;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::material::{TlsMaterial, renew};
use crate::cluster::ApiTimeout;
use crate::cluster::own_objects::{OwnSecretData, publish_config_map, retry_while_unavailable, update_tls_secret};

/// The interval at which the certificate is checked and renewed. Also the timeout of one check.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// The last lines of a PEM certificate and of a PEM key.
const CERTIFICATE_END: &str = "-----END CERTIFICATE-----\n";
const KEY_END: &str = "-----END PRIVATE KEY-----\n";

/// Source of the serving certificate.
#[derive(Clone, Debug)]
pub enum CertificateSource {
    /// The operator's own authority.
    OwnAuthority,
    /// Files that are renewed outside the operator.
    Files {
        /// The certificate and its intermediate certificates.
        certificate: PathBuf,
        /// The certificate's key.
        key: PathBuf,
        /// The certificates of the authorities.
        ca: PathBuf,
    },
}

/// Loads the serving certificate.
#[derive(Clone)]
pub struct CertificateLoader {
    /// The API client.
    pub client: Client,
    /// Source of the certificate.
    pub source: CertificateSource,
    /// The operator's namespace.
    pub namespace: String,
    /// The name of the authority's Secret, and of the ConfigMap in which agents find the certificates of the authorities.
    pub object_name: String,
    /// The DNS name of the certificate.
    pub dns_name: String,
}

/// The certificate that is served now.
#[derive(Debug)]
pub struct ServingCertificate(ArcSwap<CertifiedKey>);

impl ServingCertificate {
    /// Creates a certificate for tests.
    #[cfg(test)]
    pub(crate) fn from_material(material: &TlsMaterial) -> Result<Self> {
        let key = certified_key(material.certificate.as_bytes(), material.key.as_bytes())?;
        Ok(Self(ArcSwap::from_pointee(key)))
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl CertificateLoader {
    /// Loads the certificate, or creates it. Retries while the API server is unavailable. The returned future replaces the
    /// certificate when it changes, until `stop` is cancelled. Open connections stay open.
    ///
    /// # Errors
    /// If there is no certificate and none can be created.
    pub async fn start(self, stop: CancellationToken) -> Result<(Arc<ServingCertificate>, impl Future<Output = ()>)> {
        let first = retry_while_unavailable("load the serving certificate", || self.load()).await?;
        let served = Arc::new(ServingCertificate(ArcSwap::from_pointee(first)));
        let renewed = Arc::clone(&served);
        let renewal = async move {
            while stop.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL)).await.is_some() {
                let next = tokio::time::timeout(CHECK_INTERVAL, self.load()).await;
                match next.unwrap_or_else(|_| Err(ApiTimeout.into())) {
                    Ok(next) if next.cert != renewed.0.load().cert => {
                        tracing::info!("serving a new certificate");
                        renewed.0.store(Arc::new(next));
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(
                        error = format!("{error:#}"),
                        "cannot check the serving certificate; keeping the current one and retrying"
                    ),
                }
            }
        };
        Ok((served, renewal))
    }

    /// Loads or renews the certificate, and publishes the certificates of the authorities.
    async fn load(&self) -> Result<CertifiedKey> {
        let (certificate, bundle) = match &self.source {
            CertificateSource::OwnAuthority => {
                let material = self.renew_material().await?;
                let certificate = certified_key(material.certificate.as_bytes(), material.key.as_bytes())?;
                (certificate, material.bundle())
            }
            CertificateSource::Files { certificate, key, ca } => {
                let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
                let bundle = String::from_utf8(read(ca)?).with_context(|| format!("{} is not PEM", ca.display()))?;
                (certified_key(&read(certificate)?, &Zeroizing::new(read(key)?))?, bundle)
            }
        };
        publish_config_map(&self.client, &self.namespace, &self.object_name, "ca.crt", &bundle).await?;
        Ok(certificate)
    }

    async fn renew_material(&self) -> Result<TlsMaterial> {
        let update = |data: Option<OwnSecretData>| {
            let current = data.as_ref().and_then(from_secret);
            let next = renew(current.as_ref(), &self.dns_name, Timestamp::now())?;
            let has_changed = current.as_ref() != Some(&next);
            Ok((has_changed.then(|| to_secret(&next)), next))
        };
        update_tls_secret(&self.client, &self.namespace, &self.object_name, update).await
    }
}

fn certified_key(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.context("the serving certificate is not PEM")?;
    let key = PrivateKeyDer::from_pem_slice(key).context("the key of the serving certificate is not PEM")?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
        .context("the key of the serving certificate has an unsupported type")?;
    let certified_key = CertifiedKey::new(chain, key);
    certified_key.keys_match().context("the serving certificate does not match its key")?;
    Ok(certified_key)
}

fn from_secret(data: &OwnSecretData) -> Option<TlsMaterial> {
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok().map(Zeroizing::new);
    let split = |text: &str, end: &str| text.split_inclusive(end).map(str::to_owned).collect::<Vec<_>>();
    Some(TlsMaterial {
        ca_certificates: split(&text("ca.crt")?, CERTIFICATE_END),
        ca_keys: split(&text("ca.key")?, KEY_END).into_iter().map(Zeroizing::new).collect(),
        certificate: text("tls.crt")?.to_string(),
        key: text("tls.key")?,
    })
}

fn to_secret(material: &TlsMaterial) -> OwnSecretData {
    let keys = material.ca_keys.iter().fold(String::new(), |all, key| all + key);
    let entry = |key: &str, text: &str| (key.to_owned(), ByteString(text.as_bytes().to_vec()));
    OwnSecretData::from([
        entry("ca.crt", &material.bundle()),
        entry("ca.key", &keys),
        entry("tls.crt", &material.certificate),
        entry("tls.key", &material.key),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn material_in_a_secret_is_read_as_written() {
        let now = Timestamp::from_second(1_767_600_000).unwrap();
        let first = renew(None, "operator.svc", now).unwrap();
        // After eight years there are two authorities.
        let both = renew(Some(&first), "operator.svc", now + jiff::SignedDuration::from_hours(24 * 3000)).unwrap();
        assert_eq!(both.ca_certificates.len(), 2);
        assert!(from_secret(&to_secret(&both)).as_ref() == Some(&both));
    }
}
