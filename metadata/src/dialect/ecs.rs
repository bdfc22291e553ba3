//! The Alibaba Cloud ECS instance metadata service: how a request is judged and what each outcome looks like on the wire.
//! Source: Alibaba Cloud help, "Instance metadata" (2025-2026); where it is silent, docs/coverage.md says what was chosen.

pub mod document;
pub mod tree;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;

use crate::credentials::{Credentials, Failure};
use crate::dialect::Dialect;
use crate::dialect::page::page;
use crate::options::{HttpEndpoint, TokenTtl};
use crate::path::Canonical;
use crate::request::{Answer, Refusal, Reply, Request, TOKEN_PATH};
use crate::session::Keyring;
use crate::time::rfc3339;
use crate::tree::{DocumentItem, Found, Tree, Value};
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
) -> Result<Answer<'t>, Refusal> {
    let tree = tree.ok_or(Refusal::DialectOff)?;
    if workload.options.http_endpoint == HttpEndpoint::Disabled {
        return Err(Refusal::EndpointDisabled);
    }
    request.check_head()?;
    if request.uri.path() == TOKEN_PATH {
        return mint(request, workload, keys, now);
    }
    let token_left = request.token(&TOKEN, Dialect::Ecs, workload, keys, now)?;
    if *request.method != Method::GET && *request.method != Method::HEAD {
        return Err(Refusal::Method);
    }
    let found = look_up(tree, request.uri.path()).ok_or(Refusal::NotFound)?;
    let audience = match &found {
        Found::Leaf(Value::Document(DocumentItem::Pkcs7)) => audience(request.uri.query())?,
        Found::Leaf(_) | Found::Listing(_) => None,
    };
    Ok(Answer::Item { found, token_left, audience })
}

fn mint<'t>(request: &Request<'_>, workload: &Workload, keys: &Keyring, now: Timestamp) -> Result<Answer<'t>, Refusal> {
    if *request.method != Method::PUT {
        return Err(Refusal::TokenPathMethod);
    }
    if request.headers.contains_key(FORWARDED_FOR) {
        return Err(Refusal::ForwardedFor);
    }
    let asked = request.single(&TOKEN_TTL).ok().flatten().and_then(TokenTtl::parse).ok_or(Refusal::BadTtl)?;
    let ttl = asked.min(workload.options.max_token_ttl_seconds);
    match keys.mint(&workload.pod.uid, Dialect::Ecs, ttl, now) {
        Ok(token) => Ok(Answer::Token { token, ttl }),
        Err(error) => Err(Refusal::Unavailable(format!("the token could not be signed: {error}"))),
    }
}

/// What stands at a path. Slashes at the end and doubled ones do not matter; `Ram`, as documents and shipped clients
/// write it, is `ram`.
fn look_up<'t>(tree: &'t Tree, raw: &str) -> Option<Found<'t>> {
    let path = Canonical::of(raw)?;
    let (prefix, below) = path.split_first();
    if prefix.is_empty() {
        return Some(Found::Listing(Bytes::from(tree::PREFIXES.join("\n"))));
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
fn audience(query: Option<&str>) -> Result<Option<String>, Refusal> {
    let pairs = query.unwrap_or_default().split('&');
    let mut audiences = pairs.filter_map(|pair| pair.strip_prefix("audience=")).filter(|text| !text.is_empty());
    let (Some(audience), None) = (audiences.next(), audiences.next()) else { return Ok(None) };
    let spaced = audience.replace('+', " ");
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(text) if text.len() <= document::MAX_AUDIENCE_BYTES => Ok(Some(text.into_owned())),
        Ok(_) => Err(Refusal::Malformed("its audience is longer than 1024 bytes")),
        Err(_) => Err(Refusal::Malformed("its audience is not UTF-8")),
    }
}

/// The reply that carries a token: the bare text, because SDKs put the body into a header unchanged. Its connection is
/// closed, so that no later byte on it raises the hop limit again.
#[must_use]
pub fn token_reply(token: String) -> Reply {
    let mut reply = reply(StatusCode::OK, Bytes::from(token), TEXT);
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// The reply that carries an item.
#[must_use]
pub fn item_reply(body: Bytes) -> Reply {
    reply(StatusCode::OK, body, TEXT)
}

fn reply(status: StatusCode, body: Bytes, content_type: HeaderValue) -> Reply {
    let length = body.len();
    let mut reply = Reply::new(body);
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    reply
}

/// ECS's own words for a refusal. `Not Found` stands in the 404 page alone: one agent looks for it in bodies.
#[must_use]
pub fn refuse(refusal: &Refusal) -> Reply {
    let status = match refusal {
        Refusal::PodDenied
        | Refusal::DialectOff
        | Refusal::EndpointDisabled
        | Refusal::Ipv6Disabled
        | Refusal::UserNotAllowed
        | Refusal::ForwardedFor
        | Refusal::TokenMissing => StatusCode::FORBIDDEN,
        Refusal::Malformed(_) | Refusal::BadTtl => StatusCode::BAD_REQUEST,
        Refusal::BodyTooLong => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::TokenTwice | Refusal::TokenBad(_) => StatusCode::UNAUTHORIZED,
        Refusal::TokenPathMethod | Refusal::Method | Refusal::PutElsewhere => StatusCode::METHOD_NOT_ALLOWED,
        Refusal::NotFound => StatusCode::NOT_FOUND,
        Refusal::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = if status == StatusCode::TOO_MANY_REQUESTS { Bytes::new() } else { page(status) };
    let mut reply = reply(status, body, HTML);
    let headers = reply.headers_mut();
    match refusal {
        Refusal::TokenPathMethod => drop(headers.insert(ALLOW, HeaderValue::from_static("PUT"))),
        Refusal::Method => drop(headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"))),
        Refusal::Unavailable(_) => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("1"))),
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
pub fn failure(failure: &Failure) -> Bytes {
    object(&[("Message", &failure.message), ("LastUpdated", &rfc3339(failure.at)), ("Code", &failure.code)])
}

fn object(members: &[(&str, &str)]) -> Bytes {
    let lines = members.iter().map(|(key, value)| format!("  \"{key}\" : {}", serde_json::Value::from(*value)));
    Bytes::from(format!("{{\n{}\n}}", lines.collect::<Vec<_>>().join(",\n")))
}

#[cfg(test)]
mod tests;
