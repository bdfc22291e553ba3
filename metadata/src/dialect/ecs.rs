//! The Alibaba Cloud ECS instance metadata service: how a request is judged and what each outcome looks like on the wire.
//! Source: Alibaba Cloud help, "Instance metadata" (2025-2026); where it is silent, docs/coverage.md says what was chosen.

pub mod document;
pub mod tree;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;

use crate::credentials::{Credentials, CredentialsFailure};
use crate::dialect::Dialect;
use crate::dialect::page::page;
use crate::options::{HttpEndpoint, TokenTtl};
use crate::path::Canonical;
use crate::request::{Decision, HttpResponse, Rejection, Request, TOKEN_PATH};
use crate::session::Keyring;
use crate::time::rfc3339;
use crate::tree::{DocumentItem, LeafValue, Lookup, Tree};
use crate::workload::Workload;

/// The header that carries a session token.
pub const TOKEN: HeaderName = HeaderName::from_static("x-aliyun-ecs-metadata-token");
/// The header that asks for a token's life.
pub const TOKEN_TTL: HeaderName = HeaderName::from_static("x-aliyun-ecs-metadata-token-ttl-seconds");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
const HTML: HeaderValue = HeaderValue::from_static("text/html");

/// Judges a request of a pod that is answered as an ECS instance if it has a tree.
///
/// # Errors
/// If it is refused, which [`refuse`] puts in ECS's words.
pub fn judge<'t>(
    request: &Request<'_>,
    workload: &Workload,
    tree: Option<&'t Tree>,
    keys: &Keyring,
    now: Timestamp,
) -> Result<Decision<'t>, Rejection> {
    let tree = tree.ok_or(Rejection::DialectOff)?;
    if workload.options.http_endpoint == HttpEndpoint::Disabled {
        return Err(Rejection::EndpointDisabled);
    }
    request.check_head()?;
    if request.uri.path() == TOKEN_PATH {
        return mint(request, workload, keys, now);
    }
    let token_left = request.token(&TOKEN, Dialect::Ecs, workload, keys, now)?;
    if *request.method != Method::GET && *request.method != Method::HEAD {
        return Err(Rejection::Method);
    }
    let found = look_up(tree, request.uri.path()).ok_or(Rejection::NotFound)?;
    let audience = match &found {
        Lookup::Leaf(LeafValue::Document(DocumentItem::Pkcs7)) => audience(request.uri.query())?,
        Lookup::Leaf(_) | Lookup::Listing(_) => None,
    };
    Ok(Decision::ServeItem { found, token_left, audience })
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
    match keys.issue(&workload.pod.uid, Dialect::Ecs, ttl, now) {
        Ok(token) => Ok(Decision::IssueToken { token, ttl }),
        Err(error) => Err(Rejection::Unavailable(format!("the token could not be signed: {error}"))),
    }
}

/// What stands at a path. Slashes at the end and doubled ones do not matter; `Ram`, as documents and shipped clients
/// write it, is `ram`.
fn look_up<'t>(tree: &'t Tree, raw: &str) -> Option<Lookup<'t>> {
    let path = Canonical::of(raw)?;
    let (prefix, below) = path.split_first();
    if prefix.is_empty() {
        return Some(Lookup::Listing(Bytes::from(tree::PREFIXES.join("\n"))));
    }
    if !tree::PREFIXES.contains(&prefix) {
        return None;
    }
    let ram = "meta-data/ram";
    match (below.get(..ram.len()), below.get(ram.len()..)) {
        (Some(start), Some(rest))
            if start.eq_ignore_ascii_case(ram)
                && start.starts_with("meta-data/")
                && (rest.is_empty() || rest.starts_with('/')) =>
        {
            tree.get(&format!("{ram}{rest}"), tree::ALWAYS)
        }
        _ => tree.get(below, tree::ALWAYS),
    }
}

