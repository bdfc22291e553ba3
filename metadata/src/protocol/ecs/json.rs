//! JSON in the layout of ECS: all values are strings.

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::credentials::{Credentials, CredentialsFailure};
use crate::time::rfc3339;

/// Returns the document that carries credentials.
pub(super) fn credentials(credentials: &Credentials) -> Zeroizing<String> {
    Zeroizing::new(object(&[
        ("AccessKeyId", &credentials.access_key_id),
        ("AccessKeySecret", credentials.secret_access_key.expose()),
        ("Expiration", &rfc3339(credentials.expiration)),
        ("SecurityToken", credentials.session_token.expose()),
        ("LastUpdated", &rfc3339(credentials.last_updated)),
        ("Code", "Success"),
    ]))
}

/// Returns the document that reports missing credentials. Every client treats a code other than `Success` as an error.
pub(super) fn failure(failure: &CredentialsFailure) -> Bytes {
    Bytes::from(object(&[
        ("Message", &failure.message),
        ("LastUpdated", &rfc3339(failure.at)),
        ("Code", &failure.code),
    ]))
}

fn object(members: &[(&str, &str)]) -> String {
    let lines = members.iter().map(|(key, value)| format!("  \"{key}\" : {}", serde_json::Value::from(*value)));
    format!("{{\n{}\n}}", lines.collect::<Vec<_>>().join(",\n"))
}
