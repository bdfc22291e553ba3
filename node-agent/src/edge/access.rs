//! Logs and counts requests. Neither logs nor metrics contain a secret or the path of a request.

use std::sync::PoisonError;

use http::StatusCode;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::rejection::Rejection;
use podmeta_metadata::request::{PathClass, Request};
use podmeta_metadata::workload::PodRef;
use tokio::time::Instant;
use tracing::field::{DisplayValue, display};

use crate::edge::Edge;
use crate::edge::access_log::LineKind;
use crate::edge::connection::EdgeConnection;
use crate::edge::pod::EdgePod;

/// The outcome of a request.
pub(super) struct RequestOutcome<'r> {
    pub(super) status: StatusCode,
    pub(super) rejection: Option<&'r Rejection>,
    /// The time of the request head.
    pub(super) started: Instant,
    /// The time of the response.
    pub(super) now: Instant,
}

/// Counts a request and logs it. Served tokens and credentials of a pod share lines
/// ([`access_log`](crate::edge::access_log)).
/// The line of a rejection has the reason and the field to change. Rejections of a pod have one line a second, with the
/// number of suppressed lines. At level debug, each one has a line. [`log_rate_limited`] logs requests over the rate limit.
pub(super) fn record(
    edge: &Edge,
    connection: &EdgeConnection,
    dialect: Dialect,
    pod: Option<&EdgePod>,
    request: &Request<'_>,
    outcome: &RequestOutcome<'_>,
) {
    let arrival = &connection.arrival;
    let class = PathClass::of(request);
    let (status, rejection) = (outcome.status.as_u16(), outcome.rejection);
    let duration = outcome.now.saturating_duration_since(outcome.started); // including waits
    let token_headers = dialect.protocol().token_headers();
    let token = token_headers.is_some_and(|headers| request.headers.contains_key(&headers.token));
    edge.metrics.record_request(dialect, class, status, token, duration);
    let (pod_name, pod_uid) = pod_fields(pod, &arrival.pod);
    let kind = LineKind { dialect, class, status, token };
    let (dialect, path, reason) = (dialect.as_str(), class.as_str(), rejection.map(display));
    match (rejection, class) {
        // Tokens and credentials are logged on every node. Other items are logged at debug level.
        (None, PathClass::Token | PathClass::Credentials) => {
            if let Some(pod) = pod
                && tracing::enabled!(target: "access", tracing::Level::INFO)
            {
                pod.access_log.record(pod.reference(), kind, duration, outcome.now);
            }
        }
        (None, _) => {
            tracing::debug!(target: "access", pod = pod_name, pod_uid, dialect, path, status, token, ?duration, "served")
        }
        (Some(Rejection::NotFound | Rejection::TooManyRequests), _) => {
            tracing::debug!(target: "access", pod = pod_name, pod_uid, dialect, path, status, token, ?duration, reason, "rejected");
        }
        (Some(_), _) => match admit_rejection(edge, pod) {
            Some(suppressed) => {
                tracing::warn!(target: "access", pod = pod_name, pod_uid, dialect, path, status, token, ?duration, reason, suppressed, "rejected");
            }
            None => {
                tracing::debug!(target: "access", pod = pod_name, pod_uid, dialect, path, status, token, ?duration, reason, "rejected");
            }
        },
    }
}

/// Returns the values of the log fields `pod` and `pod_uid`: the namespace and name of a pod, or the UID of an unknown one.
pub(super) fn pod_fields<'a>(
    pod: Option<&'a EdgePod>,
    uid: &'a PodUid,
) -> (Option<DisplayValue<&'a PodRef>>, Option<DisplayValue<&'a PodUid>>) {
    (pod.map(|pod| display(pod.reference())), pod.is_none().then(|| display(uid)))
}

/// Returns the number of suppressed lines, or `None` if a rejection or failure of the pod must not be logged now. Each pod
/// has one line a second. `pod` is `None` for all unknown pods together.
pub(super) fn admit_rejection(edge: &Edge, pod: Option<&EdgePod>) -> Option<u64> {
    let throttle = pod.map_or(&edge.unknown_pod_rejection_log, |pod| &*pod.rejection_log);
    throttle.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now())
}

/// Logs that a pod exceeds its rate limit.
pub(super) fn log_rate_limited(pod: &EdgePod) {
    let (pod, limits) = (pod.reference(), pod.limits());
    let (rate, burst) = (limits.requests_per_second, limits.burst);
    tracing::warn!(target: "access", %pod, rate, burst, "rejected: {}", Rejection::TooManyRequests);
}
