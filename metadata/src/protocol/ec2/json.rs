//! JSON in EC2's layout: two spaces of indentation, `"Key" : value`, LF between lines and none at the end. Shell scripts
//! parse it by columns, and signatures cover its bytes.

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::credentials::{Credentials, CredentialsFailure};
use crate::time::rfc3339;

/// Returns an object with these members, in this order. An absent value is null.
pub(super) fn object(members: &[(&str, Option<&str>)]) -> String {
    let lines = members.iter().map(|(key, value)| format!("  \"{key}\" : {}", serde_json::Value::from(*value)));
    format!("{{\n{}\n}}", lines.collect::<Vec<_>>().join(",\n"))
}

/// Returns the document that carries credentials.
pub(super) fn credentials(credentials: &Credentials) -> Zeroizing<String> {
    let (updated, expires) = (rfc3339(credentials.last_updated), rfc3339(credentials.expiration));
    Zeroizing::new(object(&[
        ("Code", Some("Success")),
        ("LastUpdated", Some(&updated)),
        ("Type", Some("AWS-HMAC")),
        ("AccessKeyId", Some(&credentials.access_key_id)),
        ("SecretAccessKey", Some(credentials.secret_access_key.expose())),
        ("Token", Some(credentials.session_token.expose())),
        ("Expiration", Some(&expires)),
    ]))
}

/// Returns the document that reports missing credentials: its code is not `Success`.
pub(super) fn failure(failure: &CredentialsFailure) -> Bytes {
    let at = rfc3339(failure.at);
    Bytes::from(object(&[
        ("Code", Some(&failure.code)),
        ("Message", Some(&failure.message)),
        ("LastUpdated", Some(&at)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_has_the_layout_of_ec2() {
        let text = object(&[("Code", Some("a\"b")), ("kernelId", None)]);
        assert_eq!(text, "{\n  \"Code\" : \"a\\\"b\",\n  \"kernelId\" : null\n}");
    }
}
