//! Credentials with the response that carries them. It is rendered once for each issue, not for each request.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use podmeta_metadata::credentials::Credentials;
use podmeta_metadata::dialect::Dialect;

/// Issued credentials in the form of one dialect. Clones share them. The document is wiped from memory with the last
/// clone and the last response that carries it.
#[derive(Clone)]
pub struct IssuedCredentials(Arc<Issue>);

struct Issue {
    credentials: Credentials,
    document: Bytes,
    headers: HeaderMap,
}

impl IssuedCredentials {
    /// Renders credentials in a dialect.
    #[must_use]
    pub fn new(credentials: Credentials, dialect: Dialect) -> Self {
        let protocol = dialect.protocol();
        let document = Bytes::from_owner(protocol.credentials_json(&credentials));
        let headers = protocol.item_headers(Some(credentials.last_updated));
        Self(Arc::new(Issue { credentials, document, headers }))
    }

    /// Returns the credentials.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.0.credentials
    }

    /// Returns the JSON document. Its bytes are shared.
    #[must_use]
    pub fn document(&self) -> Bytes {
        self.0.document.clone()
    }

    /// Returns the headers. Their time of change is the time of issue.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }
}

impl PartialEq for IssuedCredentials {
    fn eq(&self, other: &Self) -> bool {
        self.0.credentials == other.0.credentials
    }
}

impl fmt::Debug for IssuedCredentials {
    /// Writes the credentials, whose secrets have a fixed output, and not the document.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IssuedCredentials").field(&self.0.credentials).finish()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use podmeta_metadata::secret::SecretString;

    use super::*;

    fn issued(dialect: Dialect) -> IssuedCredentials {
        let credentials = Credentials {
            access_key_id: "AKIA".to_owned(),
            secret_access_key: SecretString::new("hunter2".to_owned()),
            session_token: SecretString::new("hunter3".to_owned()),
            last_updated: "2026-01-05T08:00:00Z".parse().unwrap(),
            expiration: Timestamp::MAX,
        };
        IssuedCredentials::new(credentials, dialect)
    }

    #[test]
    fn clones_share_one_document() {
        let issued = issued(Dialect::Ec2);
        let (one, two) = (issued.document(), issued.clone().document());
        assert_eq!(one.as_ptr(), two.as_ptr());
        assert!(one.starts_with(b"{\n  \"Code\" : \"Success\"") && one.windows(7).any(|text| text == b"hunter2"));
        assert_eq!(issued.headers()[http::header::LAST_MODIFIED], "Mon, 05 Jan 2026 08:00:00 GMT");
    }

    #[test]
    fn debug_output_does_not_contain_the_secrets() {
        for dialect in Dialect::ALL {
            assert!(!format!("{:?}", issued(dialect)).contains("hunter"));
        }
    }
}
