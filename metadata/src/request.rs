//! A request as the dialects see it, the checks on its head that no cloud's rules are about, and the outcomes.

use std::fmt;
use std::net::Ipv4Addr;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderName, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use jiff::Timestamp;

use crate::dialect::Dialect;
use crate::options::{HttpTokens, TokenTtl};
use crate::session::{Keyring, LastToken, TokenError};
use crate::tree::Lookup;
use crate::workload::Workload;

/// The longest head of a request, in bytes; a longer one gets 431.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The longest body of a request, in bytes; no rule of either cloud reads one, and a longer one gets 413.
pub const MAX_BODY_BYTES: u64 = 1024;

/// Where tokens are made, in both dialects: exactly this path and no other spelling of it.
pub const TOKEN_PATH: &str = "/latest/api/token";

/// The kind of address that a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// 169.254.169.254 or 100.100.100.200.
    Ipv4,
    /// fd00:ec2::254.
    Ipv6,
}

/// The head of a request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// The method.
    pub method: &'r Method,
    /// The target, as it was sent.
    pub uri: &'r Uri,
    /// The version of HTTP.
    pub version: Version,
    /// The headers.
    pub headers: &'r HeaderMap,
    /// The kind of address it came to.
    pub family: Family,
    /// The token that was sent last on its connection.
    pub session: &'r LastToken,
}

/// The answer to a request that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<'t> {
    /// A new token.
    IssueToken {
        /// The token.
        token: String,
        /// How long it lives.
        ttl: TokenTtl,
    },
    /// An item of the tree.
    ServeItem {
        /// What stands there.
        found: Lookup<'t>,
        /// The seconds that the request's token still has, if it had one.
        token_left: Option<u32>,
        /// The audience that the signed document is asked for (ECS).
        audience: Option<String>,
    },
}

/// Why a request is not served. Each dialect has its own status and body for each of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The pod gets nothing at all, whatever it asks: why is known to whoever compiled it.
    PodDenied,
    /// The pod is not answered in this dialect.
    DialectOff,
    /// `httpEndpoint` is disabled.
    EndpointDisabled,
    /// The request came over IPv6, which `httpProtocolIpv6` does not enable.
    Ipv6Disabled,
    /// The process that asks is not one of the users who may.
    UserNotAllowed,
    /// The head is one that no client of either cloud sends, and that a proxy may read differently.
    Malformed(&'static str),
    /// The body is longer than [`MAX_BODY_BYTES`], or did not come in time.
    BodyTooLong,
    /// A token was asked for through a proxy.
    ForwardedFor,
    /// A PUT to a path that makes no tokens.
    PutElsewhere,
    /// The life asked for is missing, given twice, or not 1 to 21600.
    BadTtl,
    /// A token is required and there is none.
    TokenMissing,
    /// There are two tokens.
    TokenTwice,
    /// The token opens nothing here.
    TokenBad(TokenError),
    /// The token path answers PUT alone.
    TokenPathMethod,
    /// Items answer GET and HEAD alone.
    Method,
    /// There is no such item.
    NotFound,
    /// The pod asks more than its limits allow.
    TooManyRequests,
    /// The answer cannot be had now: the pod is not known yet, or what the item needs is away.
    Unavailable(String),
}

impl fmt::Display for Rejection {
    /// Why, and what to change, for whoever runs the pod; never a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodDenied => "the pod is denied; make a MetadataProfile that matches it, and see why on start-up",
            Self::DialectOff => "the pod is not answered in this dialect; add it to spec.dialects of its profile",
            Self::EndpointDisabled => "spec.metadataOptions.httpEndpoint of its profile is disabled",
            Self::Ipv6Disabled => "spec.metadataOptions.httpProtocolIpv6 of its profile is disabled",
            Self::UserNotAllowed => "allowedUsers or deniedUsers of its profile exclude the process's user",
            Self::Malformed(what) => return write!(f, "the head of the request is malformed: {what}"),
            Self::BodyTooLong => "the request has a body; send none, or Content-Length: 0",
            Self::ForwardedFor => "a token is not given through a proxy: the request has an X-Forwarded-For header",
            Self::PutElsewhere => "tokens are made at /latest/api/token and nowhere else, without a slash at the end",
            Self::BadTtl => "the token's TTL header is missing, given twice, or not a number from 1 to 21600",
            Self::TokenMissing => {
                "it has no session token and spec.metadataOptions.httpTokens of its profile is required; \
                 PUT /latest/api/token first, or use a client that does"
            }
            Self::TokenTwice => "it has two session tokens; send one",
            Self::TokenBad(why) => return write!(f, "its session token opens nothing here: {why}; get a new one"),
            Self::TokenPathMethod => "tokens are made with PUT",
            Self::Method => "items are read with GET or HEAD",
            Self::NotFound => "there is no such item; list the directory above it",
            Self::TooManyRequests => "the pod asks more than spec.limits of its profile allows",
            Self::Unavailable(why) => return f.write_str(why),
        })
    }
}

