//! Responses, as values: the edge sends them.

use bytes::Bytes;
use http::HeaderValue;

/// A whole HTTP response.
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

/// An item as a dialect sends it.
#[derive(Clone, Debug)]
pub struct ItemResponse {
    /// The body.
    pub body: Bytes,
    /// The kind of the body.
    pub kind: ContentKind,
    /// The remaining lifetime of the request's token in seconds, or `None` if the request has no token.
    pub token_left: Option<u32>,
    /// The value of `Last-Modified`, from [`Protocol::last_modified`](crate::protocol::Protocol::last_modified).
    pub last_modified: Option<HeaderValue>,
}
