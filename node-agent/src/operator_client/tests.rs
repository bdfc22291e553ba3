use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;

/// Replicas behind one address: each new connection gets the next status of a cycle.
struct Replicas {
    client: Arc<OperatorClient>,
    connections: Arc<AtomicUsize>,
    directory: PathBuf,
    _stop: DropGuard,
}

impl Replicas {
    async fn start(name: &str, cycle: &'static [(StatusCode, &'static str)]) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["operator".to_owned()]).unwrap().self_signed(&key).unwrap();
        let directory = std::env::temp_dir().join(format!("podmeta-client-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("ca.crt"), certificate.pem()).unwrap();
        std::fs::write(directory.join("token"), "t").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://operator:{}", listener.local_addr().unwrap().port()).parse().unwrap();
        let endpoint = OperatorEndpoint { url, ca: directory.join("ca.crt"), token: directory.join("token") };

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = config.unwrap().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key);
        let mut config = config.unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (connections, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let serve = serve(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&connections), cycle);
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve));
        let client = OperatorClient::new(endpoint);
        Self { client, connections, directory, _stop: stop.drop_guard() }
    }

    /// Posts to a replica by address, so that no name is resolved.
    async fn post(&self) -> Result<(), OperatorError> {
        let port = self.client.endpoint.url.port_u16().unwrap();
        self.client.post(Some(&format!("127.0.0.1:{port}")), "/", &()).await
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    connections: Arc<AtomicUsize>,
    cycle: &'static [(StatusCode, &'static str)],
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let number = connections.fetch_add(1, Ordering::Relaxed);
        let (status, body) = cycle[number % cycle.len()];
        let tls = tls.clone();
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let respond = service_fn(move |_| {
                let mut response = Response::new(Full::<Bytes>::from(body));
                *response.status_mut() = status;
                std::future::ready(Ok::<_, Infallible>(response))
            });
            drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), respond).await);
        });
    }
}

#[tokio::test]
async fn connection_to_a_replica_that_returns_5xx_is_dropped() {
    let cycle = &[(StatusCode::SERVICE_UNAVAILABLE, ""), (StatusCode::NO_CONTENT, "")];
    let replicas = Replicas::start("unavailable", cycle).await;
    assert!(matches!(replicas.post().await, Err(OperatorError::Status(StatusCode::SERVICE_UNAVAILABLE))));
    for _ in 0..3 {
        replicas.post().await.unwrap();
    }
    assert_eq!(replicas.connections.load(Ordering::Relaxed), 2, "the connection to the second replica is kept");
}

#[tokio::test]
async fn status_410_is_version_expired_and_421_names_the_leader() {
    const NOT_LEADER: (StatusCode, &str) =
        (StatusCode::MISDIRECTED_REQUEST, r#"{"message":"not the leader","leader":"10.0.0.2:8443"}"#);
    let replicas = Replicas::start("misdirected", &[NOT_LEADER]).await;
    let error = replicas.post().await.unwrap_err();
    assert!(matches!(error, OperatorError::Rejected { leader: Some(leader), .. } if leader == "10.0.0.2:8443"));
    let replicas = Replicas::start("gone", &[(StatusCode::GONE, "")]).await;
    assert!(matches!(replicas.post().await, Err(OperatorError::VersionExpired)));
}

#[tokio::test]
async fn server_with_a_certificate_of_another_ca_is_unreachable() {
    let replicas = Replicas::start("other-ca", &[(StatusCode::NO_CONTENT, "")]).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let other = rcgen::CertificateParams::new(["operator".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(replicas.directory.join("ca.crt"), other.pem()).unwrap();
    assert!(matches!(replicas.post().await, Err(OperatorError::Unreachable(_))));
}

#[tokio::test]
async fn missing_token_file_is_an_error_that_names_the_file() {
    let replicas = Replicas::start("no-token", &[(StatusCode::NO_CONTENT, "")]).await;
    std::fs::remove_file(replicas.directory.join("token")).unwrap();
    let error = replicas.post().await.unwrap_err();
    assert!(error.to_string().contains("token"), "{error}");
}
