//! One line and a few counts for each request. Neither ever holds a secret, nor a path as it was sent.

use std::time::Duration;

use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::request::{PathClass, Refusal, Reply, Request};

use crate::edge::Edge;
use crate::edge::connection::Connection;

/// Writes the line and counts. A refusal's line says why, and what to change.
pub(super) fn record(
    edge: &Edge,
    connection: &Connection,
    request: &Request<'_>,
    reply: &Reply,
    refusal: Option<&Refusal>,
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
    let name = edge.pod(&arrival.pod).map_or_else(|| arrival.pod.to_string(), |pod| pod.reference().to_string());
    let (dialect, path) = (arrival.dialect.as_str(), class.as_str());
    match refusal {
        None => tracing::info!(target: "access", pod = %name, dialect, path, status, token, "served"),
        Some(Refusal::NotFound) => {
            tracing::info!(target: "access", pod = %name, dialect, path, status, token, why = %Refusal::NotFound, "refused");
        }
        Some(why) => tracing::warn!(target: "access", pod = %name, dialect, path, status, token, %why, "refused"),
    }
}
