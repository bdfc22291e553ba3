//! The operator's own certificate authority and serving certificate, as one value that is kept in a Secret. Both are renewed
//! before they expire. A new authority is published before it signs a certificate, so an agent that trusts the published
//! bundle trusts every certificate that is served.

use anyhow::{Result, bail};
use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use super::certificate::{create_authority, create_serving, dns_names, is_expired, is_key_of, must_renew, validity};

/// The time that agents have to read a new authority. Until then an older authority signs, if there is one.
const CA_PUBLICATION_DELAY: SignedDuration = SignedDuration::from_hours(24);

/// Keys and certificates, all in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsMaterial {
    /// The certificates of the authorities, the newest first.
    pub ca_certificates: Vec<String>,
    /// The keys of the authorities, in the same order.
    pub ca_keys: Vec<Zeroizing<String>>,
    /// The serving certificate.
    pub certificate: String,
    /// The key of the serving certificate.
    pub key: Zeroizing<String>,
}

impl std::fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsMaterial(..)")
    }
}

impl TlsMaterial {
    /// Returns the certificates that agents trust.
    #[must_use]
    pub fn bundle(&self) -> String {
        self.ca_certificates.concat()
    }
}

/// Returns the material to use from now on. It is unchanged unless something must be renewed.
///
/// # Errors
/// If a key or certificate cannot be created.
pub fn renew(current: Option<&TlsMaterial>, name: &str, now: Timestamp) -> Result<TlsMaterial> {
    let mut next = match current.filter(|current| has_authorities(current)) {
        Some(current) => current.clone(),
        None => {
            let (certificate, key) = create_authority(now)?;
            let serving = create_serving(&key, &certificate, name, now)?;
            TlsMaterial {
                ca_certificates: vec![certificate],
                ca_keys: vec![key],
                certificate: serving.0,
                key: serving.1,
            }
        }
    };
    while next.ca_certificates.len() > 1 && next.ca_certificates.last().is_none_or(|oldest| is_expired(oldest, now)) {
        next.ca_certificates.pop();
        next.ca_keys.pop();
    }
    if next.ca_certificates.first().is_none_or(|newest| must_renew(newest, 5, now)) {
        let (certificate, key) = create_authority(now)?;
        next.ca_certificates.insert(0, certificate);
        next.ca_keys.insert(0, key);
    }
    if !is_usable(&next, name) || must_renew(&next.certificate, 3, now) {
        let is_published = |certificate: &String| {
            validity(certificate).is_ok_and(|(from, _)| now.duration_since(from) > CA_PUBLICATION_DELAY)
        };
        let signer = next.ca_certificates.iter().position(is_published).unwrap_or(0);
        let (Some(certificate), Some(key)) = (next.ca_certificates.get(signer), next.ca_keys.get(signer)) else {
            bail!("internal error: there is no certificate authority");
        };
        let created = create_serving(key, certificate, name, now)?;
        (next.certificate, next.key) = created;
    }
    Ok(next)
}

/// Returns true if there are authorities, each with its key.
fn has_authorities(material: &TlsMaterial) -> bool {
    let (certificates, keys) = (&material.ca_certificates, &material.ca_keys);
    let all_match = certificates.iter().zip(keys).all(|(certificate, key)| is_key_of(certificate, key));
    !certificates.is_empty() && certificates.len() == keys.len() && all_match
}

