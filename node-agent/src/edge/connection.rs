//! Serves one connection with hyper's HTTP/1 builder. Limits connections, their memory, the size of the head and the
//! number of headers.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use podmeta_metadata::host::HostRule;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::options::Limits;
use podmeta_metadata::request::{IpFamily, MAX_HEAD_BYTES};
use podmeta_metadata::session::LastToken;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::edge::Edge;
use crate::edge::access::pod_fields;
use crate::edge::fair_share::PollMode;
use crate::edge::handler::handle;
use crate::edge::hop_limit::{HopLimitedStream, ResponseHopLimit, SetHopLimit};
use crate::edge::idle_timeout::IdleTimeout;
use crate::edge::limit::LimitExceeded;
use crate::edge::metered::{MeteredStream, SendBuffer};
use crate::edge::owner::{ClientOwner, FindOwner};

/// Longest wait for the last request of a connection when the server stops. The client may have sent it already.
const LAST_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// Origin of a connection. The pod is identified by the link or listener alone, never by a header.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The pod that the link or listener belongs to.
    pub pod: PodUid,
    /// The service address that the client connected to, or that the listener stands for.
    pub service: IpAddr,
    /// The address family of the socket.
    pub family: IpFamily,
    /// The hosts that this listener serves.
    pub host_rule: &'static HostRule,
    /// Finds the owner of the client's socket. `None` if the client has no socket that can be found.
    pub owner: Option<Arc<dyn FindOwner>>,
}

/// The state of one connection, which its requests share.
#[derive(Debug)]
pub(super) struct EdgeConnection {
    pub(super) arrival: Box<Arrival>,
    pub(super) hop_limit: Arc<ResponseHopLimit>,
    pub(super) session: LastToken,
    pub(super) owner: ClientOwner,
    /// True if a request was handled since the current poll of the connection started.
    has_handled_request: AtomicBool,
}

impl EdgeConnection {
    pub(super) fn new(arrival: Box<Arrival>, hop_limit: Arc<ResponseHopLimit>) -> Self {
        Self {
            arrival,
            hop_limit,
            session: LastToken::default(),
            owner: ClientOwner::default(),
            has_handled_request: AtomicBool::default(),
        }
    }

    /// Starts a poll of the connection.
    pub(super) fn start_poll(&self) {
        self.has_handled_request.store(false, Ordering::Relaxed);
    }

    /// Marks the current poll as used. Returns false if a request already used it.
    pub(super) fn claim_poll(&self) -> bool {
        !self.has_handled_request.swap(true, Ordering::Relaxed)
    }
}

/// Serves connections of one edge.
#[derive(Clone)]
pub struct EdgeServer {
    edge: Arc<Edge>,
    stop: CancellationToken,
}

impl EdgeServer {
    /// Creates a server. After `stop` is cancelled, each connection ends with its next response, or after
    /// [`LAST_REQUEST_WAIT`] if it has no request.
    #[must_use]
    pub fn new(edge: Arc<Edge>, stop: CancellationToken) -> Self {
        Self { edge, stop }
    }

    /// Runs a future. While the pod is over its share of the worker thread and many connections are open, it runs in the
    /// background.
    pub async fn run_within_share<F: Future>(&self, pod: &PodUid, task: F) -> F::Output {
        let mode = || self.edge.poll_mode();
        self.edge.background.run(&self.edge.share(pod), mode, pin!(task)).await
    }

    /// Serves a connection until it ends. Closes it immediately if the pod has too many connections. `arrival` is on the heap,
    /// because the future of a connection has several copies of it.
    pub async fn serve<I>(self, io: I, arrival: Box<Arrival>)
    where
        I: AsyncRead + AsyncWrite + SetHopLimit + SendBuffer + Send + Unpin + 'static,
    {
        // The connection of an unknown pod is served too, because its requests get 503.
        let pod = self.edge.pod(&arrival.pod);
        let (connections, share, limit) = match &pod {
            Some(pod) => (pod.connections.clone(), Arc::clone(&pod.share), pod.limits().connections),
            None => {
                let unknown = self.edge.unknown_pods.limits(&arrival.pod);
                (unknown.connections, unknown.share, Limits::default().connections)
            }
        };
        let _permit = match connections.open(limit.get(), Instant::now()) {
            Ok(permit) => permit,
            Err(LimitExceeded { log }) => {
                self.edge.metrics().count_rejected_connection();
                if log {
                    let (pod, pod_uid) = pod_fields(pod.as_deref(), &arrival.pod);
                    tracing::warn!(
                        pod,
                        pod_uid,
                        limit,
                        "closing connection: the limit of open connections is reached (spec.limits.connections)"
                    );
                }
                return;
            }
        };
        let _open = self.edge.metrics().open_connection();
        let charge = self.edge.memory.open(connections.key(), Instant::now());
        let eviction = Arc::clone(charge.eviction());
        drop(pod);
        if charge.wait_for_start().await.is_err() {
            record_eviction(&self.edge, &arrival);
            return;
        }
        let hop_limit = Arc::new(ResponseHopLimit::default());
        let io = HopLimitedStream::new(io, arrival.family, Arc::clone(&hop_limit));
        let io = TokioIo::new(IdleTimeout::new(MeteredStream::new(io, charge)));
        let shared = (&self.edge, EdgeConnection::new(arrival, hop_limit));
        let service = service_fn(|request: http::Request<Incoming>| {
            let (edge, connection) = &shared;
            handle(edge, connection, request, &self.stop).map(Ok::<_, Infallible>)
        });
        let mut connection = pin!(builder().serve_connection(io, service));
        let served = pin!(async {
            tokio::select! {
                // The connection is polled first: a request that has arrived gets its response before the shutdown.
                biased;
                result = connection.as_mut() => result,
                // hyper's shutdown immediately closes a connection without a request. Its client would get no response. The timer
                // is on the heap, because each connection has room for all futures of this function.
                () = self.stop.cancelled() => {
                    match Box::pin(timeout(LAST_REQUEST_WAIT, connection.as_mut())).await {
                        Ok(result) => result,
                        Err(_elapsed) => {
                            connection.as_mut().graceful_shutdown();
                            connection.await
                        }
                    }
                }
            }
        });
        // The memory of an evicted connection is needed immediately.
        let mode = || {
            shared.1.start_poll();
            if eviction.is_evicted() { PollMode::Urgent } else { self.edge.poll_mode() }
        };
        let result = self.edge.background.run(&share, mode, served).await;
        if eviction.is_evicted() {
            let (edge, EdgeConnection { arrival, .. }) = &shared;
            record_eviction(edge, arrival);
        }
        if let Err(error) = result {
            tracing::debug!(%error, "connection ended with an error");
        }
    }
}

/// Counts the eviction of a connection, and logs it once a second for each pod.
fn record_eviction(edge: &Edge, arrival: &Arrival) {
    edge.metrics().count_evicted_connection();
    let pod = edge.pod(&arrival.pod);
    let connections = match &pod {
        Some(pod) => pod.connections.clone(),
        None => edge.unknown_pods.limits(&arrival.pod).connections,
    };
    if connections.should_log_eviction(Instant::now()) {
        let (pod, pod_uid) = pod_fields(pod.as_deref(), &arrival.pod);
        tracing::warn!(
            pod,
            pod_uid,
            "closing connection: the pod's connections, or those of all pods, are over their memory budget"
        );
    }
}

/// Returns hyper's builder. It limits a head to 100 headers itself, and responds 431 to more. The read buffer has room
/// for one head: 8 KiB is hyper's minimum.
fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES)
        .title_case_headers(true) // as both clouds do
        .half_close(false);
    builder
}
