//! One line and a few counts for each request. Neither ever holds a secret, nor a path as it was sent.

use std::fmt::Display;
use std::time::Duration;

use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::request::{HttpResponse, PathClass, Rejection, Request};

use crate::edge::Edge;
use crate::edge::connection::Connection;
use crate::edge::pod::Pod;

/// Counts and writes the line, with the time that our own code took or waited. A refusal's line says why, and what to
/// change; that of a pod that asks too much is written once a second by [`flood`].
pub(super) fn record(
    edge: &Edge,
    connection: &Connection,
    pod: Option<&Pod>,
    request: &Request<'_>,
    reply: &HttpResponse,
    refusal: Option<&Rejection>,
    took: Duration,
) {
    let arrival = &connection.arrival;
    let class = PathClass::of(request.uri);
    let status = reply.status().as_u16();
    let header = match arrival.dialect {
        Dialect::Ec2 => podmeta_metadata::dialect::ec2::TOKEN,
        Dialect::Ecs => podmeta_metadata::dialect::ecs::TOKEN,
    };
    let token = request.headers.contains_key(header);
    edge.metrics.request(arrival.dialect, class, status, token, took);
    let name: &dyn Display = match pod {
        Some(pod) => pod.reference(),
        None => &arrival.pod,
    };
    let (dialect, path, why) = (arrival.dialect.as_str(), class.as_str(), refusal.map(tracing::field::display));
    match (refusal, class) {
        // What opens something else is worth a line on every node; the rest is for whoever looks into a pod's requests.
        (None, PathClass::Token | PathClass::Credentials) => {
            tracing::info!(target: "access", pod = %name, dialect, path, status, token, ?took, "served");
        }
        (None, _) => tracing::debug!(target: "access", pod = %name, dialect, path, status, token, ?took, "served"),
        (Some(Rejection::NotFound | Rejection::TooManyRequests), _) => {
            tracing::debug!(target: "access", pod = %name, dialect, path, status, token, ?took, why, "refused");
        }
        (Some(_), _) => {
            tracing::warn!(target: "access", pod = %name, dialect, path, status, token, ?took, why, "refused");
        }
    }
}

/// Says that a pod asks more than it may.
pub(super) fn flood(pod: &Pod) {
    let (pod, limits) = (pod.reference(), pod.limits());
    let (rate, burst) = (limits.requests_per_second, limits.burst);
    tracing::warn!(target: "access", %pod, rate, burst, "refused: {}", Rejection::TooManyRequests);
}
