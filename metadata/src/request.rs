//! The head of a request, the checks on it that are the same for all dialects, and the class of its path.

use std::net::IpAddr;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};

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
pub enum IpFamily {
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
    /// The canonical path of the target, or `None` if it has none.
    pub path: Option<&'r CanonicalPath<'r>>,
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

/// Error of a repeated header that may occur once.
pub(crate) struct RepeatedHeader;

/// Returns the value of a header that may occur once.
pub(crate) fn single_header<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'h HeaderValue>, RepeatedHeader> {
    // Fast path: most requests repeat no header.
    if headers.keys_len() == headers.len() {
        return Ok(headers.get(name));
    }
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(RepeatedHeader),
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
    /// All classes, in the order of their discriminants.
    pub const ALL: [Self; 6] =
        [Self::Token, Self::Credentials, Self::MetaData, Self::Dynamic, Self::UserData, Self::Other];

    /// Classifies a request by its canonical path, so that every spelling of a path has the same class.
    #[must_use]
    pub fn of(request: &Request<'_>) -> Self {
        if is_token_path(request.uri) {
            return Self::Token;
        }
        let Some(path) = request.path else { return Self::Other };
        let path = path.split_first().1;
        if let Some(path) = below(path, "meta-data") {
            let is_role = below(path, "iam").is_some()
                || path.get(..3).is_some_and(|name| name.eq_ignore_ascii_case("ram") && below(path, name).is_some());
            if is_role { Self::Credentials } else { Self::MetaData }
        } else if below(path, "dynamic").is_some() {
            Self::Dynamic
        } else if below(path, "user-data").is_some() {
            Self::UserData
        } else {
            Self::Other
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

/// Returns the part of a path below a directory. It is empty for the directory itself. Returns `None` for any other path.
fn below<'p>(path: &'p str, directory: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(directory)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn class(uri: &Uri) -> PathClass {
        let path = CanonicalPath::parse(uri.path());
        PathClass::of(&Request {
            method: &Method::GET,
            uri,
            path: path.as_ref(),
            version: Version::HTTP_11,
            headers: &HeaderMap::new(),
            service: IpAddr::V4(Ipv4Addr::LOCALHOST),
            session: &LastToken::default(),
        })
    }

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
            ("/latest/meta-data/iam", PathClass::Credentials),
            ("/latest/meta-data/iam-x", PathClass::MetaData),
            ("/latest/meta-data/ramx/y", PathClass::MetaData),
            ("/latest/meta-data", PathClass::MetaData),
            ("/latest/meta-data-x", PathClass::Other),
            ("//latest//meta-data/instance-id", PathClass::MetaData),
            ("/latest/user-data", PathClass::UserData),
            ("/latest/dynamic/", PathClass::Dynamic),
            ("/", PathClass::Other),
            ("/anything/at/all", PathClass::Other),
        ] {
            assert_eq!(self::class(&path.parse().unwrap()), class, "{path}");
        }
    }
}
