//! The EC2 instance metadata service: how a request is judged and what each outcome looks like on the wire.
//! Source: EC2 user guide, "Use the Instance Metadata Service"; captures of responses from 2018 to 2025.

pub mod document;
mod json;
pub mod tree;
pub mod version;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LAST_MODIFIED, RETRY_AFTER, SERVER,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use jiff::Timestamp;

use crate::credentials::{Credentials, CredentialsFailure};
use crate::dialect::Dialect;
use crate::dialect::page::page;
use crate::options::{HttpEndpoint, HttpProtocolIpv6, TokenTtl};
use crate::path::Canonical;
use crate::request::{Decision, Family, HttpResponse, ReasonPhrase, Rejection, Request, TOKEN_PATH};
use crate::session::Keyring;
use crate::time::{http_date, rfc3339};
use crate::tree::{Lookup, Tree};
use crate::workload::Workload;

/// The header that carries a session token.
pub const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
/// The header that asks for a token's life, and that tells what is left of it.
pub const TOKEN_TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
const HTML: HeaderValue = HeaderValue::from_static("text/html");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Judges a request of a pod that is answered as an EC2 instance if it has a tree.
///
/// # Errors
/// If it is refused, which [`refuse`] puts in EC2's words.
pub fn judge<'t>(
    request: &Request<'_>,
    workload: &Workload,
    tree: Option<&'t Tree>,
    keys: &Keyring,
    now: Timestamp,
) -> Result<Decision<'t>, Rejection> {
    let options = &workload.options;
    let tree = tree.ok_or(Rejection::DialectOff)?;
    if options.http_endpoint == HttpEndpoint::Disabled {
        return Err(Rejection::EndpointDisabled);
    }
    if request.family == Family::Ipv6 && options.http_protocol_ipv6 == HttpProtocolIpv6::Disabled {
        return Err(Rejection::Ipv6Disabled);
    }
    request.check_head()?;
    if request.uri.path() == TOKEN_PATH {
        return mint(request, workload, keys, now);
    }
    if *request.method == Method::PUT {
        return Err(Rejection::PutElsewhere);
    }
    let token_left = request.token(&TOKEN, Dialect::Ec2, workload, keys, now)?;
    if *request.method != Method::GET && *request.method != Method::HEAD {
        return Err(Rejection::Method);
    }
    let found = look_up(tree, request.uri.path()).ok_or(Rejection::NotFound)?;
    Ok(Decision::ServeItem { found, token_left, audience: None })
}

fn mint<'t>(
    request: &Request<'_>,
    workload: &Workload,
    keys: &Keyring,
    now: Timestamp,
) -> Result<Decision<'t>, Rejection> {
    if *request.method != Method::PUT {
        return Err(Rejection::TokenPathMethod);
    }
    if request.headers.contains_key(FORWARDED_FOR) {
        return Err(Rejection::ForwardedFor);
    }
    let asked = request.single(&TOKEN_TTL).ok().flatten().and_then(TokenTtl::parse).ok_or(Rejection::BadTtl)?;
    let ttl = asked.min(workload.options.max_token_ttl_seconds);
    match keys.issue(&workload.pod.uid, Dialect::Ec2, ttl, now) {
        Ok(token) => Ok(Decision::IssueToken { token, ttl }),
        Err(error) => Err(Rejection::Unavailable(format!("the token could not be signed: {error}"))),
    }
}

/// What stands at a path. Slashes at the end and doubled ones do not matter, on leaves either: botocore asks
/// `placement/availability-zone/`, the JavaScript SDK `//latest/…`.
fn look_up<'t>(tree: &'t Tree, raw: &str) -> Option<Lookup<'t>> {
    let path = Canonical::of(raw)?;
    let (prefix, below) = path.split_first();
    if prefix.is_empty() {
        return Some(Lookup::Listing(Bytes::from(version::PREFIXES.join("\n"))));
    }
    tree.get(below, version::parse(prefix)?)
}

