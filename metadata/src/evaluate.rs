//! Evaluates a request, in the one order of all checks and rejections.

use http::{HeaderName, Method};
use jiff::Timestamp;

use crate::compile::DenialReason;
use crate::dialect::Dialect;
use crate::host::HostRule;
use crate::options::{HopLimit, HttpEndpoint, HttpProtocolIpv6, HttpTokens, TokenTtl};
use crate::protocol::{Protocol, TokenHeaders};
use crate::rejection::{RejectedRequest, Rejection};
use crate::request::{RepeatedHeader, Request, is_token_path, single_header};
use crate::session::{Keyring, Nonce};
use crate::tree::{LeafValue, Lookup, Tree};
use crate::workload::Workload;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// State of the pod that a connection belongs to.
#[derive(Clone, Copy, Debug)]
pub enum RequestPod<'p> {
    /// The pod was deleted, or the node does not know it yet.
    Unknown,
    /// The pod is denied on every path.
    Denied(&'p DenialReason),
    /// The pod is served.
    Served {
        /// The compiled pod.
        workload: &'p Workload,
        /// Its tree in the request's dialect, or `None` if it does not have the dialect.
        tree: Option<&'p Tree>,
    },
}

/// The user that owns the client's socket of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketUser {
    /// The user ID in the pod.
    Known(u32),
    /// The kernel has no such socket, or its owner has no ID in the pod.
    NotFound,
    /// The lookup failed. The next one can succeed.
    LookupFailed,
}

/// Context of a request that its head does not contain.
#[derive(Clone, Copy)]
pub struct EdgeChecks<'e> {
    /// True if the pod exceeds its rate limit.
    pub rate_limited: bool,
    /// The hosts that the listener of the connection serves.
    pub host_rule: &'e HostRule,
    /// Returns the user that owns the client's socket. Called only if the profile restricts users.
    pub socket_user: &'e dyn Fn() -> SocketUser,
    /// Returns random bytes for a new token, or `None` if there are none. Called only if a token is issued.
    pub nonce: &'e dyn Fn() -> Option<Nonce>,
}

/// Result of a request that is not rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<'t> {
    /// A new session token.
    IssueToken {
        /// The token.
        token: String,
        /// Its lifetime.
        ttl: TokenTtl,
        /// The hop limit of the response.
        hop_limit: HopLimit,
    },
    /// The methods of a path, for OPTIONS.
    ListMethods {
        /// The value of `Allow`.
        allow: &'static str,
        /// The remaining lifetime of the request's token in seconds, or `None` if the request has no token.
        token_left: Option<u32>,
    },
    /// An item of the tree.
    ServeItem {
        /// The leaf or listing.
        lookup: Lookup<'t>,
        /// The remaining lifetime of the request's token in seconds, or `None` if the request has no token.
        token_left: Option<u32>,
        /// The audience that the request names for a signed document.
        audience: Option<String>,
    },
}

/// Evaluates a request of a pod. The checks run in this order, and the first one that fails rejects the request:
///
/// 1. pod unknown (503)
/// 2. rate limit (429)
/// 3. pod denied (403)
/// 4. `Host` (400)
/// 5. user that owns the client's socket (403), or its lookup failed (503)
/// 6. dialect, endpoint or IPv6 off (403)
/// 7. rest of the request head (400, 413)
/// 8. token path: method (405), `X-Forwarded-For` (403), TTL (400), no random bytes (503)
/// 9. session token (401; ECS without a token: 403)
/// 10. method (EC2: 403, ECS: 405)
/// 11. path (404)
/// 12. `audience` of a signed document (ECS: 400)
///
/// # Errors
/// If a check fails. [`Protocol::rejection_response`] turns the rejection into a response.
pub fn evaluate<'p>(
    dialect: Dialect,
    request: &Request<'_>,
    pod: RequestPod<'p>,
    edge: &EdgeChecks<'_>,
    keys: &Keyring,
    now: Timestamp,
) -> Result<Decision<'p>, RejectedRequest> {
    let (workload, tree) = match pod {
        RequestPod::Unknown => {
            let reason = "the pod was deleted or is not known yet; retry later".to_owned();
            return Err(Rejection::Unavailable(reason).into());
        }
        RequestPod::Denied(_) | RequestPod::Served { .. } if edge.rate_limited => {
            return Err(Rejection::TooManyRequests.into());
        }
        RequestPod::Denied(reason) => return Err(Rejection::PodDenied(reason.clone()).into()),
        RequestPod::Served { workload, tree } => (workload, tree),
    };
    edge.host_rule.check(request.headers, request.version).map_err(Rejection::Malformed)?;
    check_user(workload, edge)?;
    let tree = tree.ok_or(Rejection::DialectOff)?;
    check_endpoint(request, workload)?;
    request.check_head()?;
    let protocol = dialect.protocol();
    let token_headers = protocol.token_headers();
    if let Some(headers) = token_headers
        && is_token_path(request.uri)
    {
        return Ok(issue_token(dialect, headers, request, workload, edge, keys, now)?);
    }
    let token_left = match token_headers {
        Some(headers) => check_token(dialect, headers, request, workload, keys, now)?,
        None => None,
    };
    match (request.method, protocol.options_methods()) {
        (&Method::GET | &Method::HEAD, _) => {
            serve_item(protocol, request, tree, token_left).map_err(|rejection| rejection.with_token(token_left))
        }
        (&Method::OPTIONS, Some(methods)) => Ok(Decision::ListMethods { allow: methods.item, token_left }),
        _ => Err(Rejection::Method.with_token(token_left)),
    }
}

