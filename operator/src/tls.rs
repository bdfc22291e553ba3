//! The operator's own certificate authority and serving certificate, as one value that is kept in a Secret. What is due is
//! renewed before it ends: the authority is in the bundle for long before a certificate is made with it, so that an agent
//! that trusts the bundle trusts every certificate that is served.

use anyhow::{Context as _, Result, bail};
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

/// How long an authority lives; the next one is made when a fifth of that is left.
const CA_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365 * 10);
/// How long a serving certificate lives; the next one is made when a third of that is left.
const SERVING_LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);
/// Clocks of agents may be behind by this much.
const BEFORE: SignedDuration = SignedDuration::from_hours(1);
/// An authority that is younger than this makes no certificate if there is another: agents may not have read it yet.
const SETTLING: SignedDuration = SignedDuration::from_hours(24);

/// Keys and certificates, all in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// The authorities' certificates, the newest one first.
    pub ca_certificates: Vec<String>,
    /// The authorities' keys, in the same order.
    pub ca_keys: Vec<Zeroizing<String>>,
    /// The serving certificate.
    pub certificate: String,
    /// Its key.
    pub key: Zeroizing<String>,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Material(..)")
    }
}

impl Material {
    /// What agents trust.
    #[must_use]
    pub fn bundle(&self) -> String {
        self.ca_certificates.concat()
    }
}

/// What is to be used from now on: the same if nothing is due.
///
/// # Errors
/// If no key can be made.
pub fn renewed(current: Option<&Material>, name: &str, now: Timestamp) -> Result<Material> {
    let mut next = match current.filter(|current| has_authorities(current)) {
        Some(current) => current.clone(),
        None => {
            let (certificate, key) = authority(now)?;
            let serving = serving(&key, &certificate, name, now)?;
            Material { ca_certificates: vec![certificate], ca_keys: vec![key], certificate: serving.0, key: serving.1 }
        }
    };
    while next.ca_certificates.len() > 1 && next.ca_certificates.last().is_none_or(|oldest| is_over(oldest, now)) {
        next.ca_certificates.pop();
        next.ca_keys.pop();
    }
    if next.ca_certificates.first().is_none_or(|newest| is_due(newest, 5, now)) {
        let (certificate, key) = authority(now)?;
        next.ca_certificates.insert(0, certificate);
        next.ca_keys.insert(0, key);
    }
    if !serves(&next, name) || is_due(&next.certificate, 3, now) {
        let settled =
            |certificate: &&String| validity(certificate).is_ok_and(|(from, _)| now.duration_since(from) > SETTLING);
        let at = next.ca_certificates.iter().position(|certificate| settled(&certificate)).unwrap_or(0);
        let (Some(certificate), Some(key)) = (next.ca_certificates.get(at), next.ca_keys.get(at)) else {
            bail!("there is no authority to make a certificate with");
        };
        let made = serving(key, certificate, name, now)?;
        (next.certificate, next.key) = made;
    }
    Ok(next)
}

/// Whether there are authorities, each with its key.
fn has_authorities(material: &Material) -> bool {
    let (certificates, keys) = (&material.ca_certificates, &material.ca_keys);
    let each = certificates.iter().zip(keys).all(|(certificate, key)| belong_together(certificate, key));
    !certificates.is_empty() && certificates.len() == keys.len() && each
}

/// Whether the serving certificate can be served under this name.
fn serves(material: &Material, name: &str) -> bool {
    belong_together(&material.certificate, &material.key)
        && names(&material.certificate).is_some_and(|names| names.iter().any(|known| known == name))
}

fn belong_together(certificate: &str, key: &str) -> bool {
    let (Ok(key), Ok(der)) = (KeyPair::from_pem(key), CertificateDer::from_pem_slice(certificate.as_bytes())) else {
        return false;
    };
    let public = rcgen::PublicKeyData::subject_public_key_info(&key);
    Certificate::from_der(&der).is_ok_and(|certificate| {
        let its = certificate.tbs_certificate.subject_public_key_info.to_der();
        its.is_ok_and(|its| its == public)
    })
}

fn names(certificate: &str) -> Option<Vec<String>> {
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

/// From when to when a certificate is valid.
fn validity(certificate: &str) -> Result<(Timestamp, Timestamp)> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).context("it is no PEM")?;
    let validity = Certificate::from_der(&der).context("it is no certificate")?.tbs_certificate.validity;
    let time = |time: x509_cert::time::Time| {
        Timestamp::from_second(i64::try_from(time.to_unix_duration().as_secs())?).context("its time is out of range")
    };
    Ok((time(validity.not_before)?, time(validity.not_after)?))
}

/// Whether less than one part in so many of a certificate's life is left.
fn is_due(certificate: &str, part: i32, now: Timestamp) -> bool {
    validity(certificate).map_or(true, |(from, until)| until.duration_since(now) < until.duration_since(from) / part)
}

fn is_over(certificate: &str, now: Timestamp) -> bool {
    validity(certificate).map_or(true, |(_, until)| until <= now)
}

fn authority(now: Timestamp) -> Result<(String, Zeroizing<String>)> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let certificate = authority_params(now)?.self_signed(&key).context("cannot make a certificate authority")?;
    Ok((certificate.pem(), Zeroizing::new(key.serialize_pem())))
}