/// The reply that carries a token. Its connection is closed, so that no later byte on it raises the hop limit again.
#[must_use]
pub fn token_reply(token: String, ttl: TokenTtl) -> HttpResponse {
    let mut reply = HttpResponse::new(Bytes::from(token));
    let length = reply.body().len();
    let headers = reply.headers_mut();
    headers.insert(TOKEN_TTL, HeaderValue::from(ttl.seconds()));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(SERVER, HeaderValue::from_static("EC2ws"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CONTENT_TYPE, TEXT);
    reply
}

/// When an item became what it is, as its reply says.
#[must_use]
pub fn last_modified(time: Timestamp) -> Option<HeaderValue> {
    HeaderValue::try_from(http_date(time).ok()?).ok()
}

/// The reply that carries an item of text, JSON included; `modified` is from [`last_modified`].
#[must_use]
pub fn text_reply(body: Bytes, token_left: Option<u32>, modified: Option<HeaderValue>) -> HttpResponse {
    item_reply(body, TEXT, token_left, modified)
}

/// The reply that carries user data; `modified` is from [`last_modified`].
#[must_use]
pub fn user_data_reply(body: Bytes, token_left: Option<u32>, modified: Option<HeaderValue>) -> HttpResponse {
    item_reply(body, BYTES, token_left, modified)
}

fn item_reply(
    body: Bytes,
    content_type: HeaderValue,
    token_left: Option<u32>,
    modified: Option<HeaderValue>,
) -> HttpResponse {
    let length = body.len();
    let mut reply = HttpResponse::new(body);
    let headers = reply.headers_mut();
    if let Some(left) = token_left {
        headers.insert(TOKEN_TTL, HeaderValue::from(left));
    }
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
    if let Some(modified) = modified {
        headers.insert(LAST_MODIFIED, modified);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(SERVER, HeaderValue::from_static("EC2ws"));
    reply
}

/// EC2's own words for a refusal.
#[must_use]
pub fn refuse(refusal: &Rejection) -> HttpResponse {
    let (status, body, content_type) = match refusal {
        Rejection::PodDenied
        | Rejection::DialectOff
        | Rejection::EndpointDisabled
        | Rejection::Ipv6Disabled
        | Rejection::UserNotAllowed
        | Rejection::ForwardedFor
        | Rejection::PutElsewhere => (StatusCode::FORBIDDEN, Bytes::new(), TEXT),
        Rejection::Malformed(_) | Rejection::BadTtl => (StatusCode::BAD_REQUEST, page(StatusCode::BAD_REQUEST), HTML),
        Rejection::BodyTooLong => (StatusCode::PAYLOAD_TOO_LARGE, Bytes::new(), TEXT),
        Rejection::TokenMissing | Rejection::TokenTwice | Rejection::TokenBad(_) => {
            (StatusCode::UNAUTHORIZED, Bytes::new(), TEXT)
        }
        Rejection::TokenPathMethod | Rejection::Method => (StatusCode::METHOD_NOT_ALLOWED, Bytes::new(), TEXT),
        Rejection::NotFound => (StatusCode::NOT_FOUND, page(StatusCode::NOT_FOUND), HTML),
        Rejection::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, Bytes::new(), TEXT),
        Rejection::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, Bytes::new(), TEXT),
    };
    let length = body.len();
    let mut reply = HttpResponse::new(body);
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(SERVER, HeaderValue::from_static("EC2ws"));
    match refusal {
        Rejection::TokenPathMethod => drop(headers.insert(ALLOW, HeaderValue::from_static("OPTIONS, PUT"))),
        Rejection::Method => drop(headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"))),
        Rejection::Unavailable(_) => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("1"))),
        _ => {} // no header of its own
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        reply.extensions_mut().insert(ReasonPhrase("Not Allowed"));
    }
    reply
}

/// Credentials as EC2 serves them.
#[must_use]
pub fn credentials(credentials: &Credentials) -> Bytes {
    let (updated, expires) = (rfc3339(credentials.last_updated), rfc3339(credentials.expiration));
    Bytes::from(json::object(&[
        ("Code", Some("Success")),
        ("LastUpdated", Some(&updated)),
        ("Type", Some("AWS-HMAC")),
        ("AccessKeyId", Some(&credentials.access_key_id)),
        ("SecretAccessKey", Some(credentials.secret_access_key.expose())),
        ("Token", Some(credentials.session_token.expose())),
        ("Expiration", Some(&expires)),
    ]))
}

/// Credentials that cannot be had, as EC2 says so: status 200, and a code that is not `Success`.
#[must_use]
pub fn failure(failure: &CredentialsFailure) -> Bytes {
    let at = rfc3339(failure.at);
    Bytes::from(json::object(&[
        ("Code", Some(&failure.code)),
        ("Message", Some(&failure.message)),
        ("LastUpdated", Some(&at)),
    ]))
}

#[cfg(test)]
mod tests;