fn check_user(workload: &Workload, edge: &EdgeChecks<'_>) -> Result<(), Rejection> {
    let users = &workload.users;
    if users.is_unrestricted() {
        return Ok(());
    }
    let user = match (edge.socket_user)() {
        SocketUser::Known(user) => Some(user),
        SocketUser::NotFound => None,
        SocketUser::LookupFailed => {
            return Err(Rejection::Unavailable("cannot find the user of the client; retry later".to_owned()));
        }
    };
    if users.admits(user) { Ok(()) } else { Err(Rejection::UserNotAllowed) }
}

fn check_endpoint(request: &Request<'_>, workload: &Workload) -> Result<(), Rejection> {
    if workload.options.http_endpoint == HttpEndpoint::Disabled {
        return Err(Rejection::EndpointDisabled);
    }
    if request.service.is_ipv6() && workload.options.http_protocol_ipv6 == HttpProtocolIpv6::Disabled {
        return Err(Rejection::Ipv6Disabled);
    }
    Ok(())
}

fn issue_token<'p>(
    dialect: Dialect,
    headers: &TokenHeaders,
    request: &Request<'_>,
    workload: &Workload,
    edge: &EdgeChecks<'_>,
    keys: &Keyring,
    now: Timestamp,
) -> Result<Decision<'p>, Rejection> {
    match (request.method, dialect.protocol().options_methods()) {
        (&Method::PUT, _) => {}
        (&Method::OPTIONS, Some(methods)) => {
            return Ok(Decision::ListMethods { allow: methods.token_path, token_left: None });
        }
        _ => return Err(Rejection::TokenPathMethod),
    }
    if request.headers.contains_key(FORWARDED_FOR) {
        return Err(Rejection::ForwardedFor);
    }
    let requested = single_header(request.headers, &headers.ttl).ok().flatten();
    let requested = requested.and_then(|value| TokenTtl::parse(value.as_bytes()));
    let ttl = requested.ok_or(Rejection::BadTtl)?.min(workload.options.max_token_ttl_seconds);
    let failed = |cause| Rejection::Unavailable(format!("cannot issue a session token: {cause}; retry later"));
    let nonce = (edge.nonce)().ok_or_else(|| failed("the system has no random bytes".to_owned()))?;
    let token = keys.issue(&workload.pod.uid, dialect, ttl, nonce, now).map_err(|error| failed(error.to_string()))?;
    Ok(Decision::IssueToken { token, ttl, hop_limit: workload.options.http_put_response_hop_limit })
}

/// Returns the remaining lifetime of the token in seconds, or `None` if there is no token and none is required.
fn check_token(
    dialect: Dialect,
    headers: &TokenHeaders,
    request: &Request<'_>,
    workload: &Workload,
    keys: &Keyring,
    now: Timestamp,
) -> Result<Option<u32>, Rejection> {
    match (single_header(request.headers, &headers.token), workload.options.http_tokens) {
        (Err(RepeatedHeader), _) => Err(Rejection::TokenTwice),
        (Ok(Some(token)), _) => {
            let left = keys.verify(token.as_bytes(), request.session, &workload.pod.uid, dialect, now);
            left.map(Some).map_err(Rejection::TokenBad)
        }
        (Ok(None), HttpTokens::Required) => Err(Rejection::TokenMissing),
        (Ok(None), HttpTokens::Optional) => Ok(None),
    }
}

fn serve_item<'p>(
    protocol: &dyn Protocol,
    request: &Request<'_>,
    tree: &'p Tree,
    token_left: Option<u32>,
) -> Result<Decision<'p>, Rejection> {
    let lookup = request.path.and_then(|path| protocol.look_up(tree, path)).ok_or(Rejection::NotFound)?;
    let audience = match &lookup {
        Lookup::Leaf(LeafValue::Document(item)) => protocol.audience(*item, request.uri.query())?,
        Lookup::Leaf(_) | Lookup::Listing(_) => None,
    };
    Ok(Decision::ServeItem { lookup, token_left, audience })
}

#[cfg(test)]
mod tests;
