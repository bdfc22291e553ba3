//! The TLS listener that agents connect to, with HTTP/2 and its pings, so that an agent that is gone is noticed. Who is no
//! agent is let go soon, whatever it does or does not say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use podmeta_agent_api::STREAMS;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{Accept, TlsAcceptor};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certificates::Serving;
use crate::connections::{Connections, Peer};
use crate::metrics::{Metrics, Refused};

/// How long a handshake, or a request's head, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take from then until an agent has shown its token: the API server reviews it meanwhile.
const PROOF: Duration = Duration::from_secs(20);
/// How often an idle connection is asked whether it is still there.
const PING: Duration = Duration::from_secs(20);
/// How much of an answer waits for its agent to take it, in bytes: after an edit all agents' do.
const SEND: usize = 16 * 1024;
/// How long the heads of requests may be, and how much of their bodies waits to be read, in bytes, whoever sends them.
const HEAD: u32 = 8 * 1024;
const WINDOW: u32 = 65_535;
/// How long connections may take to end when the operator stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Opens the port.
///
/// # Errors
/// If it cannot be had.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} (--listen)"))
}

/// Serves agents until it is stopped; what they ask is answered to its end.
///
/// # Errors
/// If the certificate cannot be used at all.
pub async fn serve(
    listener: TcpListener,
    serving: Arc<Serving>,
    router: Router,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<()> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_no_client_auth().with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (connections, tasks) = (Connections::default(), TaskTracker::new());
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                let Some(admitted) = connections.admit(peer.ip()) else {
                    metrics.refused(Refused::Connection);
                    tracing::debug!(%peer, "a connection is closed: its address, or all together, have too many");
                    continue;
                };
                drop(stream.set_nodelay(true));
                let handshake = acceptor.accept(stream);
                let connection = connection(handshake, Peer::new(peer.ip()), router.clone(), stop.clone());
                let metrics = metrics.clone();
                tasks.spawn(async move {
                    if let Err(Unproven) = connection.await {
                        metrics.refused(Refused::Connection);
                        tracing::debug!(%peer, "a connection is closed: no agent has shown its token on it in time");
                    }
                    drop(admitted);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted; raise the limit of open files if this goes on");
                // Without a free descriptor accept fails at once, again and again.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::info!("some agents' connections did not end in time and were cut");
    }
    Ok(())
}

/// No agent has shown its token on a connection in time.
struct Unproven;

async fn connection(
    handshake: Accept<TcpStream>,
    peer: Peer,
    router: Router,
    stop: CancellationToken,
) -> Result<(), Unproven> {
    let mut stream = match tokio::time::timeout(PATIENCE, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a handshake failed");
            return Ok(());
        }
        Err(_) => return Err(Unproven),
    };
    stream.get_mut().1.set_buffer_limit(Some(SEND));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(SEND);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PATIENCE);
    builder.http2().max_concurrent_streams(STREAMS).max_header_list_size(HEAD).max_send_buf_size(SEND);
    builder.http2().initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let router = TowerToHyperService::new(router);
    let asks = peer.clone();
    let service = service_fn(move |mut request| {
        request.extensions_mut().insert(asks.clone());
        router.call(request)
    });
    let served = builder.serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let unproven = async {
        if tokio::time::timeout(PROOF, peer.proven()).await.is_ok() {
            std::future::pending().await
        }
    };
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = unproven => return Err(Unproven),
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an agent's connection ended early");
    }
    Ok(())
}
