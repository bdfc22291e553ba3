//! Serves one connection with hyper's own HTTP/1 builder, which has the limits that a hostile client meets: size and
//! number of headers, time for a head, and a pod's number of connections.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::request::{Family, MAX_HEAD_BYTES};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::edge::hop::{Hops, Limited, SetHopLimit};
use crate::edge::{Edge, router};

/// The time for a whole head to come, counted from when the connection is idle: it ends idle connections too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// The most headers of a request; more get 431.
const MAX_HEADERS: usize = 64;

/// Where a connection comes from: that it arrived on this pod's link is the pod's whole identity.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The pod whose link it came by.
    pub pod: PodUid,
    /// The dialect of the address that it came to.
    pub dialect: Dialect,
    /// The kind of that address.
    pub family: Family,
    /// How to find out whose process it is, where that can be found out.
    pub peer: Option<Peer>,
}

/// The two ends of a connection, and the kernel's table of sockets at the pod's end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The pod's end.
    pub remote: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// The folder that holds `tcp` and `tcp6`, such as `/proc/self/net`.
    pub sockets: PathBuf,
}

/// What the requests of one connection share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) arrival: Arrival,
    pub(super) hops: Arc<Hops>,
}

/// Serves connections of one edge.
#[derive(Clone)]
pub struct Server {
    edge: Arc<Edge>,
    router: Router,
    stop: CancellationToken,
}

impl Server {
    /// A server of `edge`. When `stop` is cancelled each connection finishes the request that it is at, and ends.
    #[must_use]
    pub fn new(edge: Arc<Edge>, stop: CancellationToken) -> Self {
        Self { router: router(Arc::clone(&edge)), edge, stop }
    }

    /// Serves a connection to its end.
    pub async fn serve<I>(&self, io: I, arrival: Arrival)
    where
        I: AsyncRead + AsyncWrite + SetHopLimit + Send + Unpin + 'static,
    {
        let Some(pod) = self.edge.pod(&arrival.pod) else {
            tracing::debug!(uid = %arrival.pod, "a connection of a pod that is gone was closed");
            return;
        };
        let Some(_open) = pod.connections.open(pod.limits().connections.get()) else {
            self.edge.metrics().connection_refused();
            tracing::warn!(pod = %pod.reference(), "a connection was closed: the pod has as many as spec.limits.connections of its profile allows");
            return;
        };
        drop(pod);
        let _counted = self.edge.metrics().connection();
        let hops = Arc::new(Hops::default());
        let io = TokioIo::new(Limited::new(io, arrival.family, Arc::clone(&hops)));
        let connection = Arc::new(Connection { arrival, hops });
        let router = self.router.clone();
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&connection));
            router.clone().call(request)
        });
        let connection = builder().serve_connection(io, service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .max_buf_size(2 * MAX_HEAD_BYTES)
        .title_case_headers(true) // as both clouds write them
        .half_close(false);
    builder
}
