//! The admin port: health, readiness and metrics. It serves no data of pods.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::connections::{ConnectionGuard, ConnectionLimits, ConnectionRegistry};
use crate::listener::{Acceptor, TcpConnection};

/// The limits of open connections. Probes and a metrics collector need some of each address. At the limit of an address
/// its oldest connection is evicted: pods in the network of the node have the address of the kubelet.
const CONNECTION_LIMITS: ConnectionLimits = ConnectionLimits { total: 256, per_address: 8 };

/// The timeout of reading the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The time after which a connection ends with its current request.
const CONNECTION_AGE: Duration = Duration::from_secs(60);

/// The timeout of the request that is in progress when a connection reaches [`CONNECTION_AGE`].
const LAST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The buffer of a connection for reading, in bytes. A longer head is rejected.
const MAX_BUFFER: usize = 16 * 1024;

/// The state behind the admin port.
#[derive(Debug)]
pub struct Admin {
    registry: Registry,
    ready: AtomicBool,
}

impl Admin {
    /// Creates an admin port that is not ready.
    #[must_use]
    pub fn new(registry: Registry) -> Arc<Self> {
        Arc::new(Self { registry, ready: AtomicBool::new(false) })
    }

    /// Makes `/readyz` return 200, or 503.
    pub fn set_ready(&self, is_ready: bool) {
        self.ready.store(is_ready, Ordering::Release);
    }

    /// Returns the routes: `/healthz`, `/readyz`, `/metrics`.
    pub fn router(self: &Arc<Self>) -> Router {
        let (ready, metrics) = (Arc::clone(self), Arc::clone(self));
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(move || async move { ready.readiness() }))
            .route("/metrics", get(move || async move { metrics.metrics() }))
    }

    /// Serves the routes in tasks of `acceptor` until `stop` is cancelled.
    ///
    /// # Errors
    /// If the listener cannot be used.
    pub fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        acceptor: &Acceptor,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let (router, registry) = (self.router(), ConnectionRegistry::new(CONNECTION_LIMITS));
        let stopped = stop.clone();
        let handle = move |connection: TcpConnection| {
            let guard = registry.register_or_evict(connection.remote.ip());
            let serve = stopped.clone().run_until_cancelled_owned(serve_connection(connection.stream, router.clone()));
            serve_registered(guard, async move {
                let _stopped = serve.await;
            })
        };
        acceptor.spawn(listener, None, stop, handle).map(drop)
    }

    fn readiness(&self) -> impl IntoResponse + use<> {
        if self.ready.load(Ordering::Acquire) {
            (StatusCode::OK, "ready\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
        }
    }

    fn metrics(&self) -> impl IntoResponse + use<> {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => {
                let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                (StatusCode::OK, [(header::CONTENT_TYPE, content_type)], text)
            }
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], String::new()),
        }
    }
}

/// Serves a registered connection until it ends or is evicted. Closes it if `guard` is `None`.
async fn serve_registered(guard: Option<ConnectionGuard>, serve: impl Future<Output = ()>) {
    if let Some(guard) = guard {
        let _evicted = guard.evicted().run_until_cancelled(serve).await;
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_BUFFER);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    if timeout(CONNECTION_AGE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _closed = timeout(LAST_REQUEST_TIMEOUT, connection).await;
    }
}
