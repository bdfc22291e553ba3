use axum::body::Body;
use axum::extract::Extension;
use axum::routing::get;
use jiff::Timestamp;
use podmeta_service::connections::ConnectionLimits;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::tls::material::{TlsMaterial, renew};

const NAME: &str = "operator.svc";

/// Starts a connection and returns its client side.
fn start(router: Router) -> (TlsMaterial, DuplexStream, tokio::task::JoinHandle<bool>) {
    let material = renew(None, NAME, Timestamp::now()).unwrap();
    let acceptor = tls_acceptor(Arc::new(ServingCertificate::from_material(&material).unwrap())).unwrap();
    let (client, server) = tokio::io::duplex(64 * 1024);
    let connection = serve_connection(acceptor.accept(server), [10, 0, 0, 1].into(), router, CancellationToken::new());
    (material, client, tokio::spawn(async { connection.await.is_ok() }))
}

async fn connect(material: &TlsMaterial, stream: DuplexStream) -> TlsStream<DuplexStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(material.bundle().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), stream).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn connection_without_a_handshake_is_closed() {
    let started = Instant::now();
    let (_material, _client, connection) = start(Router::new());
    assert!(!connection.await.unwrap());
    assert_eq!(started.elapsed().as_secs(), READ_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn connection_without_an_authenticated_request_is_closed() {
    let started = Instant::now();
    let slow = async || {
        tokio::time::sleep(AUTHENTICATION_TIMEOUT * 2).await;
        "late"
    };
    let (material, client, connection) = start(Router::new().route("/", get(slow)));
    let mut stream = connect(&material, client).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    assert!(!connection.await.unwrap());
    assert_eq!(started.elapsed().as_secs(), AUTHENTICATION_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn authenticated_connection_stays_open() {
    let authenticate = async |Extension(peer): Extension<PeerConnection>| {
        peer.set_authenticated();
        let late = futures_util::stream::once(async {
            tokio::time::sleep(AUTHENTICATION_TIMEOUT * 3).await;
            Ok::<_, std::convert::Infallible>("late")
        });
        Body::from_stream(late)
    };
    let (material, client, connection) = start(Router::new().route("/", get(authenticate)));
    let mut stream = connect(&material, client).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut response = String::new();
    // The peer may close the stream without a TLS close_notify.
    let _closed = stream.read_to_string(&mut response).await;
    assert!(response.contains("late"), "{response}");
    assert!(connection.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn connection_without_a_valid_handshake_counts_until_the_delay_has_passed() {
    let material = renew(None, NAME, Timestamp::now()).unwrap();
    let tls = tls_acceptor(Arc::new(ServingCertificate::from_material(&material).unwrap())).unwrap();
    let registry = ConnectionRegistry::new(ConnectionLimits { total: 1, per_address: 1 });
    let peer = SocketAddr::from(([10, 0, 0, 1], 1000));
    let server = AgentServer {
        router: Router::new(),
        metrics: Metrics::default(),
        stop: CancellationToken::new(),
        log: Arc::default(),
    };
    let (mut client, stream) = tokio::io::duplex(1024);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let started = Instant::now();
    let mut handled = std::pin::pin!(server.handle(tls.accept(stream), peer, registry.register(peer.ip())));
    let in_time = tokio::time::timeout(UNAUTHENTICATED_DELAY / 2, handled.as_mut()).await;
    assert!(in_time.is_err() && registry.register(peer.ip()).is_none(), "the connection still counts");
    handled.await;
    assert_eq!(started.elapsed(), UNAUTHENTICATED_DELAY);
    assert!(registry.register(peer.ip()).is_some());
}
