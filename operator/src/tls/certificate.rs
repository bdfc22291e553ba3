//! Creates certificates, and reads properties of certificates. All keys and certificates are PEM.

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};
use zeroize::Zeroizing;

/// The lifetime of a certificate authority. The authority is renewed when a fifth of its lifetime is left.
const CA_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 365 * 10);

/// The lifetime of a serving certificate. The certificate is renewed when a third of its lifetime is left.
const SERVING_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 90);

/// The maximum time by which the clock of an agent may be behind. Certificates become valid this long before they are created.
const MAX_CLOCK_SKEW: SignedDuration = SignedDuration::from_hours(1);

/// Returns true if a private key belongs to a certificate, and false if one of them cannot be parsed. Both are PEM.
pub(super) fn is_key_of(certificate: &str, key: &str) -> bool {
    let (Ok(key), Ok(der)) = (KeyPair::from_pem(key), CertificateDer::from_pem_slice(certificate.as_bytes())) else {
        return false;
    };
    let public = rcgen::PublicKeyData::subject_public_key_info(&key);
    Certificate::from_der(&der).is_ok_and(|certificate| {
        let known = certificate.tbs_certificate.subject_public_key_info.to_der();
        known.is_ok_and(|known| known == public)
    })
}

/// Returns the DNS names of a certificate, or `None` if it has none or cannot be parsed.
pub(super) fn dns_names(certificate: &str) -> Option<Vec<String>> {
    use x509_cert::ext::pkix::SubjectAltName;
    use x509_cert::ext::pkix::name::GeneralName;
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).ok()?;
    let certificate = Certificate::from_der(&der).ok()?;
    let (_, names) = certificate.tbs_certificate.get::<SubjectAltName>().ok()??;
    let name = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        _ => None,
    };
    Some(names.0.iter().filter_map(name).collect())
}

/// Returns the start and the end of a certificate's validity.
pub(super) fn validity(certificate: &str) -> Result<(Timestamp, Timestamp)> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).context("the certificate is not PEM")?;
    let validity = Certificate::from_der(&der).context("the certificate cannot be parsed")?.tbs_certificate.validity;
    let time = |time: x509_cert::time::Time| {
        Timestamp::from_second(i64::try_from(time.to_unix_duration().as_secs())?)
            .context("the validity of the certificate is out of range")
    };
    Ok((time(validity.not_before)?, time(validity.not_after)?))
}

/// Returns true if less than `1/divisor` of a certificate's lifetime is left, or it cannot be parsed.
pub(super) fn must_renew(certificate: &str, divisor: i32, now: Timestamp) -> bool {
    validity(certificate).map_or(true, |(from, until)| until.duration_since(now) < until.duration_since(from) / divisor)
}

/// Returns true if a certificate has expired, or cannot be parsed.
pub(super) fn is_expired(certificate: &str, now: Timestamp) -> bool {
    validity(certificate).map_or(true, |(_, until)| until <= now)
}

/// Creates a certificate authority. Returns its certificate and its key.
pub(super) fn create_authority(now: Timestamp) -> Result<(String, Zeroizing<String>)> {
    let key = KeyPair::generate().context("cannot create a key")?;
    let certificate = authority_params(now)?.self_signed(&key).context("cannot create a certificate authority")?;
    Ok((certificate.pem(), Zeroizing::new(key.serialize_pem())))
}

fn authority_params(now: Timestamp) -> Result<CertificateParams> {
    let mut params = params("podmeta operator CA", CA_LIFETIME, now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Creates a serving certificate for a DNS name, signed by an authority. Returns the certificate and its key.
pub(super) fn create_serving(
    ca_key: &str,
    ca_certificate: &str,
    name: &str,
    now: Timestamp,
) -> Result<(String, Zeroizing<String>)> {
    // A certificate contains only the issuer's name and key identifier, so equal parameters are enough.
    let (created, _) = validity(ca_certificate)?;
    let issuer = Issuer::new(
        authority_params(created)?,
        KeyPair::from_pem(ca_key).context("the key of the authority is not PEM")?,
    );
    let key = KeyPair::generate().context("cannot create a key")?;
    let mut params = params("podmeta operator", SERVING_LIFETIME, now)?;
    params.subject_alt_names =
        vec![rcgen::SanType::DnsName(name.try_into().context("the name of the Service is not a DNS name")?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).context("cannot create a serving certificate")?;
    Ok((certificate.pem(), Zeroizing::new(key.serialize_pem())))
}

fn params(name: &str, lifetime: SignedDuration, now: Timestamp) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = to_date(now.checked_sub(MAX_CLOCK_SKEW)?)?;
    params.not_after = to_date(now.checked_add(lifetime)?)?;
    Ok(params)
}

fn to_date(time: Timestamp) -> Result<time::OffsetDateTime> {
    time::OffsetDateTime::from_unix_timestamp(time.as_second())
        .context("the validity of the certificate is out of range")
}
