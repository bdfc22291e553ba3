//! The key that signs identity documents, and the certificate that verifiers pin.

use anyhow::{Context as _, Result};
use podmeta_metadata::signature::Signer;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A signing key and its certificate, in PEM.
#[derive(Serialize, Deserialize)]
pub struct IdentityKey {
    /// The RSA-2048 key, as EC2 and ECS use.
    pub key: Zeroizing<String>,
    /// The self-signed certificate.
    pub certificate: String,
}

impl IdentityKey {
    /// Generates a key and a certificate with this common name.
    ///
    /// # Errors
    /// If no random bytes are available.
    pub fn generate(name: &str) -> Result<Self> {
        let key =
            KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).context("cannot generate an RSA key")?;
        let mut certificate = CertificateParams::default();
        certificate.distinguished_name = DistinguishedName::new();
        certificate.distinguished_name.push(DnType::CommonName, name);
        let certificate = certificate.self_signed(&key).context("cannot create a certificate")?;
        Ok(Self { key: Zeroizing::new(key.serialize_pem()), certificate: certificate.pem() })
    }

    /// Returns a signer with this key.
    ///
    /// # Errors
    /// If the key or the certificate is not valid PEM.
    pub fn signer(&self) -> Result<Signer> {
        let key = KeyPair::from_pem(&self.key)?;
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .map_err(|error| anyhow::anyhow!("the certificate is not PEM: {error}"))?;
        Ok(Signer::new(&Zeroizing::new(key.serialize_der()), &certificate)?)
    }
}
