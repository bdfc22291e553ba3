//! Signs identity documents: a bare RSA signature, and PKCS #7 that contains the document but no certificate and no
//! attributes. The key is RSA-2048 and the digest SHA-256 in all forms. EC2's `pkcs7` has DSA and SHA-1 instead; a
//! verifier that pins our certificate is not affected (docs/coverage.md).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cms::cert::IssuerAndSerialNumber;
use cms::cert::x509::Certificate;
use cms::cert::x509::der::asn1::{ObjectIdentifier, OctetString, OctetStringRef, SetOfVec};
use cms::cert::x509::der::{self, Any, Decode as _, Encode as _};
use cms::cert::x509::spki::AlgorithmIdentifierOwned;
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos};
use serde::{Deserialize, Serialize};

use crate::tree::DocumentForm;

const ID_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const ID_SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Line length of base64, in columns.
const COLUMNS: usize = 76;

/// A signing key, and the certificate that verifiers pin.
#[derive(Debug)]
pub struct Signer {
    key: KeyPair,
    certificate: Certificate,
}

/// Error of a key that cannot be read, or of a failed signature.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The key is not an RSA key in PKCS #8.
    #[error("the key is not an RSA key in PKCS #8: {0}")]
    Key(String),
    /// The certificate or the signature cannot be decoded or encoded as DER.
    #[error("cannot decode or encode DER of the certificate or signature: {0}")]
    Der(der::Error),
    /// The library failed to sign.
    #[error("signing failed")]
    Sign,
}

impl From<der::Error> for SignError {
    fn from(error: der::Error) -> Self {
        Self::Der(error)
    }
}

/// A signed document in all its forms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedDocument {
    /// The document.
    #[serde(with = "text")]
    pub document: Bytes,
    /// Base64 of the bare signature.
    #[serde(with = "text")]
    pub signature: Bytes,
    /// Base64 of the PKCS #7 form, without PEM header and footer.
    #[serde(with = "text")]
    pub pkcs7: Bytes,
}

/// Bytes of text, as a JSON string.
mod text {
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(bytes).map_err(serde::ser::Error::custom)?)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        String::deserialize(deserializer).map(Bytes::from)
    }
}

impl SignedDocument {
    /// Returns one form. `Pkcs7` and `Rsa2048` have the same bytes.
    #[must_use]
    pub fn form(&self, item: DocumentForm) -> Bytes {
        match item {
            DocumentForm::Document => self.document.clone(),
            DocumentForm::Signature => self.signature.clone(),
            DocumentForm::Pkcs7 | DocumentForm::Rsa2048 => self.pkcs7.clone(),
        }
    }
}

impl Signer {
    /// Reads an RSA key (PKCS #8 DER) and its certificate (DER).
    ///
    /// # Errors
    /// If either is malformed.
    pub fn new(key: &[u8], certificate: &[u8]) -> Result<Self, SignError> {
        let key = KeyPair::from_pkcs8(key).map_err(|error| SignError::Key(error.to_string()))?;
        Ok(Self { key, certificate: Certificate::from_der(certificate)? })
    }

    /// Signs a document in all forms. It takes milliseconds.
    ///
    /// # Errors
    /// If the library fails. It does not fail for a key that was read.
    pub fn sign(&self, document: &str) -> Result<SignedDocument, SignError> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), document.as_bytes(), &mut signature)
            .map_err(|_| SignError::Sign)?;
        let pkcs7 = self.pkcs7(document.as_bytes(), &signature)?;
        Ok(SignedDocument {
            document: Bytes::copy_from_slice(document.as_bytes()),
            signature: wrapped_base64(&signature).into(),
            pkcs7: wrapped_base64(&pkcs7).into(),
        })
    }

    fn pkcs7(&self, content: &[u8], signature: &[u8]) -> Result<Vec<u8>, der::Error> {
        let digest = AlgorithmIdentifierOwned { oid: SHA_256, parameters: None };
        let rsa = AlgorithmIdentifierOwned { oid: RSA_ENCRYPTION, parameters: Some(Any::null()) };
        let signed_by = &self.certificate.tbs_certificate;
        let signer = SignerInfo {
            version: CmsVersion::V1,
            sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: signed_by.issuer.clone(),
                serial_number: signed_by.serial_number.clone(),
            }),
            digest_alg: digest.clone(),
            signed_attrs: None,
            signature_algorithm: rsa,
            signature: OctetString::new(signature)?,
            unsigned_attrs: None,
        };
        let signed = SignedData {
            version: CmsVersion::V1,
            digest_algorithms: SetOfVec::try_from(vec![digest])?,
            encap_content_info: EncapsulatedContentInfo {
                econtent_type: ID_DATA,
                econtent: Some(Any::encode_from(&OctetStringRef::new(content)?)?),
            },
            certificates: None,
            crls: None,
            signer_infos: SignerInfos(SetOfVec::try_from(vec![signer])?),
        };
        ContentInfo { content_type: ID_SIGNED_DATA, content: Any::encode_from(&signed)? }.to_der()
    }
}

/// Returns base64 in lines of 76 columns, without a line feed at the end.
fn wrapped_base64(bytes: &[u8]) -> String {
    let text = STANDARD.encode(bytes);
    let mut lines = String::with_capacity(text.len() + text.len() / COLUMNS);
    for (at, character) in text.chars().enumerate() {
        if at > 0 && at % COLUMNS == 0 {
            lines.push('\n');
        }
        lines.push(character);
    }
    lines
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    /// Returns a signer with a new key and a self-signed certificate.
    fn signer() -> Signer {
        let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
        Signer::new(&key.serialize_der(), certificate.der()).unwrap()
    }

    fn decoded(text: &Bytes) -> Vec<u8> {
        STANDARD.decode(std::str::from_utf8(text).unwrap().replace('\n', "")).unwrap()
    }

    #[test]
    fn both_signatures_verify_over_the_served_bytes() {
        let signer = signer();
        let signed = signer.sign("{ \"a\" : 1 }").unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, signer.key.public_key().as_ref().to_vec());
        public.verify(&signed.document, &decoded(&signed.signature)).unwrap();
        assert!(public.verify(b"{ \"a\" : 2 }", &decoded(&signed.signature)).is_err());

        let outer = ContentInfo::from_der(&decoded(&signed.pkcs7)).unwrap();
        assert_eq!(outer.content_type, ID_SIGNED_DATA);
        let inner = outer.content.decode_as::<SignedData>().unwrap();
        let content = inner.encap_content_info.econtent.unwrap().decode_as::<OctetString>().unwrap();
        assert_eq!(content.as_bytes(), &signed.document[..]);
        assert!(inner.certificates.is_none());
        let by = inner.signer_infos.0.get(0).unwrap();
        public.verify(content.as_bytes(), by.signature.as_bytes()).unwrap();
    }

    #[test]
    fn base64_is_wrapped_without_a_final_line_feed() {
        let text = wrapped_base64(&[0; 100]);
        assert_eq!(text.lines().map(str::len).collect::<Vec<_>>(), [76, 60]);
        assert!(!text.ends_with('\n'));
    }
}
