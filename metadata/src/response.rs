//! Responses, as values: the edge sends them.

use bytes::Bytes;
use http::HeaderMap;

/// An HTTP response. The HTTP library adds `Content-Length` and `Date`.
pub type HttpResponse = http::Response<Bytes>;

/// The reason phrase of a status line that differs from the standard one: an extension of an [`HttpResponse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReasonPhrase(pub &'static str);

/// The kind of an item's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentKind {
    /// Text, including JSON.
    Text,
    /// User data: any bytes.
    UserData,
}

/// Body, headers and token lifetime of the response to a request for an item.
#[derive(Clone, Debug)]
pub struct ItemResponse {
    /// The body.
    pub body: Bytes,
    /// The kind of the body.
    pub kind: ContentKind,
    /// The headers, from [`Protocol::item_headers`](crate::protocol::Protocol::item_headers).
    pub headers: HeaderMap,
    /// The remaining lifetime of the request's token in seconds, or `None` if the request has no token.
    pub token_left: Option<u32>,
}
