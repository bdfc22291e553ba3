//! The HTTP edge: pods in, answers out. It holds the published pods and judges every request anew, so that an edit or a
//! deletion is felt on a connection that is kept. It knows nothing of where pods and connections come from.

mod access;
mod connection;
mod hop;
mod limit;
pub mod metrics;
mod owner;
mod patience;
mod pod;
mod respond;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body_util::Full;
use jiff::Timestamp;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::protocol::select;
use podmeta_metadata::rejection::Rejection;
use podmeta_metadata::request::Request;
use podmeta_metadata::response::{HttpResponse, ReasonPhrase};
use podmeta_metadata::session::Keyring;

use connection::Connection;
pub use connection::{Arrival, Peer, Server};
pub use hop::SetHopLimit;
pub use pod::Pod;
pub use podmeta_metadata::compile::PodView;

use crate::broker::Broker;
use metrics::Metrics;

/// What the time is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Everything that requests share.
pub struct Edge {
    pods: ArcSwap<HashMap<PodUid, Arc<Pod>>>,
    keys: ArcSwap<Keyring>,
    broker: Broker,
    /// What pods that are not known may hold open, all together.
    strangers: limit::Connections,
    clock: Clock,
    metrics: Metrics,
}

impl Edge {
    /// An edge that serves no pod yet.
    #[must_use]
    pub fn new(keys: Keyring, broker: Broker, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            pods: ArcSwap::default(),
            keys: ArcSwap::from_pointee(keys),
            broker,
            strangers: limit::Connections::default(),
            clock,
            metrics: Metrics::default(),
        })
    }

    /// Replaces all pods at once. A pod that is still there keeps its counts of requests and connections, and what was
    /// made for it if nothing of it changed.
    pub fn publish(&self, views: impl IntoIterator<Item = (PodUid, PodView)>) {
        let old = self.pods.load();
        let pods = views.into_iter().map(|(uid, view)| {
            let pod = match old.get(&uid) {
                Some(pod) if *pod.view() == view => Arc::clone(pod),
                Some(pod) => Arc::new(pod.with(view)),
                None => Arc::new(Pod::new(view)),
            };
            (uid, pod)
        });
        self.pods.store(Arc::new(pods.collect()));
    }

    /// Replaces the session keys, after they were rotated or read again.
    pub fn set_keys(&self, keys: Keyring) {
        self.keys.store(Arc::new(keys));
    }

    /// The counts of this edge.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The pod that a connection belongs to, if it is still there.
    #[must_use]
    pub fn pod(&self, uid: &PodUid) -> Option<Arc<Pod>> {
        self.pods.load().get(uid).map(Arc::clone)
    }
}

/// Handles one request. Its body is not read: neither cloud reads request bodies.
async fn handle(edge: &Edge, connection: &Connection, head: &Parts) -> Response<Full<Bytes>> {
    let started = std::time::Instant::now();
    let arrival = &connection.arrival;
    let request = Request {
        method: &head.method,
        uri: &head.uri,
        version: head.version,
        headers: &head.headers,
        service: arrival.service,
        session: &connection.session,
    };
    let Some(dialect) = select(&request) else {
        tracing::debug!(service = %arrival.service, "no dialect has this service address; responding 404");
        return into_response(not_found(), true);
    };
    let pod = edge.pod(&arrival.pod);
    let (rejection, response) = match respond::respond(edge, dialect, pod.as_deref(), connection, &request).await {
        Ok(response) => (None, response),
        Err(rejection) => {
            let response = dialect.protocol().rejection_response(&rejection);
            (Some(rejection), response)
        }
    };
    let outcome = access::Outcome { response: &response, rejection: rejection.as_ref(), duration: started.elapsed() };
    access::record(edge, connection, dialect, pod.as_deref(), &request, &outcome);
    let closes = pod.is_none() || rejection.as_ref().is_some_and(Rejection::closes_connection);
    into_response(response, closes)
}

fn not_found() -> HttpResponse {
    let mut response = HttpResponse::default();
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response
}

fn into_response(response: HttpResponse, closes: bool) -> Response<Full<Bytes>> {
    let mut response = response.map(Full::new);
    if closes {
        response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    }
    if let Some(ReasonPhrase(phrase)) = response.extensions_mut().remove::<ReasonPhrase>() {
        response.extensions_mut().insert(hyper::ext::ReasonPhrase::from_static(phrase.as_bytes()));
    }
    response
}
