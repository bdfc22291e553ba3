//! The HTTP edge: evaluates and serves requests of the published pods. Each request looks its pod up again, so that a
//! change or deletion applies to open connections too. The edge does not know where pods and connections come from.

mod access;
mod access_log;
mod connection;
mod fair_share;
#[cfg(test)]
pub(crate) mod fixture;
mod hop_limit;
mod idle_timeout;
mod limit;
mod memory;
mod metered;
pub mod metrics;
mod owner;
mod pod;
mod respond;
#[cfg(test)]
mod tests;
mod unknown_pods;

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::Either;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderValue, Response};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use jiff::Timestamp;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::path::CanonicalPath;
use podmeta_metadata::protocol::select;
use podmeta_metadata::rejection::{RejectedRequest, Rejection};
use podmeta_metadata::request::Request;
use podmeta_metadata::response::{HttpResponse, ReasonPhrase};
use podmeta_metadata::session::Keyring;
use podmeta_service::log_throttle::LogThrottle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use connection::EdgeConnection;
pub use connection::{Arrival, EdgeServer, SocketPair};
use fair_share::PollMode;
pub use hop_limit::SetHopLimit;
pub use metered::SendBuffer;
pub use pod::EdgePod;
pub use podmeta_metadata::compile::PodView;
use unknown_pods::UnknownPods;

use crate::broker::Broker;
use metrics::EdgeMetrics;

/// Longest wait of a request for the workload of its pod. SDKs give up after one second.
const UNKNOWN_POD_WAIT: Duration = Duration::from_millis(800);

/// Maximum number of open connections of all pods with which no pod is served in the background.
const FEW_CONNECTIONS: i64 = 128;

/// Returns the current time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The state that all requests share.
pub struct Edge {
    pods: ArcSwap<HashMap<PodUid, Arc<EdgePod>>>,
    keys: ArcSwap<Keyring>,
    broker: Broker,
    unknown_pods: UnknownPods,
    /// Changes with each publication.
    published: watch::Sender<()>,
    /// Limits the memory of all connections.
    memory: memory::MemoryBudget,
    /// Pods that are over their share of the worker thread.
    background: fair_share::BackgroundQueue,
    /// Limits the log lines of rejections of all unknown pods together.
    unknown_pod_rejection_log: Mutex<LogThrottle>,
    clock: Clock,
    metrics: EdgeMetrics,
}

impl Edge {
    /// Creates an edge without pods.
    #[must_use]
    pub fn new(keys: Keyring, broker: Broker, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            pods: ArcSwap::default(),
            keys: ArcSwap::from_pointee(keys),
            broker,
            unknown_pods: UnknownPods::default(),
            published: watch::Sender::default(),
            memory: memory::MemoryBudget::default(),
            background: fair_share::BackgroundQueue::default(),
            unknown_pod_rejection_log: Mutex::default(),
            clock,
            metrics: EdgeMetrics::default(),
        })
    }

    /// Replaces all pods at once. A pod whose view is the same is kept. A pod whose view changed keeps its request rate
    /// and connection counts.
    pub fn publish(&self, views: impl IntoIterator<Item = (PodUid, PodView)>) {
        let current = self.pods.load();
        let pods = views.into_iter().map(|(uid, view)| {
            let pod = EdgePod::replacing(current.get(&uid), view);
            (uid, pod)
        });
        self.store(pods.collect());
    }

    /// Replaces some pods at once, and removes those without a view. All other pods are kept. There must be one writer.
    pub fn update(&self, changes: impl IntoIterator<Item = (PodUid, Option<PodView>)>) {
        let mut pods = HashMap::clone(&self.pods.load());
        for (uid, view) in changes {
            match view {
                Some(view) => {
                    let pod = EdgePod::replacing(pods.get(&uid), view);
                    pods.insert(uid, pod);
                }
                None => drop(pods.remove(&uid)),
            }
        }
        self.store(pods);
    }

    fn store(&self, pods: HashMap<PodUid, Arc<EdgePod>>) {
        self.pods.store(Arc::new(pods));
        self.published.send_replace(());
    }

    /// Replaces the session keys.
    pub fn set_keys(&self, keys: Keyring) {
        self.keys.store(Arc::new(keys));
    }

    /// Returns the metrics.
    #[must_use]
    pub fn metrics(&self) -> &EdgeMetrics {
        &self.metrics
    }

    /// Returns a published pod, or `None` if the pod is unknown.
    #[must_use]
    pub fn pod(&self, uid: &PodUid) -> Option<Arc<EdgePod>> {
        self.pods.load().get(uid).map(Arc::clone)
    }

    /// Returns a pod. Waits for an unknown one, because a new pod can send before its workload arrives. Returns `None` after
    /// [`UNKNOWN_POD_WAIT`].
    async fn wait_for_pod(&self, uid: &PodUid) -> Option<Arc<EdgePod>> {
        if let Some(pod) = self.pod(uid) {
            return Some(pod);
        }
        let mut published = self.published.subscribe();
        let published = async {
            loop {
                if let Some(pod) = self.pod(uid) {
                    return Some(pod);
                }
                published.changed().await.ok()?;
            }
        };
        timeout(UNKNOWN_POD_WAIT, published).await.ok().flatten()
    }

    /// Returns the mode of polls. No pod is served in the background while few connections are open: they delay each other
    /// little, and the background costs processor time.
    fn poll_mode(&self) -> PollMode {
        if self.metrics.open_connections() <= FEW_CONNECTIONS { PollMode::Free } else { PollMode::Shared }
    }

    /// Returns the share of the worker thread of a pod.
    fn share(&self, uid: &PodUid) -> Arc<fair_share::ThreadShare> {
        self.pod(uid).map_or_else(|| self.unknown_pods.limits(uid).share, |pod| Arc::clone(&pod.share))
    }
}