/// The value of `audience` in a query, URL-decoded once; an empty one is none.
fn audience(query: Option<&str>) -> Result<Option<String>, Rejection> {
    let pairs = query.unwrap_or_default().split('&');
    let mut audiences = pairs.filter_map(|pair| pair.strip_prefix("audience=")).filter(|text| !text.is_empty());
    let (Some(audience), None) = (audiences.next(), audiences.next()) else { return Ok(None) };
    let spaced = audience.replace('+', " ");
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(text) if text.len() <= document::MAX_AUDIENCE_BYTES => Ok(Some(text.into_owned())),
        Ok(_) => Err(Rejection::Malformed("its audience is longer than 1024 bytes")),
        Err(_) => Err(Rejection::Malformed("its audience is not UTF-8")),
    }
}

/// The reply that carries a token: the bare text, because SDKs put the body into a header unchanged. Its connection is
/// closed, so that no later byte on it raises the hop limit again.
#[must_use]
pub fn token_reply(token: String) -> HttpResponse {
    let mut reply = reply(StatusCode::OK, Bytes::from(token), TEXT);
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// The reply that carries an item.
#[must_use]
pub fn item_reply(body: Bytes) -> HttpResponse {
    reply(StatusCode::OK, body, TEXT)
}

fn reply(status: StatusCode, body: Bytes, content_type: HeaderValue) -> HttpResponse {
    let length = body.len();
    let mut reply = HttpResponse::new(body);
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    reply
}

/// ECS's own words for a refusal. `Not Found` stands in the 404 page alone: one agent looks for it in bodies.
#[must_use]
pub fn refuse(refusal: &Rejection) -> HttpResponse {
    let status = match refusal {
        Rejection::PodDenied
        | Rejection::DialectOff
        | Rejection::EndpointDisabled
        | Rejection::Ipv6Disabled
        | Rejection::UserNotAllowed
        | Rejection::ForwardedFor
        | Rejection::TokenMissing => StatusCode::FORBIDDEN,
        Rejection::Malformed(_) | Rejection::BadTtl => StatusCode::BAD_REQUEST,
        Rejection::BodyTooLong => StatusCode::PAYLOAD_TOO_LARGE,
        Rejection::TokenTwice | Rejection::TokenBad(_) => StatusCode::UNAUTHORIZED,
        Rejection::TokenPathMethod | Rejection::Method | Rejection::PutElsewhere => StatusCode::METHOD_NOT_ALLOWED,
        Rejection::NotFound => StatusCode::NOT_FOUND,
        Rejection::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Rejection::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = if status == StatusCode::TOO_MANY_REQUESTS { Bytes::new() } else { page(status) };
    let mut reply = reply(status, body, HTML);
    let headers = reply.headers_mut();
    match refusal {
        Rejection::TokenPathMethod => drop(headers.insert(ALLOW, HeaderValue::from_static("PUT"))),
        Rejection::Method => drop(headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"))),
        Rejection::Unavailable(_) => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("1"))),
        _ => {} // no header of its own
    }
    reply
}

/// Credentials as ECS serves them: one object, all values strings.
#[must_use]
pub fn credentials(credentials: &Credentials) -> Bytes {
    object(&[
        ("AccessKeyId", &credentials.access_key_id),
        ("AccessKeySecret", credentials.secret_access_key.expose()),
        ("Expiration", &rfc3339(credentials.expiration)),
        ("SecurityToken", credentials.session_token.expose()),
        ("LastUpdated", &rfc3339(credentials.last_updated)),
        ("Code", "Success"),
    ])
}

/// Credentials that cannot be had: a code that is not `Success`, which every client takes for an error.
#[must_use]
pub fn failure(failure: &CredentialsFailure) -> Bytes {
    object(&[("Message", &failure.message), ("LastUpdated", &rfc3339(failure.at)), ("Code", &failure.code)])
}

fn object(members: &[(&str, &str)]) -> Bytes {
    let lines = members.iter().map(|(key, value)| format!("  \"{key}\" : {}", serde_json::Value::from(*value)));
    Bytes::from(format!("{{\n{}\n}}", lines.collect::<Vec<_>>().join(",\n")))
}

#[cfg(test)]
mod tests;