fn authority_params(now: Timestamp) -> Result<CertificateParams> {
    let mut params = params("podmeta operator CA", CA_LIFE, now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn serving(ca_key: &str, ca_certificate: &str, name: &str, now: Timestamp) -> Result<(String, Zeroizing<String>)> {
    // Of an issuer only its name and key identifier end up in a certificate, and those are the same each time.
    let (made, _) = validity(ca_certificate)?;
    let issuer =
        Issuer::new(authority_params(made)?, KeyPair::from_pem(ca_key).context("the authority's key is no PEM")?);
    let key = KeyPair::generate().context("cannot make a key")?;
    let mut params = params("podmeta operator", SERVING_LIFE, now)?;
    params.subject_alt_names = vec![rcgen::SanType::DnsName(name.try_into().context("the Service's name is no name")?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).context("cannot make a serving certificate")?;
    Ok((certificate.pem(), Zeroizing::new(key.serialize_pem())))
}

fn params(name: &str, life: SignedDuration, now: Timestamp) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date(now.checked_sub(BEFORE)?)?;
    params.not_after = date(now.checked_add(life)?)?;
    Ok(params)
}

fn date(time: Timestamp) -> Result<time::OffsetDateTime> {
    time::OffsetDateTime::from_unix_timestamp(time.as_second()).context("a certificate's time is out of range")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "podmeta-operator.podmeta-system.svc";

    fn after(days: i64) -> Timestamp {
        Timestamp::from_second(1_767_600_000 + days * 86_400).unwrap()
    }

    fn made() -> Material {
        renewed(None, NAME, after(0)).unwrap()
    }

    /// Whether a client that trusts the authorities of one takes the certificate of the other.
    fn trusts(trusted: &Material, served: &Material, name: &str, day: i64) -> bool {
        use rustls::client::danger::ServerCertVerifier as _;
        use rustls_pki_types::{ServerName, UnixTime};
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.bundle().as_bytes()).unwrap()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let der = CertificateDer::from_pem_slice(served.certificate.as_bytes()).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let seconds = u64::try_from(after(day).as_second()).unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        verifier.verify_server_cert(&der, &[], &name, &[], now).is_ok()
    }

    #[test]
    fn what_is_made_is_usable_and_kept_until_it_is_due() {
        let first = made();
        assert_eq!(renewed(Some(&first), NAME, after(59)).unwrap(), first);
        let second = renewed(Some(&first), NAME, after(61)).unwrap();
        assert_ne!(second.certificate, first.certificate);
        assert_eq!(second.bundle(), first.bundle(), "the authority stays");
    }

    #[test]
    fn a_new_authority_is_trusted_before_it_makes_a_certificate_and_the_old_one_goes_when_it_ends() {
        let due = 365 * 8 + 10;
        let old = renewed(Some(&made()), NAME, after(due - 50)).unwrap();
        let next = renewed(Some(&old), NAME, after(due)).unwrap();
        assert_eq!(next.ca_certificates.len(), 2);
        assert_eq!(next.ca_certificates[1], old.ca_certificates[0]);
        assert_eq!(next.certificate, old.certificate, "agents have not read the new one yet");
        let lost = renewed(Some(&Material { certificate: "no PEM".into(), ..next.clone() }), NAME, after(due)).unwrap();
        assert!(trusts(&old, &lost, NAME, due), "nor may one that is needed at once be of the new one");
        let later = renewed(Some(&next), NAME, after(due + 60)).unwrap();
        assert!(!trusts(&old, &later, NAME, due + 60) && trusts(&later, &later, NAME, due + 60));
        assert_eq!(later.ca_certificates.len(), 2);
        let last = renewed(Some(&later), NAME, after(365 * 10 + 1)).unwrap();
        assert_eq!(last.ca_certificates, [next.ca_certificates[0].clone()]);
    }

    #[test]
    fn a_serving_certificate_that_is_of_no_use_is_made_anew_by_the_same_authority() {
        let (one, other) = (made(), made());
        for (broken, name) in [
            (Material { key: other.key.clone(), ..one.clone() }, NAME),
            (Material { certificate: "no PEM".into(), ..one.clone() }, NAME),
            (one.clone(), "other.svc"),
        ] {
            let next = renewed(Some(&broken), name, after(1)).unwrap();
            assert_ne!(next.certificate, broken.certificate);
            assert_eq!(next.bundle(), one.bundle());
        }
    }

    #[test]
    fn authorities_without_their_keys_are_made_anew() {
        let (one, other) = (made(), made());
        for broken in [
            Material { ca_keys: Vec::new(), ..one.clone() },
            Material { ca_certificates: other.ca_certificates.clone(), ..one.clone() },
            Material { ca_certificates: Vec::new(), ca_keys: Vec::new(), ..one.clone() },
        ] {
            let next = renewed(Some(&broken), NAME, after(1)).unwrap();
            assert_ne!(next.bundle(), broken.bundle());
            assert_ne!(next.certificate, broken.certificate);
        }
    }

    #[test]
    fn a_client_that_trusts_the_bundle_trusts_the_certificate_for_its_name_alone() {
        let made = made();
        assert!(trusts(&made, &made, NAME, 1));
        assert!(!trusts(&made, &made, "other.svc", 1));
        assert!(!trusts(&made, &made, NAME, 91));
    }

    #[test]
    fn keys_do_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", made()), "Material(..)");
    }
}
