//! The TLS listener of the agents' API. HTTP/2 pings detect dead agents. A connection on which no agent authenticates in
//! time is closed.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use podmeta_agent_api::MAX_CONCURRENT_STREAMS;
use podmeta_service::connections::{ConnectionGuard, ConnectionRegistry};
use podmeta_service::listener::{Acceptor, TcpConnection};
use podmeta_service::log_throttle::LogThrottle;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_rustls::{Accept, TlsAcceptor};
use tokio_util::sync::CancellationToken;

use super::connections::{CONNECTION_LIMITS, PeerConnection};
use crate::metrics::{Metrics, RejectedReason};
use crate::tls::serving_certificate::ServingCertificate;

/// The timeout of a TLS handshake, of a request's head, and of the response to an HTTP/2 ping.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout between the handshake and the first authenticated request. It includes the token review.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(20);

/// The interval of HTTP/2 pings.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// The send buffer of a connection, in bytes. It is small: after an edit, the buffers of all agents are full.
const MAX_SEND_BUFFER: usize = 16 * 1024;

/// The maximum size of the head of an HTTP/2 request, in bytes. Agents use HTTP/2 only.
const MAX_HEADER_LIST: u32 = 8 * 1024;

/// The HTTP/2 receive window of a stream and of a connection, in bytes.
const RECEIVE_WINDOW: u32 = 65_535;

/// The timeout of the drain at shutdown. Connections that are still open after it are closed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The time for which a connection still counts against [`CONNECTION_LIMITS`] after it ended without an
/// authenticated request. With the limit of 32 connections of an address, an unknown client can start 4
/// handshakes a second.
const UNAUTHENTICATED_DELAY: Duration = Duration::from_secs(8);

/// Opens the listener.
///
/// # Errors
/// If the address is not available.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} (--listen)"))
}

/// Serves agents until `stop` is cancelled, then drains the connections.
///
/// # Errors
/// If TLS cannot be configured.
pub async fn serve(
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    router: Router,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<()> {
    let (acceptor, tls) = (Acceptor::default(), tls_acceptor(certificate)?);
    let registry = ConnectionRegistry::new(CONNECTION_LIMITS);
    let server = AgentServer { router, metrics, stop: stop.clone(), log: Arc::default() };
    let handle = move |connection: TcpConnection| {
        let guard = registry.register(connection.remote.ip());
        server.clone().handle(tls.accept(connection.stream), connection.remote, guard)
    };
    let accepting = acceptor.spawn(listener, None, stop, handle).context("cannot use the agents' listener")?;
    accepting.await.context("internal error: the accept loop has panicked")?;
    if acceptor.drain(DRAIN_TIMEOUT).await.is_err() {
        tracing::warn!(timeout = ?DRAIN_TIMEOUT, "shutdown timed out; closing open connections");
    }
    Ok(())
}

/// Serves connections of agents.
#[derive(Clone)]
struct AgentServer {
    router: Router,
    metrics: Metrics,
    stop: CancellationToken,
    /// Limits the log lines of connections without an authenticated request.
    log: Arc<Mutex<LogThrottle>>,
}

impl AgentServer {
    /// Serves a connection until it ends. `guard` is `None` if a limit is reached.
    async fn handle<S>(self, handshake: Accept<S>, peer: SocketAddr, guard: Option<ConnectionGuard>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(_guard) = guard else {
            return self.reject(peer, "too many connections of its address or of all addresses");
        };
        let served = serve_connection(handshake, peer.ip(), self.router.clone(), self.stop.clone()).await;
        if let Err(Unauthenticated(reason)) = served {
            self.reject(peer, reason);
            let _stopped = self.stop.run_until_cancelled(tokio::time::sleep(UNAUTHENTICATED_DELAY)).await;
        }
    }

    /// Counts a closed connection and logs it. Unknown clients cause one line a second at most.
    fn reject(&self, peer: SocketAddr, reason: &str) {
        self.metrics.count_rejected(RejectedReason::Connection);
        let admitted = self.log.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        if let Some(suppressed) = admitted {
            tracing::info!(%peer, reason, suppressed, "closing connection: no node agent authenticated on it");
        }
    }
}

fn tls_acceptor(certificate: Arc<ServingCertificate>) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_no_client_auth().with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Error of a connection that ended without an authenticated request. Contains the reason.
#[derive(Debug)]
struct Unauthenticated(&'static str);

async fn serve_connection<S>(
    handshake: Accept<S>,
    address: IpAddr,
    router: Router,
    stop: CancellationToken,
) -> Result<(), Unauthenticated>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stream = match tokio::time::timeout(READ_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(peer = %address, %error, "TLS handshake failed");
            return Err(Unauthenticated("the TLS handshake failed"));
        }
        Err(_) => return Err(Unauthenticated("the TLS handshake timed out")),
    };
    stream.get_mut().1.set_buffer_limit(Some(MAX_SEND_BUFFER));
    let peer = PeerConnection::new(address);
    let router = TowerToHyperService::new(router);
    let request_peer = peer.clone();
    let service = service_fn(move |mut request| {
        request.extensions_mut().insert(request_peer.clone());
        router.call(request)
    });
    let builder = connection_builder();
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let authentication_timeout = async {
        if tokio::time::timeout(AUTHENTICATION_TIMEOUT, peer.wait_until_authenticated()).await.is_ok() {
            std::future::pending().await
        }
    };
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = authentication_timeout => return Err(Unauthenticated("no authenticated request in time")),
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(peer = %address, %error, "connection of an agent failed");
    }
    if peer.is_authenticated() { Ok(()) } else { Err(Unauthenticated("it ended without an authenticated request")) }
}

fn connection_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT).max_buf_size(MAX_SEND_BUFFER);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(READ_TIMEOUT);
    builder.http2().max_concurrent_streams(MAX_CONCURRENT_STREAMS).max_header_list_size(MAX_HEADER_LIST);
    builder.http2().max_send_buf_size(MAX_SEND_BUFFER);
    builder.http2().initial_stream_window_size(RECEIVE_WINDOW).initial_connection_window_size(RECEIVE_WINDOW);
    builder
}
