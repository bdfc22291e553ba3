//! Handles one request: responds immediately if possible, otherwise waits for the pod, the rate limit and the broker.

#[cfg(unix)]
#[cfg(test)]
mod tests;

use std::future::{Ready, ready};

use bytes::Bytes;
use futures_util::future::Either;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::path::CanonicalPath;
use podmeta_metadata::protocol::select;
use podmeta_metadata::rejection::{RejectedRequest, Rejection};
use podmeta_metadata::request::Request;
use podmeta_metadata::response::{HttpResponse, ReasonPhrase};
use tokio::task::yield_now;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::edge::connection::EdgeConnection;
use crate::edge::fair_share::PollMode;
use crate::edge::pod::EdgePod;
use crate::edge::respond::{respond, try_respond};
use crate::edge::{Edge, access};

/// Handles one request. Does not read its body: neither cloud's service does. The response closes the connection if `stop` is
/// cancelled.
///
/// Responds immediately if nothing must be waited for. Otherwise the request stays in memory while hyper reads again, and hyper
/// allocates another read buffer of 8 KiB.
///
/// A client can pipeline many requests, and hyper handles several of them in one poll. While pods share the worker
/// thread, a poll handles one, so that others wait for the time of one request.
pub(super) fn handle<'e, B>(
    edge: &'e Edge,
    connection: &'e EdgeConnection,
    request: http::Request<B>,
    stop: &'e CancellationToken,
) -> Either<Ready<EdgeResponse>, impl Future<Output = EdgeResponse> + use<'e, B>> {
    let (head, body) = request.into_parts();
    let mut handler = RequestHandler { edge, connection, stop, started: Instant::now(), is_admitted: false };
    let waits_for_poll = !connection.claim_poll() && edge.poll_mode() == PollMode::Shared;
    let response = if waits_for_poll { None } else { handler.try_handle(&head) };
    match response {
        Some(response) => Either::Left(ready(response)),
        None => Either::Right(async move {
            let _body = body; // hyper skips a body when it is dropped
            if waits_for_poll {
                yield_now().await;
                let _used = connection.claim_poll();
            }
            handler.handle(&head).await
        }),
    }
}

/// A response of the edge.
pub(super) type EdgeResponse = Response<Full<Bytes>>;

/// The state of one request.
struct RequestHandler<'e> {
    edge: &'e Edge,
    connection: &'e EdgeConnection,
    stop: &'e CancellationToken,
    started: Instant,
    /// True if the rate limit has admitted the request.
    is_admitted: bool,
}

impl RequestHandler<'_> {
    /// Returns the response, or `None` if the request must wait.
    fn try_handle(&mut self, head: &Parts) -> Option<EdgeResponse> {
        let path = CanonicalPath::parse(head.uri.path());
        let request = metadata_request(self.connection, head, path.as_ref());
        let dialect = select(&request)?;
        let pod = self.edge.pod(&self.connection.arrival.pod)?;
        self.is_admitted = pod.rate_limiter.try_reserve(&pod.limits(), self.started);
        if !self.is_admitted {
            return None;
        }
        let result = try_respond(self.edge, dialect, &pod, self.connection, &request)?;
        Some(self.finish(dialect, Some(&pod), &request, result))
    }

    /// Returns the response. Waits for the pod, the rate limit and the broker.
    async fn handle(&self, head: &Parts) -> EdgeResponse {
        let path = CanonicalPath::parse(head.uri.path());
        let request = metadata_request(self.connection, head, path.as_ref());
        let arrival = &self.connection.arrival;
        let Some(dialect) = select(&request) else {
            tracing::debug!(service = %arrival.service, "no dialect has this service address; responding 404");
            return into_response(not_found(), true);
        };
        let pod = self.edge.wait_for_pod(&arrival.pod).await;
        let pod = pod.as_deref();
        let result = respond(self.edge, dialect, pod, self.connection, &request, self.is_admitted).await;
        self.finish(dialect, pod, &request, result)
    }

    /// Logs and counts the request.
    fn finish(
        &self,
        dialect: Dialect,
        pod: Option<&EdgePod>,
        request: &Request<'_>,
        result: Result<HttpResponse, RejectedRequest>,
    ) -> EdgeResponse {
        let (rejection, response) = match result {
            Ok(response) => (None, response),
            Err(rejected) => {
                let response = dialect.protocol().rejection_response(&rejected);
                (Some(rejected.rejection), response)
            }
        };
        let (status, now) = (response.status(), Instant::now());
        let outcome = access::RequestOutcome { status, rejection: rejection.as_ref(), started: self.started, now };
        access::record(self.edge, self.connection, dialect, pod, request, &outcome);
        let closes = pod.is_none()
            || rejection.as_ref().is_some_and(Rejection::closes_connection)
            || self.connection.owner.is_missing()
            || self.stop.is_cancelled();
        into_response(response, closes)
    }
}

fn metadata_request<'r>(
    connection: &'r EdgeConnection,
    head: &'r Parts,
    path: Option<&'r CanonicalPath<'r>>,
) -> Request<'r> {
    Request {
        method: &head.method,
        uri: &head.uri,
        path,
        version: head.version,
        headers: &head.headers,
        service: connection.arrival.service,
        session: &connection.session,
    }
}

fn not_found() -> HttpResponse {
    let mut response = HttpResponse::default();
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

fn into_response(response: HttpResponse, closes: bool) -> EdgeResponse {
    let is_empty = response.body().is_empty();
    let mut response = response.map(Full::new);
    if is_empty {
        // hyper omits the length of an empty response to HEAD.
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    if closes {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(ReasonPhrase(phrase)) = response.extensions_mut().remove::<ReasonPhrase>() {
        response.extensions_mut().insert(hyper::ext::ReasonPhrase::from_static(phrase.as_bytes()));
    }
    response
}
