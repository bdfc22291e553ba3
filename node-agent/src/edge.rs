//! The HTTP edge: pods in, answers out. It holds the published pods and judges every request anew, so that an edit or a
//! deletion is felt on a connection that is kept. It knows nothing of where pods and connections come from.

mod access;
mod answer;
mod connection;
mod hop;
mod limit;
pub mod metrics;
mod owner;
mod patience;
mod pod;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body_util::Full;
use jiff::Timestamp;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::request::{HttpResponse, ReasonPhrase, Rejection, Request};
use podmeta_metadata::session::Keyring;

use connection::Connection;
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

/// Answers one request. Its body is left where it is: no rule of either cloud reads one.
async fn handle(edge: &Edge, connection: &Connection, head: &Parts) -> Response<Full<Bytes>> {
    let started = std::time::Instant::now();
    let arrival = &connection.arrival;
    let asked = Request {
        method: &head.method,
        uri: &head.uri,
        version: head.version,
        headers: &head.headers,
        family: arrival.family,
        session: &connection.session,
    };
    let pod = edge.pod(&arrival.pod);
    let outcome = match &pod {
        Some(pod) => answer::answer(edge, pod, connection, &asked).await,
        None => Err(Rejection::Unavailable("the pod is gone, or not known yet; try again".to_owned())),
    };
    let (refusal, reply) = match outcome {
        Ok(reply) => (None, reply),
        Err(refusal) => {
            let reply = answer::refuse(arrival.dialect, &refusal);
            (Some(refusal), reply)
        }
    };
    access::record(edge, connection, pod.as_deref(), &asked, &reply, refusal.as_ref(), started.elapsed());
    let gone = !edge.pods.load().contains_key(&arrival.pod);
    let closes = gone || refusal.as_ref().is_some_and(Rejection::closes);
    into_response(reply, closes)
}

fn into_response(reply: HttpResponse, closes: bool) -> Response<Full<Bytes>> {
    let mut response = reply.map(Full::new);
    if closes {
        response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    }
    if let Some(ReasonPhrase(phrase)) = response.extensions_mut().remove::<ReasonPhrase>() {
        response.extensions_mut().insert(hyper::ext::ReasonPhrase::from_static(phrase.as_bytes()));
    }
    response
}
