//! EC2's responses: status codes, headers and error pages.

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, ALLOW, CONNECTION, CONTENT_TYPE, LAST_MODIFIED, RETRY_AFTER, SERVER};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;

use crate::options::TokenTtl;
use crate::protocol::ec2::TOKEN_HEADERS;
use crate::protocol::error_page::error_page;
use crate::rejection::{RejectedRequest, Rejection};
use crate::response::{ContentKind, HttpResponse, ItemResponse, ReasonPhrase};
use crate::time::http_date;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
const HTML: HeaderValue = HeaderValue::from_static("text/html");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// The methods of the token path, as EC2 names them.
pub(super) const TOKEN_PATH_METHODS: &str = "OPTIONS, PUT";

const SERVER_NAME: HeaderValue = HeaderValue::from_static("EC2ws");

/// Returns the response that carries a token. The connection closes after it, so that no later byte raises its hop limit.
pub(super) fn token(token: String, ttl: TokenTtl) -> HttpResponse {
    let mut response = HttpResponse::new(Bytes::from(token));
    let headers = response.headers_mut();
    headers.insert(&TOKEN_HEADERS.ttl, HeaderValue::from(ttl.seconds()));
    headers.insert(SERVER, SERVER_NAME);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CONTENT_TYPE, TEXT);
    response
}

/// Returns the headers of items that were changed at `modified`. The lifetime of the token has no value yet: the entry keeps
/// its place as the first header.
pub(super) fn item_headers(modified: Option<Timestamp>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(&TOKEN_HEADERS.ttl, HeaderValue::from_static(""));
    headers.insert(CONTENT_TYPE, TEXT);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
    let modified = modified.and_then(|modified| http_date(modified).ok());
    if let Some(modified) = modified.and_then(|modified| HeaderValue::try_from(modified).ok()) {
        headers.insert(LAST_MODIFIED, modified);
    }
    headers.insert(SERVER, SERVER_NAME);
    headers
}

/// Returns the response that carries an item.
pub(super) fn item(item: ItemResponse) -> HttpResponse {
    let mut headers = match item.token_left {
        Some(left) => {
            let mut headers = item.headers;
            set_token_ttl(&mut headers, HeaderValue::from(left));
            headers
        }
        None => without_token_ttl(&item.headers),
    };
    if item.kind == ContentKind::UserData {
        headers.insert(CONTENT_TYPE, BYTES);
    }
    let mut response = HttpResponse::new(item.body);
    *response.headers_mut() = headers;
    response
}

/// Sets the header with the lifetime of a token. The header is the first one of [`item_headers`], so its name need not be hashed.
fn set_token_ttl(headers: &mut HeaderMap, ttl: HeaderValue) {
    match headers.iter_mut().next() {
        Some((name, value)) if *name == TOKEN_HEADERS.ttl => *value = ttl,
        Some(_) | None => drop(headers.insert(&TOKEN_HEADERS.ttl, ttl)),
    }
}

/// Returns the headers without the lifetime of a token. `HeaderMap::remove` would move the last header to the first place.
fn without_token_ttl(headers: &HeaderMap) -> HeaderMap {
    let others = headers.iter().filter(|(name, _)| *name != TOKEN_HEADERS.ttl);
    others.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Returns the response to a rejected request.
pub(super) fn rejection(rejected: &RejectedRequest) -> HttpResponse {
    let (status, body, content_type) = match &rejected.rejection {
        Rejection::PodDenied(_)
        | Rejection::DialectOff
        | Rejection::EndpointDisabled
        | Rejection::Ipv6Disabled
        | Rejection::UserNotAllowed
        | Rejection::ForwardedFor
        | Rejection::Method => (StatusCode::FORBIDDEN, Bytes::new(), TEXT),
        Rejection::Malformed(_) => (StatusCode::BAD_REQUEST, error_page(StatusCode::BAD_REQUEST), HTML),
        Rejection::BadTtl => (StatusCode::BAD_REQUEST, Bytes::new(), TEXT),
        Rejection::BodyTooLong => (StatusCode::PAYLOAD_TOO_LARGE, Bytes::new(), TEXT),
        Rejection::TokenMissing | Rejection::TokenTwice | Rejection::TokenBad(_) => {
            (StatusCode::UNAUTHORIZED, Bytes::new(), TEXT)
        }
        Rejection::TokenPathMethod => (StatusCode::METHOD_NOT_ALLOWED, Bytes::new(), TEXT),
        Rejection::NotFound => (StatusCode::NOT_FOUND, error_page(StatusCode::NOT_FOUND), HTML),
        Rejection::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, Bytes::new(), TEXT),
        Rejection::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, Bytes::new(), TEXT),
    };
    let mut response = HttpResponse::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(SERVER, SERVER_NAME);
    if let Some(left) = rejected.token_left {
        headers.insert(&TOKEN_HEADERS.ttl, HeaderValue::from(left));
    }
    match rejected.rejection {
        Rejection::TokenPathMethod => drop(headers.insert(ALLOW, HeaderValue::from_static(TOKEN_PATH_METHODS))),
        Rejection::Unavailable(_) => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("1"))),
        _ => {} // no extra header
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.extensions_mut().insert(ReasonPhrase("Not Allowed"));
    }
    response
}
