//! One line and a few counts for each request. Neither ever holds a secret, nor a path as it was sent.

use std::fmt::Display;
use std::time::Duration;

use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::rejection::Rejection;
use podmeta_metadata::request::{PathClass, Request};
use podmeta_metadata::response::HttpResponse;

use crate::edge::Edge;
use crate::edge::connection::Connection;
use crate::edge::pod::Pod;

/// The outcome of a request.
pub(super) struct Outcome<'r> {
    pub(super) response: &'r HttpResponse,
    pub(super) rejection: Option<&'r Rejection>,
    /// The time from the request head to the response, including waits.
    pub(super) duration: Duration,
}

/// Counts a request and logs it. The log line of a rejection has the reason and what to change. Requests over the rate
/// limit are logged by [`flood`], once a second.
pub(super) fn record(
    edge: &Edge,
    connection: &Connection,
    dialect: Dialect,
    pod: Option<&Pod>,
    request: &Request<'_>,
    outcome: &Outcome<'_>,
) {
    let arrival = &connection.arrival;
    let class = PathClass::from_uri(request.uri);
    let (status, took, rejection) = (outcome.response.status().as_u16(), outcome.duration, outcome.rejection);
    let token_headers = dialect.protocol().token_headers();
    let token = token_headers.is_some_and(|headers| request.headers.contains_key(&headers.token));
    edge.metrics.request(dialect, class, status, token, took);
    let name: &dyn Display = match pod {
        Some(pod) => pod.reference(),
        None => &arrival.pod,
    };
    let (dialect, path, reason) = (dialect.as_str(), class.as_str(), rejection.map(tracing::field::display));
    match (rejection, class) {
        // What opens something else is worth a line on every node; the rest is for whoever looks into a pod's requests.
        (None, PathClass::Token | PathClass::Credentials) => {
            tracing::info!(target: "access", pod = %name, dialect, path, status, token, ?took, "served");
        }
        (None, _) => tracing::debug!(target: "access", pod = %name, dialect, path, status, token, ?took, "served"),
        (Some(Rejection::NotFound | Rejection::TooManyRequests), _) => {
            tracing::debug!(target: "access", pod = %name, dialect, path, status, token, ?took, reason, "rejected");
        }
        (Some(_), _) => {
            tracing::warn!(target: "access", pod = %name, dialect, path, status, token, ?took, reason, "rejected");
        }
    }
}

/// Logs that a pod exceeds its rate limit.
pub(super) fn flood(pod: &Pod) {
    let (pod, limits) = (pod.reference(), pod.limits());
    let (rate, burst) = (limits.requests_per_second, limits.burst);
    tracing::warn!(target: "access", %pod, rate, burst, "rejected: {}", Rejection::TooManyRequests);
}
