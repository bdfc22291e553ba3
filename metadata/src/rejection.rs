//! The reasons for which a request is rejected.

use std::fmt;

use crate::compile::DenialReason;
use crate::session::TokenError;

/// Reason why a request is rejected. Each dialect has its own status code and body for each reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The pod is denied on every path.
    PodDenied(DenialReason),
    /// The pod does not have this dialect.
    DialectOff,
    /// `httpEndpoint` is disabled.
    EndpointDisabled,
    /// The request came over IPv6 and `httpProtocolIpv6` is disabled.
    Ipv6Disabled,
    /// `allowedUsers` or `deniedUsers` exclude the user that owns the client's socket, or the user was not found.
    UserNotAllowed,
    /// The head is malformed: no client of either cloud sends it, and a proxy may parse it differently.
    Malformed(&'static str),
    /// The body is longer than [`MAX_BODY_BYTES`](crate::request::MAX_BODY_BYTES).
    BodyTooLong,
    /// A token request has an `X-Forwarded-For` header.
    ForwardedFor,
    /// The TTL header is missing, repeated, or not a number from 1 to 21600.
    BadTtl,
    /// A token is required and the request has none.
    TokenMissing,
    /// The request has more than one token.
    TokenTwice,
    /// The token is not valid for this pod and dialect.
    TokenBad(TokenError),
    /// A request to the token path has a method other than PUT.
    TokenPathMethod,
    /// A request for an item has a method other than GET and HEAD.
    Method,
    /// The tree has no such item.
    NotFound,
    /// The pod exceeds its rate limit.
    TooManyRequests,
    /// The item is temporarily unavailable. The client gets 503.
    Unavailable(String),
}

/// A rejected request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRequest {
    /// The reason.
    pub rejection: Rejection,
    /// The remaining lifetime of the request's token in seconds. `None` if the request has no valid token, or was rejected
    /// before the check of its token.
    pub token_left: Option<u32>,
}

impl From<Rejection> for RejectedRequest {
    fn from(rejection: Rejection) -> Self {
        Self { rejection, token_left: None }
    }
}

impl Rejection {
    /// Returns the rejection of a request whose token is valid for `token_left` seconds, if it has one.
    #[must_use]
    pub fn with_token(self, token_left: Option<u32>) -> RejectedRequest {
        RejectedRequest { rejection: self, token_left }
    }

    /// Returns true if the connection must close, because the bytes that follow may not be a request.
    #[must_use]
    pub fn closes_connection(&self) -> bool {
        matches!(self, Self::Malformed(_) | Self::BodyTooLong)
    }
}

impl fmt::Display for Rejection {
    /// Writes the reason and the remedy, for the owner of the pod. It never contains a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodDenied(reason) => return write!(f, "the pod is denied: {reason}"),
            Self::DialectOff => "the pod does not have this dialect; add it to spec.dialects of its profile",
            Self::EndpointDisabled => "spec.metadataOptions.httpEndpoint of its profile is disabled",
            Self::Ipv6Disabled => "spec.metadataOptions.httpProtocolIpv6 of its profile is disabled",
            Self::UserNotAllowed => {
                "allowedUsers or deniedUsers of its profile exclude the user that owns the client's socket, or the user \
                 was not found"
            }
            Self::Malformed(what) => return write!(f, "malformed request head: {what}"),
            Self::BodyTooLong => "the request body is longer than 1024 bytes; send none",
            Self::ForwardedFor => "a token request must not have an X-Forwarded-For header: it came through a proxy",
            Self::BadTtl => "the TTL header of the token request is missing, repeated, or not a number from 1 to 21600",
            Self::TokenMissing => {
                "the request has no session token and spec.metadataOptions.httpTokens of its profile is required; \
                 send PUT /latest/api/token first, or use a client that does"
            }
            Self::TokenTwice => "the request has more than one session token; send one",
            Self::TokenBad(error) => return write!(f, "invalid session token: {error}; request a new one"),
            Self::TokenPathMethod => "the token path allows PUT only",
            Self::Method => "items allow GET and HEAD only; PUT is allowed on /latest/api/token only",
            Self::NotFound => "no such item; list its parent directory",
            Self::TooManyRequests => "the pod exceeds spec.limits of its profile",
            Self::Unavailable(reason) => return f.write_str(reason),
        })
    }
}