impl Rejection {
    /// Whether the connection must end with the answer, because what follows on it cannot be trusted to be a request.
    #[must_use]
    pub fn closes(&self) -> bool {
        matches!(self, Self::Malformed(_) | Self::BodyTooLong)
    }
}

/// What a request asks for, in the few words that logs and metrics may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathClass {
    /// The token path.
    Token,
    /// `iam/` or `ram/`, and all below.
    Credentials,
    /// Anything else under `meta-data`.
    MetaData,
    /// Under `dynamic`.
    Dynamic,
    /// User data.
    UserData,
    /// A version's listing, or something that is not in the tree.
    Other,
}

impl PathClass {
    /// Sorts a target by its raw path; one that is oddly spelled is `Other` whatever it leads to.
    #[must_use]
    pub fn of(uri: &Uri) -> Self {
        if uri.path() == TOKEN_PATH {
            return Self::Token;
        }
        let mut names = uri.path().split('/').filter(|name| !name.is_empty()).skip(1);
        match (names.next(), names.next()) {
            (Some("meta-data"), Some("iam" | "ram" | "Ram")) => Self::Credentials,
            (Some("meta-data"), _) => Self::MetaData,
            (Some("dynamic"), _) => Self::Dynamic,
            (Some("user-data"), _) => Self::UserData,
            _ => Self::Other,
        }
    }

    /// The class as a label.
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

impl Request<'_> {
    /// Refuses a head that the HTTP library lets through though a proxy before us could read it differently:
    /// any Transfer-Encoding, a Host that is missing, doubled or no authority, an absolute target, CONNECT.
    ///
    /// # Errors
    /// If the head is such a one.
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
        let mut hosts = self.headers.get_all(HOST).iter();
        match (hosts.next(), hosts.next()) {
            (Some(host), None) if is_authority(host) => Ok(()),
            (Some(_), None) => Err(Rejection::Malformed("its Host is not an authority")),
            (Some(_), Some(_)) => Err(Rejection::Malformed("it has two Hosts")),
            (None, _) if self.version < Version::HTTP_11 => Ok(()),
            (None, _) => Err(Rejection::Malformed("it has no Host")),
        }?;
        match self.headers.get(CONTENT_LENGTH).map(|length| length.to_str().map(str::parse::<u64>)) {
            None | Some(Ok(Ok(0..=MAX_BODY_BYTES))) => Ok(()),
            Some(_) => Err(Rejection::BodyTooLong),
        }
    }

    /// The value of a header that may stand once; `Err` if it stands more often.
    pub(crate) fn single(&self, name: &HeaderName) -> Result<Option<&[u8]>, ()> {
        let mut values = self.headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (first, None) => Ok(first.map(HeaderValue::as_bytes)),
            (_, Some(_)) => Err(()),
        }
    }

    /// Judges the session token in the header `name`: the seconds it has left, or `None` if there is none and none is
    /// required. The clouds differ in what they answer, not in what they find.
    pub(crate) fn token(
        &self,
        name: &HeaderName,
        dialect: Dialect,
        workload: &Workload,
        keys: &Keyring,
        now: Timestamp,
    ) -> Result<Option<u32>, Rejection> {
        match (self.single(name), workload.options.http_tokens) {
            (Err(()), _) => Err(Rejection::TokenTwice),
            (Ok(Some(token)), _) => {
                let left = keys.verify(token, self.session, &workload.pod.uid, dialect, now);
                left.map(Some).map_err(Rejection::TokenBad)
            }
            (Ok(None), HttpTokens::Required) => Err(Rejection::TokenMissing),
            (Ok(None), HttpTokens::Optional) => Ok(None),
        }
    }
}

/// Whether a Host is an authority; almost every one is an IPv4 address, which is soon seen.
fn is_authority(host: &HeaderValue) -> bool {
    let is_ipv4 = host.to_str().is_ok_and(|host| host.parse::<Ipv4Addr>().is_ok());
    is_ipv4 || Authority::try_from(host.as_bytes()).is_ok()
}

/// A whole response.
pub type HttpResponse = http::Response<Bytes>;

/// The reason phrase of a status line, where it is not the usual one: an extension of a [`Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReasonPhrase(pub &'static str);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_logged_as_one_of_six_words() {
        for (path, class) in [
            ("/latest/api/token", PathClass::Token),
            ("/2021-03-23/meta-data/iam/security-credentials/x", PathClass::Credentials),
            ("/latest/meta-data/Ram/security-credentials/x", PathClass::Credentials),
            ("//latest//meta-data/instance-id", PathClass::MetaData),
            ("/latest/user-data", PathClass::UserData),
            ("/latest/dynamic/", PathClass::Dynamic),
            ("/", PathClass::Other),
            ("/anything/at/all", PathClass::Other),
        ] {
            assert_eq!(PathClass::of(&path.parse().unwrap()), class, "{path}");
        }
    }
}
