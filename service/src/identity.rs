//! The key that identity documents are signed with, and the certificate that verifiers pin.

use anyhow::{Context as _, Result};
use podmeta_metadata::signature::Signer;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A signing key and its certificate, both in PEM.
#[derive(Serialize, Deserialize)]
pub struct Identity {
    /// The key: RSA-2048, as EC2 and ECS have.
    pub key: Zeroizing<String>,
    /// The certificate, signed by the key itself.
    pub certificate: String,
}

impl Identity {
    /// A new key, and a certificate of this name for it.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn make(name: &str) -> Result<Self> {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).context("cannot make an RSA key")?;
        let mut certificate = CertificateParams::default();
        certificate.distinguished_name = DistinguishedName::new();
        certificate.distinguished_name.push(DnType::CommonName, name);
        let certificate = certificate.self_signed(&key).context("cannot make a certificate")?;
        Ok(Self { key: Zeroizing::new(key.serialize_pem()), certificate: certificate.pem() })
    }

    /// What signs with the key.
    ///
    /// # Errors
    /// If the key or the certificate is none.
    pub fn signer(&self) -> Result<Signer> {
        let key = KeyPair::from_pem(&self.key)?;
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .map_err(|error| anyhow::anyhow!("the certificate is not PEM: {error}"))?;
        Ok(Signer::new(&Zeroizing::new(key.serialize_der()), &certificate)?)
    }
}
