//! ECS's responses: status codes, headers and error pages.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::protocol::error_page::error_page;
use crate::rejection::Rejection;
use crate::response::{HttpResponse, ItemResponse};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
const HTML: HeaderValue = HeaderValue::from_static("text/html");

/// Returns the response that carries a token: the bare text, because SDKs copy the body into a header. The connection
/// closes after it, so that no later byte raises its hop limit.
pub(super) fn token(token: String) -> HttpResponse {
    let mut response = response(StatusCode::OK, Bytes::from(token), TEXT);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Returns the headers of items.
pub(super) fn item_headers() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, TEXT)])
}

/// Returns the response that carries an item.
pub(super) fn item(item: ItemResponse) -> HttpResponse {
    let mut response = HttpResponse::new(item.body);
    *response.headers_mut() = item.headers;
    response
}

/// Returns the response to a rejected request. Only the 404 page contains `Not Found`: one client
/// searches bodies for it.
pub(super) fn rejection(rejection: &Rejection) -> HttpResponse {
    let status = match rejection {
        Rejection::PodDenied(_)
        | Rejection::DialectOff
        | Rejection::EndpointDisabled
        | Rejection::Ipv6Disabled
        | Rejection::UserNotAllowed
        | Rejection::ForwardedFor
        | Rejection::TokenMissing => StatusCode::FORBIDDEN,
        Rejection::Malformed(_) | Rejection::BadTtl => StatusCode::BAD_REQUEST,
        Rejection::BodyTooLong => StatusCode::PAYLOAD_TOO_LARGE,
        Rejection::TokenTwice | Rejection::TokenBad(_) => StatusCode::UNAUTHORIZED,
        Rejection::TokenPathMethod | Rejection::Method => StatusCode::METHOD_NOT_ALLOWED,
        Rejection::NotFound => StatusCode::NOT_FOUND,
        Rejection::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Rejection::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = if status == StatusCode::TOO_MANY_REQUESTS { Bytes::new() } else { error_page(status) };
    let mut response = response(status, body, HTML);
    let headers = response.headers_mut();
    match rejection {
        Rejection::TokenPathMethod => drop(headers.insert(ALLOW, HeaderValue::from_static("PUT"))),
        Rejection::Method => drop(headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"))),
        Rejection::Unavailable(_) => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("1"))),
        _ => {} // no extra header
    }
    response
}

fn response(status: StatusCode, body: Bytes, content_type: HeaderValue) -> HttpResponse {
    let mut response = HttpResponse::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
