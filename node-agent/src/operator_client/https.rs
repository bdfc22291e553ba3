//! The HTTPS client: HTTP/2 over TLS, verified against the operator's own CAs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use podmeta_agent_api::MAX_CONCURRENT_STREAMS;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::operator_client::connect_limiter::{ConnectLimiter, LimitedConnector};

/// Timeout of opening a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Interval and timeout of HTTP/2 pings.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// An HTTPS client with a connection pool.
pub type OperatorHttpsClient = Client<HttpsConnector<LimitedConnector>, Full<Bytes>>;

/// Builds a client that accepts servers with a certificate of one of these CAs for `host`, whatever address they have.
///
/// # Errors
/// If `pem` contains no valid certificate or `host` is not a valid server name.
pub fn https_client(pem: &[u8], host: &str) -> Result<OperatorHttpsClient, String> {
    limited_https_client(pem, host, ConnectLimiter::default())
}

/// Builds a client like [`https_client`]. Its new connections count in `limiter`, which other clients can share.
pub(super) fn limited_https_client(
    pem: &[u8],
    host: &str,
    limiter: ConnectLimiter,
) -> Result<OperatorHttpsClient, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("it does not contain a certificate".to_owned());
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .with_server_name_resolver(FixedServerNameResolver::new(name))
        .enable_http2();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let client = Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_only(true)
        .http2_initial_max_send_streams(MAX_CONCURRENT_STREAMS as usize)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .http2_keep_alive_timeout(KEEP_ALIVE_INTERVAL)
        .http2_keep_alive_while_idle(true)
        .build(connector.wrap_connector(LimitedConnector { tcp, limiter }));
    Ok(client)
}