/// Returns true if the serving certificate has its key and this DNS name.
fn is_usable(material: &TlsMaterial, name: &str) -> bool {
    is_key_of(&material.certificate, &material.key)
        && dns_names(&material.certificate).is_some_and(|names| names.iter().any(|known| known == name))
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject as _;

    use super::*;

    const NAME: &str = "podmeta-operator.podmeta-system.svc";

    fn after_days(days: i64) -> Timestamp {
        Timestamp::from_second(1_767_600_000 + days * 86_400).unwrap()
    }

    fn created() -> TlsMaterial {
        renew(None, NAME, after_days(0)).unwrap()
    }

    /// Returns true if a client that trusts the authorities of `trusted` accepts the certificate of `served`.
    fn trusts(trusted: &TlsMaterial, served: &TlsMaterial, name: &str, day: i64) -> bool {
        use rustls::client::danger::ServerCertVerifier as _;
        use rustls_pki_types::{ServerName, UnixTime};
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.bundle().as_bytes()).unwrap()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let der = CertificateDer::from_pem_slice(served.certificate.as_bytes()).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let seconds = u64::try_from(after_days(day).as_second()).unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        verifier.verify_server_cert(&der, &[], &name, &[], now).is_ok()
    }

    #[test]
    fn serving_certificate_is_kept_until_it_must_be_renewed() {
        let first = created();
        assert_eq!(renew(Some(&first), NAME, after_days(59)).unwrap(), first);
        let second = renew(Some(&first), NAME, after_days(61)).unwrap();
        assert_ne!(second.certificate, first.certificate);
        assert_eq!(second.bundle(), first.bundle(), "the authority is kept");
    }

    #[test]
    fn new_authority_is_published_before_it_signs_and_the_old_one_is_dropped_when_it_expires() {
        let due = 365 * 8 + 10;
        let old = renew(Some(&created()), NAME, after_days(due - 50)).unwrap();
        let next = renew(Some(&old), NAME, after_days(due)).unwrap();
        assert_eq!(next.ca_certificates.len(), 2);
        assert_eq!(next.ca_certificates[1], old.ca_certificates[0]);
        assert_eq!(next.certificate, old.certificate, "agents may not have read the new authority");
        let lost =
            renew(Some(&TlsMaterial { certificate: "not PEM".into(), ..next.clone() }), NAME, after_days(due)).unwrap();
        assert!(
            trusts(&old, &lost, NAME, due),
            "a certificate that is needed immediately is signed by the old authority"
        );
        let later = renew(Some(&next), NAME, after_days(due + 60)).unwrap();
        assert!(!trusts(&old, &later, NAME, due + 60) && trusts(&later, &later, NAME, due + 60));
        assert_eq!(later.ca_certificates.len(), 2);
        let last = renew(Some(&later), NAME, after_days(365 * 10 + 1)).unwrap();
        assert_eq!(last.ca_certificates, [next.ca_certificates[0].clone()]);
    }

    #[test]
    fn unusable_serving_certificate_is_replaced_by_the_same_authority() {
        let (one, other) = (created(), created());
        for (broken, name) in [
            (TlsMaterial { key: other.key.clone(), ..one.clone() }, NAME),
            (TlsMaterial { certificate: "not PEM".into(), ..one.clone() }, NAME),
            (one.clone(), "other.svc"),
        ] {
            let next = renew(Some(&broken), name, after_days(1)).unwrap();
            assert_ne!(next.certificate, broken.certificate);
            assert_eq!(next.bundle(), one.bundle());
        }
    }

    #[test]
    fn authorities_without_their_keys_are_replaced() {
        let (one, other) = (created(), created());
        for broken in [
            TlsMaterial { ca_keys: Vec::new(), ..one.clone() },
            TlsMaterial { ca_certificates: other.ca_certificates.clone(), ..one.clone() },
            TlsMaterial { ca_certificates: Vec::new(), ca_keys: Vec::new(), ..one.clone() },
        ] {
            let next = renew(Some(&broken), NAME, after_days(1)).unwrap();
            assert_ne!(next.bundle(), broken.bundle());
            assert_ne!(next.certificate, broken.certificate);
        }
    }

    #[test]
    fn client_with_the_bundle_accepts_the_certificate_for_its_name_only() {
        let created = created();
        assert!(trusts(&created, &created, NAME, 1));
        assert!(!trusts(&created, &created, "other.svc", 1));
        assert!(!trusts(&created, &created, NAME, 91));
    }

    #[test]
    fn debug_output_has_no_keys() {
        assert_eq!(format!("{:?}", created()), "TlsMaterial(..)");
    }
}
