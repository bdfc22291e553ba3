//! The HTTP edge: pods in, answers out. It holds the published pods and judges every request anew, so that an edit or a
//! deletion is felt on a connection that is kept. It knows nothing of where pods and connections come from.

mod access;
mod answer;
mod connection;
mod hop;
mod limit;
pub mod metrics;
mod owner;
mod pod;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::request::{Reason, Refusal, Reply, Request};
use podmeta_metadata::session::Keyring;

pub use connection::{Arrival, Peer, Server};
pub use hop::SetHopLimit;
pub use pod::{Pod, View};

use crate::broker::Broker;
use metrics::Metrics;

/// What the time is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Everything that requests share.
pub struct Edge {
    pods: ArcSwap<HashMap<PodUid, Arc<Pod>>>,
    keys: ArcSwap<Keyring>,
    broker: Broker,
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
            clock,
            metrics: Metrics::default(),
        })
    }

    /// Replaces all pods at once. A pod that is still there keeps its counts of requests and connections, and what was
    /// made for it if nothing of it changed.
    pub fn publish(&self, views: impl IntoIterator<Item = (PodUid, View)>) {
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

    /// What the broker gives out; the dev server replaces its Secrets.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
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

/// The router of one edge: every path of every pod, because which paths there are is for the pod's tree to say.
/// A request carries its [`Arrival`] as an extension.
pub fn router(edge: Arc<Edge>) -> Router {
    Router::new().fallback(handle).with_state(edge)
}

async fn handle(State(edge): State<Arc<Edge>>, request: axum::extract::Request) -> Response {
    let started = std::time::Instant::now();
    let (head, _body) = request.into_parts(); // no rule of either cloud reads a body
    let Some(connection) = head.extensions.get::<Arc<connection::Connection>>() else {
        // Only a server that is not ours leaves it out; nobody may be answered whose pod is not known.
        return Response::builder()
            .status(http::StatusCode::INTERNAL_SERVER_ERROR)
            .body(Body::empty())
            .unwrap_or_default();
    };
    let arrival = &connection.arrival;
    let asked = Request {
        method: &head.method,
        uri: &head.uri,
        version: head.version,
        headers: &head.headers,
        family: arrival.family,
    };
    let outcome = match edge.pod(&arrival.pod) {
        Some(pod) => answer::answer(&edge, &pod, connection, &asked).await,
        None => Err(Refusal::Unavailable("the pod is gone, or not known yet; try again".to_owned())),
    };
    let gone = edge.pods.load().get(&arrival.pod).is_none();
    let reply = match &outcome {
        Ok(reply) => reply.clone(),
        Err(refusal) => answer::refuse(arrival.dialect, refusal),
    };
    access::record(&edge, connection, &asked, &reply, outcome.as_ref().err(), started.elapsed());
    let closes = gone || outcome.as_ref().err().is_some_and(Refusal::closes);
    into_response(reply, closes)
}

fn into_response(reply: Reply, closes: bool) -> Response {
    let (mut head, body) = reply.into_parts();
    if closes {
        head.headers.insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    }
    if let Some(Reason(phrase)) = head.extensions.remove::<Reason>() {
        head.extensions.insert(hyper::ext::ReasonPhrase::from_static(phrase.as_bytes()));
    }
    Response::from_parts(head, Body::from(body))
}
