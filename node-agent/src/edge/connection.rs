//! Serves one connection with hyper's own HTTP/1 builder, which has the limits that a hostile client meets: size and
//! number of headers, and a pod's number of connections. There is no router: which paths there are is for the pod's tree
//! to say.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use podmeta_metadata::evaluate::HeaderCheck;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::options::Limits;
use podmeta_metadata::request::{Family, MAX_HEAD_BYTES};
use podmeta_metadata::session::LastToken;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::edge::hop::{Hops, Limited, SetHopLimit};
use crate::edge::limit::{TooMany, share};
use crate::edge::patience::Patient;
use crate::edge::{Edge, handle};

/// Where a connection comes from: that it arrived on this pod's link is the pod's whole identity.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The pod whose link it came by.
    pub pod: PodUid,
    /// The service address that it was opened to, or that its listener stands for.
    pub service: IpAddr,
    /// The address family of its socket.
    pub family: Family,
    /// A check of request headers that its listener demands.
    pub header_check: Option<HeaderCheck>,
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
    pub(super) session: LastToken,
}

/// Serves connections of one edge.
#[derive(Clone)]
pub struct Server {
    edge: Arc<Edge>,
    stop: CancellationToken,
}

impl Server {
    /// A server of `edge`. When `stop` is cancelled each connection finishes the request that it is at, and ends.
    #[must_use]
    pub fn new(edge: Arc<Edge>, stop: CancellationToken) -> Self {
        Self { edge, stop }
    }

    /// Serves a connection to its end.
    pub async fn serve<I>(&self, io: I, arrival: Arrival)
    where
        I: AsyncRead + AsyncWrite + SetHopLimit + Send + Unpin + 'static,
    {
        // A pod that is not known yet is told so, in answer to its request.
        let pod = self.edge.pod(&arrival.pod);
        let (connections, limit) = match &pod {
            Some(pod) => (&pod.connections, pod.limits().connections),
            None => (&self.edge.strangers, Limits::default().connections),
        };
        let limit = share(limit, self.edge.metrics().connections());
        let _open = match connections.open(limit, Instant::now()) {
            Ok(open) => open,
            Err(TooMany { tell }) => {
                self.edge.metrics().connection_refused();
                if tell {
                    let name = pod.as_ref().map_or_else(|| arrival.pod.to_string(), |pod| pod.reference().to_string());
                    tracing::warn!(
                        pod = name,
                        "a connection was closed: the pod has as many as spec.limits.connections of its profile allows, or as the node bears"
                    );
                }
                return;
            }
        };
        drop(pod);
        let _counted = self.edge.metrics().connection();
        let hops = Arc::new(Hops::default());
        let io = TokioIo::new(Patient::new(Limited::new(io, arrival.family, Arc::clone(&hops))));
        let shared = (&self.edge, Connection { arrival, hops, session: LastToken::default() });
        let service = service_fn(async |request: http::Request<Incoming>| {
            let (edge, connection) = &shared;
            let (head, _body) = request.into_parts();
            Ok::<_, Infallible>(handle(edge, connection, &head).await)
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

/// Of a head, hyper itself takes 100 headers at most, and answers more with 431.
fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(2 * MAX_HEAD_BYTES)
        .title_case_headers(true) // as both clouds write them
        .half_close(false);
    builder
}
