//! Certificates, keys and kubeconfigs: one certificate authority a cluster, and an identity for each program. What is there
//! is kept, so that a cluster that is made again is the same to those who know it.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::json;

/// The authority that signs everything in a cluster.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
}

/// Who a certificate is for.
pub struct Identity<'a> {
    /// The user, to the API server.
    pub name: &'a str,
    /// The group, to the API server.
    pub group: Option<&'a str>,
    /// The names that a server has.
    pub names: &'a [&'a str],
    /// The addresses that a server has.
    pub addresses: &'a [IpAddr],
}

impl Authority {
    /// The authority whose key and certificate are kept in the folder, made if there is none.
    ///
    /// # Errors
    /// If it cannot be read, made or written.
    pub fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join("ca.pem");
        if !path.exists() {
            let key = KeyPair::generate()?;
            let certificate = authority().self_signed(&key)?.pem();
            write(&path, &(certificate + &key.serialize_pem()))?;
        }
        let both = fs::read_to_string(&path)?;
        let certificate = both.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap_or_default().to_owned();
        let key = KeyPair::from_pem(both.trim_start_matches(&certificate))
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { certificate, issuer: Issuer::new(authority(), key), folder: folder.to_owned() })
    }

    /// The authority's certificate, in PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The file with the authority's certificate and key.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate with its key, in PEM, for one identity.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn issue(&self, identity: &Identity<'_>) -> Result<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, identity.name);
        if let Some(group) = identity.group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        let names = identity.names.iter().map(|name| Ok(SanType::DnsName((*name).try_into()?)));
        params.subject_alt_names = names.collect::<Result<_>>()?;
        params.subject_alt_names.extend(identity.addresses.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate =
            params.signed_by(&key, &self.issuer).with_context(|| format!("cannot sign {}", identity.name))?;
        Ok(certificate.pem() + &key.serialize_pem())
    }

    /// Keeps a certificate with its key in a file, unless there is one.
    ///
    /// # Errors
    /// If it cannot be made or written.
    pub fn keep(&self, path: &Path, identity: &Identity<'_>) -> Result<()> {
        if path.exists() { Ok(()) } else { write(path, &self.issue(identity)?) }
    }

    /// Writes a kubeconfig for one identity, unless there is one for this server.
    ///
    /// # Errors
    /// If it cannot be made or written.
    pub fn kubeconfig(&self, path: &Path, server: &str, identity: &Identity<'_>) -> Result<()> {
        if fs::read_to_string(path).is_ok_and(|text| text.contains(server)) {
            return Ok(());
        }
        let both = encode(&self.issue(identity)?);
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "podmeta", "cluster": {
                "server": server, "certificate-authority-data": encode(&self.certificate),
            }}],
            "users": [{"name": identity.name, "user": {"client-certificate-data": both, "client-key-data": both}}],
            "contexts": [{"name": "podmeta", "context": {"cluster": "podmeta", "user": identity.name}}],
            "current-context": "podmeta",
        });
        write(path, &serde_json::to_string_pretty(&text)?)
    }
}

/// Keeps a private key in a file, and its public key in another, unless they are there.
///
/// # Errors
/// If they cannot be made or written.
pub fn keep_key(private: &Path, public: &Path) -> Result<()> {
    if !private.exists() {
        write(private, &KeyPair::generate()?.serialize_pem())?;
    }
    let key = KeyPair::from_pem(&fs::read_to_string(private)?)
        .with_context(|| format!("cannot read {}", private.display()))?;
    write(public, &key.public_key_pem())
}

/// Writes a file that only its owner reads, whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    let attempt = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let mut file = fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, path)
    };
    attempt().with_context(|| format!("cannot write {}", path.display()))
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "podmeta test cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn encode(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_that_is_opened_again_is_the_same() {
        let folder = std::env::temp_dir().join(format!("podmeta-pki-{}", std::process::id()));
        let first = Authority::open(&folder).unwrap();
        let again = Authority::open(&folder).unwrap();
        assert_eq!(first.certificate(), again.certificate());
        let identity = Identity { name: "admin", group: Some("system:masters"), names: &[], addresses: &[] };
        let (config, server) = (folder.join("config"), "https://198.18.0.2:6443");
        again.kubeconfig(&config, server, &identity).unwrap();
        let written = fs::read_to_string(&config).unwrap();
        again.kubeconfig(&config, server, &identity).unwrap();
        assert_eq!(fs::read_to_string(&config).unwrap(), written, "kept");
        again.kubeconfig(&config, "https://198.18.1.2:6443", &identity).unwrap();
        assert_ne!(fs::read_to_string(&config).unwrap(), written, "another server");
        fs::remove_dir_all(&folder).unwrap();
    }
}
