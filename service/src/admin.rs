//! The admin port: health, readiness and metrics. It serves no data of pods.

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
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The timeout of reading the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The delay after a failed accept.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

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

    /// Makes `/readyz` return 200.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Returns the routes: `/healthz`, `/readyz`, `/metrics`.
    pub fn router(self: &Arc<Self>) -> Router {
        let (ready, metrics) = (Arc::clone(self), Arc::clone(self));
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(move || async move { ready.readiness() }))
            .route("/metrics", get(move || async move { metrics.metrics() }))
    }

    /// Serves the routes until `stop` is cancelled.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let router = self.router();
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let Ok((stream, _)) = accepted else {
                // Without a free file descriptor, accept fails immediately again.
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            };
            let service = TowerToHyperService::new(router.clone());
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let stop = stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(connection).await });
        }
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
