//! Certificates, keys and kubeconfigs: one certificate authority for each cluster and one client subject for each program.
//! Existing files are kept, so that clients of a cluster stay valid when `up` runs again.

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

/// The certificate authority of a cluster.
pub struct ClusterCa {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    dir: PathBuf,
}

/// The subject of a certificate.
pub struct CertificateSubject<'a> {
    /// The common name: the user name in the API server.
    pub name: &'a str,
    /// The organization: the group in the API server.
    pub group: Option<&'a str>,
    /// DNS names of a server.
    pub dns_names: &'a [&'a str],
    /// Addresses of a server.
    pub addresses: &'a [IpAddr],
}

impl ClusterCa {
    /// Reads certificate and key from a directory. Generates them if they do not exist.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let path = dir.join("ca.pem");
        if !path.exists() {
            let key = KeyPair::generate()?;
            let certificate = ca_params().self_signed(&key)?.pem();
            write_private(&path, &(certificate + &key.serialize_pem()))?;
        }
        let pem = fs::read_to_string(&path)?;
        let certificate = pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap_or_default().to_owned();
        let key = KeyPair::from_pem(pem.trim_start_matches(&certificate))
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { certificate, issuer: Issuer::new(ca_params(), key), dir: dir.to_owned() })
    }

    /// Returns the certificate in PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Returns the path of the file with certificate and key.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Issues a certificate for client and server authentication. Returns certificate and key in PEM.
    ///
    /// # Errors
    /// If a DNS name is not valid, or signing fails.
    pub fn issue(&self, subject: &CertificateSubject<'_>) -> Result<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject.name);
        if let Some(group) = subject.group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        let names = subject.dns_names.iter().map(|name| Ok(SanType::DnsName((*name).try_into()?)));
        params.subject_alt_names = names.collect::<Result<_>>()?;
        params.subject_alt_names.extend(subject.addresses.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("cannot sign the certificate of {}", subject.name))?;
        Ok(certificate.pem() + &key.serialize_pem())
    }

    /// Writes certificate and key to a file, unless the file exists.
    ///
    /// # Errors
    /// If the certificate cannot be issued or written.
    pub fn ensure_certificate(&self, path: &Path, subject: &CertificateSubject<'_>) -> Result<()> {
        if path.exists() { Ok(()) } else { write_private(path, &self.issue(subject)?) }
    }

    /// Writes a kubeconfig, unless the file exists and names this server.
    ///
    /// # Errors
    /// If the certificate cannot be issued or the file cannot be written.
    pub fn ensure_kubeconfig(&self, path: &Path, server: &str, subject: &CertificateSubject<'_>) -> Result<()> {
        if fs::read_to_string(path).is_ok_and(|text| text.contains(server)) {
            return Ok(());
        }
        let pem = base64(&self.issue(subject)?);
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "podmeta", "cluster": {
                "server": server, "certificate-authority-data": base64(&self.certificate),
            }}],
            "users": [{"name": subject.name, "user": {"client-certificate-data": pem, "client-key-data": pem}}],
            "contexts": [{"name": "podmeta", "context": {"cluster": "podmeta", "user": subject.name}}],
            "current-context": "podmeta",
        });
        write_private(path, &serde_json::to_string_pretty(&text)?)
    }
}

/// Writes the public key of a private key. Generates the private key if its file does not exist.
///
/// # Errors
/// If a file cannot be read or written.
pub fn ensure_key_pair(private: &Path, public: &Path) -> Result<()> {
    if !private.exists() {
        write_private(private, &KeyPair::generate()?.serialize_pem())?;
    }
    let key = KeyPair::from_pem(&fs::read_to_string(private)?)
        .with_context(|| format!("cannot read {}", private.display()))?;
    write_private(public, &key.public_key_pem())
}

/// Writes a file with mode 600, atomically.
///
/// # Errors
/// If the file cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    let attempt = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let mut file = fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, path)
    };
    attempt().with_context(|| format!("cannot write {}", path.display()))
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "podmeta test cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_ca_and_kubeconfig_are_kept() {
        let dir = std::env::temp_dir().join(format!("podmeta-pki-{}", std::process::id()));
        let first = ClusterCa::open(&dir).unwrap();
        let reopened = ClusterCa::open(&dir).unwrap();
        assert_eq!(first.certificate(), reopened.certificate());
        let subject =
            CertificateSubject { name: "admin", group: Some("system:masters"), dns_names: &[], addresses: &[] };
        let (config, server) = (dir.join("config"), "https://198.18.0.2:6443");
        reopened.ensure_kubeconfig(&config, server, &subject).unwrap();
        let written = fs::read_to_string(&config).unwrap();
        reopened.ensure_kubeconfig(&config, server, &subject).unwrap();
        assert_eq!(fs::read_to_string(&config).unwrap(), written, "same server");
        reopened.ensure_kubeconfig(&config, "https://198.18.1.2:6443", &subject).unwrap();
        assert_ne!(fs::read_to_string(&config).unwrap(), written, "another server");
        fs::remove_dir_all(&dir).unwrap();
    }
}