/// Handles one request. Does not read its body: neither cloud's service does. The response closes the connection if `stop` is
/// cancelled.
///
/// The response is ready at once if it needs no wait. hyper reads again before it polls the future: a request that is alive
/// then costs a new read buffer. A request with a body is handled in the future, because hyper reads or skips the body when
/// it is dropped.
fn handle<'e>(
    edge: &'e Edge,
    connection: &'e EdgeConnection,
    request: http::Request<Incoming>,
    stop: &'e CancellationToken,
) -> Either<Ready<EdgeResponse>, impl Future<Output = EdgeResponse> + use<'e>> {
    let (head, body) = request.into_parts();
    let mut handler = RequestHandler { edge, connection, stop, started: Instant::now(), is_admitted: false };
    let response = if body.is_end_stream() { handler.handle_now(&head) } else { None };
    match response {
        Some(response) => Either::Left(ready(response)),
        None => Either::Right(async move {
            let _body = body;
            handler.handle(&head).await
        }),
    }
}

/// A response of the edge.
type EdgeResponse = Response<Full<Bytes>>;

/// Handles one request.
struct RequestHandler<'e> {
    edge: &'e Edge,
    connection: &'e EdgeConnection,
    stop: &'e CancellationToken,
    started: Instant,
    /// True if the rate limit has admitted the request.
    is_admitted: bool,
}

impl RequestHandler<'_> {
    /// Returns the response, or `None` if it must be waited for.
    fn handle_now(&mut self, head: &Parts) -> Option<EdgeResponse> {
        let path = CanonicalPath::parse(head.uri.path());
        let request = metadata_request(self.connection, head, path.as_ref());
        let dialect = select(&request)?;
        let pod = self.edge.pod(&self.connection.arrival.pod)?;
        self.is_admitted = pod.rate_limiter.try_reserve(&pod.limits(), self.started);
        if !self.is_admitted {
            return None;
        }
        let result = respond::respond_now(self.edge, dialect, &pod, self.connection, &request)?;
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
        let result = respond::respond(self.edge, dialect, pod, self.connection, &request, self.is_admitted).await;
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
        let closes =
            pod.is_none() || rejection.as_ref().is_some_and(Rejection::closes_connection) || self.stop.is_cancelled();
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
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response
}

fn into_response(response: HttpResponse, closes: bool) -> EdgeResponse {
    let is_empty = response.body().is_empty();
    let mut response = response.map(Full::new);
    if is_empty {
        // hyper adds the length to all other responses, but not to an empty response to HEAD.
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
