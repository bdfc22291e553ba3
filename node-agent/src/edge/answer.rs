//! Carries a judged request out: waits for its turn, gets what the tree does not hold, and puts all in the dialect's
//! own words.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use podmeta_metadata::dialect::{Dialect, ec2, ecs};
use podmeta_metadata::request::{Decision, HttpResponse, Rejection, Request};
use podmeta_metadata::tree::{DocumentItem, LeafValue, Lookup};
use podmeta_metadata::workload::{Link, Workload};
use tokio::time::Instant;

use crate::edge::connection::Connection;
use crate::edge::limit::{MAX_WAIT, TooMany};
use crate::edge::pod::{Pod, View};
use crate::edge::{Edge, access, owner};

/// Answers one request of a pod.
pub(super) async fn answer(
    edge: &Edge,
    pod: &Pod,
    connection: &Connection,
    request: &Request<'_>,
) -> Result<HttpResponse, Rejection> {
    match pod.bucket.take(&pod.limits(), Instant::now()) {
        Ok(Duration::ZERO) => {}
        Ok(wait) => tokio::time::sleep(wait).await,
        Err(TooMany { tell }) => {
            if tell {
                access::flood(pod);
            }
            tokio::time::sleep(MAX_WAIT).await;
            return Err(Rejection::TooManyRequests);
        }
    }
    let View::Served(workload, link) = pod.view() else { return Err(Rejection::PodDenied) };
    let arrival = &connection.arrival;
    if arrival.peer.as_ref().is_some_and(|peer| peer.local.ip().is_loopback()) && names_another(request) {
        return Err(Rejection::Malformed("its Host is a name that is not this machine's: a web page may be behind it"));
    }
    if !workload.users.is_everybody() && !workload.users.admit(arrival.peer.as_ref().and_then(owner::of)) {
        return Err(Rejection::UserNotAllowed);
    }
    let (tree, keys, now) = (pod.side(arrival.dialect).tree.as_ref(), edge.keys.load(), (edge.clock)());
    let judged = match arrival.dialect {
        Dialect::Ec2 => ec2::judge(request, workload, tree, &keys, now)?,
        Dialect::Ecs => ecs::judge(request, workload, tree, &keys, now)?,
    };
    match judged {
        Decision::IssueToken { token, ttl } => {
            connection.hops.limit(workload.options.http_put_response_hop_limit);
            edge.metrics.token(arrival.dialect);
            Ok(match arrival.dialect {
                Dialect::Ec2 => ec2::token_reply(token, ttl),
                Dialect::Ecs => ecs::token_reply(token),
            })
        }
        Decision::ServeItem { found, token_left, audience } => {
            if token_left.is_none() {
                edge.metrics.tokenless(arrival.dialect);
                pod.tokenless.store(now.as_second(), Ordering::Relaxed);
            }
            let body = match found {
                Lookup::Listing(listing) => Body::Text(listing),
                Lookup::Leaf(value) => body(edge, pod, (workload, link), arrival.dialect, value, audience).await?,
            };
            let launched = pod.launched.clone();
            Ok(match (arrival.dialect, body) {
                (Dialect::Ec2, Body::Text(bytes)) => ec2::text_reply(bytes, token_left, launched),
                (Dialect::Ec2, Body::Renewed(bytes)) => ec2::text_reply(bytes, token_left, ec2::last_modified(now)),
                (Dialect::Ec2, Body::UserData(bytes)) => ec2::user_data_reply(bytes, token_left, launched),
                (Dialect::Ecs, Body::Text(bytes) | Body::Renewed(bytes) | Body::UserData(bytes)) => {
                    ecs::item_reply(bytes)
                }
            })
        }
    }
}

/// Whether a Host is a name other than `localhost`. On a loopback port such a name was made to point here, which is how a
/// web page gets a browser to ask for it; on a pod's link every name points to the service alone.
fn names_another(request: &Request<'_>) -> bool {
    let mut hosts = request.headers.get_all(http::header::HOST).iter().filter_map(|host| host.to_str().ok());
    hosts.any(|host| {
        let is_address = |host: &str| host.parse::<IpAddr>().is_ok();
        if is_address(host) {
            return false;
        }
        let Ok(authority) = host.parse::<Authority>() else { return false }; // the dialect refuses it
        let name = authority.host().trim_matches(['[', ']']);
        !is_address(name) && !name.eq_ignore_ascii_case("localhost")
    })
}

/// The refusal in the dialect's words.
pub(super) fn refuse(dialect: Dialect, refusal: &Rejection) -> HttpResponse {
    match dialect {
        Dialect::Ec2 => ec2::refuse(refusal),
        Dialect::Ecs => ecs::refuse(refusal),
    }
}

enum Body {
    Text(Bytes),
    /// Text that is as old as the request: credentials.
    Renewed(Bytes),
    UserData(Bytes),
}

async fn body(
    edge: &Edge,
    pod: &Pod,
    (workload, link): (&Workload, &Link),
    dialect: Dialect,
    value: &LeafValue,
    audience: Option<String>,
) -> Result<Body, Rejection> {
    match value {
        LeafValue::Text(text) => Ok(Body::Text(text.clone())),
        LeafValue::UserData(bytes) => Ok(Body::UserData(bytes.clone())),
        LeafValue::SecretUserData(key) => {
            let bytes = edge.broker.user_data(&workload.pod, key).await.map_err(Rejection::Unavailable)?;
            Ok(Body::UserData(bytes))
        }
        LeafValue::Credentials => credentials(edge, workload, dialect).await.map(Body::Renewed),
        LeafValue::Document(item) => {
            document(edge, pod, (workload, link), dialect, *item, audience).await.map(Body::Text)
        }
    }
}

async fn credentials(edge: &Edge, workload: &Workload, dialect: Dialect) -> Result<Bytes, Rejection> {
    let role = workload.part(dialect).and_then(|part| part.role.as_ref()).ok_or(Rejection::NotFound)?;
    let given = edge.broker.credentials(workload, dialect, role, (edge.clock)()).await;
    if let Err(failure) = &given {
        edge.metrics.credentials_failed(dialect);
        tracing::warn!(pod = %workload.pod, %dialect, role = %role.name, %failure, "credentials cannot be had; the pod gets the cloud's own error");
    }
    Ok(match (dialect, given) {
        (Dialect::Ec2, Ok(given)) => ec2::credentials(&given),
        (Dialect::Ec2, Err(failure)) => ec2::failure(&failure),
        (Dialect::Ecs, Ok(given)) => ecs::credentials(&given),
        (Dialect::Ecs, Err(failure)) => ecs::failure(&failure),
    })
}

/// A form of the signed document. Without an audience it is signed once and kept for as long as nothing of the pod
/// changes; with one it is signed for that audience alone.
async fn document(
    edge: &Edge,
    pod: &Pod,
    (workload, link): (&Workload, &Link),
    dialect: Dialect,
    item: DocumentItem,
    audience: Option<String>,
) -> Result<Bytes, Rejection> {
    if audience.is_some() {
        let signed = edge.broker.document(workload, link, dialect, audience).await?;
        return Ok(signed.item(item));
    }
    let sign = || edge.broker.document(workload, link, dialect, None);
    pod.side(dialect).signed.get_or_try_init(sign).await.map(|signed| signed.item(item))
}
