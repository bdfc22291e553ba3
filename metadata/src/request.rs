//! The head of a request, the checks on it that are the same for all dialects, and the class of its path.

use std::net::IpAddr;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Uri, Version};

use crate::path::CanonicalPath;
use crate::rejection::Rejection;
use crate::session::LastToken;

/// Maximum length of a request head, in bytes; a longer one gets 431.
pub const MAX_HEAD_BYTES: usize = 8 * 1024;

/// Maximum length of a request body, in bytes; a longer one gets 413. Neither cloud reads request bodies.
pub const MAX_BODY_BYTES: u64 = 1024;

/// The path that issues session tokens. One slash may follow it. Other spellings do not issue tokens.
pub const TOKEN_PATH: &str = "/latest/api/token";

/// Returns true for the token path, with or without a slash at its end. tmkms-light sends the slash.
#[must_use]
pub fn is_token_path(uri: &Uri) -> bool {
    uri.path().strip_suffix('/').unwrap_or(uri.path()) == TOKEN_PATH
}

/// An IP address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// The head of a request, and properties of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// The method.
    pub method: &'r Method,
    /// The target, as it was sent.
    pub uri: &'r Uri,
    /// The HTTP version.
    pub version: Version,
    /// The headers.
    pub headers: &'r HeaderMap,
    /// The service address that the request was sent to, or that its listener represents.
    pub service: IpAddr,
    /// The last valid token of the connection.
    pub session: &'r LastToken,
}

impl Request<'_> {
    /// Rejects a head that the HTTP library accepts but that a proxy could read differently: a Transfer-Encoding, an
    /// absolute target, CONNECT. Also rejects a long body. [`HostRule`](crate::host::HostRule) checks the Host.
    ///
    /// # Errors
    /// [`Rejection::Malformed`], or [`Rejection::BodyTooLong`] if the body is too long.
    pub fn check_head(&self) -> Result<(), Rejection> {
        if *self.method == Method::CONNECT {
            return Err(Rejection::Malformed("CONNECT is for proxies"));
        }
        if self.uri.scheme().is_some() || self.uri.authority().is_some() {
            return Err(Rejection::Malformed("the target is absolute, which is for proxies"));
        }
        if self.headers.contains_key(TRANSFER_ENCODING) {
            return Err(Rejection::Malformed("it has a Transfer-Encoding"));
        }
        match self.headers.get(CONTENT_LENGTH).map(|length| length.to_str().map(str::parse::<u64>)) {
            None | Some(Ok(Ok(0..=MAX_BODY_BYTES))) => Ok(()),
            Some(_) => Err(Rejection::BodyTooLong),
        }
    }
}

/// The class of a request path, as logs and metrics show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathClass {
    /// The token path.
    Token,
    /// At or below `meta-data/iam` or `meta-data/ram`.
    Credentials,
    /// Any other path below `meta-data`.
    MetaData,
    /// Below `dynamic`.
    Dynamic,
    /// User data.
    UserData,
    /// The listing of a version, or a path that no tree has.
    Other,
}

impl PathClass {
    /// Classifies a target by its canonical path, so that every spelling of a path has the same class.
    #[must_use]
    pub fn from_uri(uri: &Uri) -> Self {
        if is_token_path(uri) {
            return Self::Token;
        }
        let Some(path) = CanonicalPath::parse(uri.path()) else { return Self::Other };
        let mut names = path.split_first().1.split('/');
        match (names.next(), names.next()) {
            (Some("meta-data"), Some(name)) if name == "iam" || name.eq_ignore_ascii_case("ram") => Self::Credentials,
            (Some("meta-data"), _) => Self::MetaData,
            (Some("dynamic"), _) => Self::Dynamic,
            (Some("user-data"), _) => Self::UserData,
            _ => Self::Other,
        }
    }

    /// Returns the metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Credentials => "credentials",
            Self::MetaData => "meta-data",
            Self::Dynamic => "dynamic",
            Self::UserData => "user-data",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_class_is_one_of_six() {
        for (path, class) in [
            ("/latest/api/token", PathClass::Token),
            ("/2021-03-23/meta-data/iam/security-credentials/x", PathClass::Credentials),
            ("/latest/meta-data/Ram/security-credentials/x", PathClass::Credentials),
            ("/latest/meta-data/RAM/security-credentials/x", PathClass::Credentials),
            ("/latest/meta-data/./iam/security-credentials/x", PathClass::Credentials),
            ("/latest/meta-data/%69am/security-credentials/x", PathClass::Credentials),
            ("/./latest//meta-data/iam/", PathClass::Credentials),
            ("/latest/api/token/", PathClass::Token),
            ("//latest/api/token", PathClass::Other),
            ("/latest/meta-data/../user-data", PathClass::Other),
            ("//latest//meta-data/instance-id", PathClass::MetaData),
            ("/latest/user-data", PathClass::UserData),
            ("/latest/dynamic/", PathClass::Dynamic),
            ("/", PathClass::Other),
            ("/anything/at/all", PathClass::Other),
        ] {
            assert_eq!(PathClass::from_uri(&path.parse().unwrap()), class, "{path}");
        }
    }
}
