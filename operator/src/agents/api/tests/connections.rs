//! Calls of one agent on several TLS connections at the same time.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::agents::listener::serve;
use crate::metrics::Metrics;
use crate::tls::material::{TlsMaterial, renew};
use crate::tls::serving_certificate::ServingCertificate;

const NAME: &str = "operator.svc";

/// A server of the agents' API on a loopback port.
struct TestListener {
    address: std::net::SocketAddr,
    material: TlsMaterial,
}

impl TestListener {
    async fn start(router: Router) -> Self {
        let material = renew(None, NAME, Timestamp::now()).unwrap();
        let certificate = Arc::new(ServingCertificate::from_material(&material).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, certificate, router, Metrics::default(), CancellationToken::new()));
        Self { address, material }
    }

    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.material.bundle().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (connection, served) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(served);
        connection
    }
}

/// Requests the credentials of pod u3. Returns the body of the response.
async fn call(mut connection: SendRequest<Full<Bytes>>) -> Value {
    let request = Request::post(format!("https://{NAME}{CREDENTIALS}"))
        .header("content-type", "application/json")
        .header("authorization", "Bearer a.b.c")
        .body(Full::from(credentials_of("u3").to_string()));
    let response = connection.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

#[tokio::test]
async fn hundred_calls_on_four_connections_for_one_pod_make_one_call_to_the_cloud() {
    let stub = StubSts::start(|_| (200, aws_response("AssumeRoleWithWebIdentity", "2099-01-01T00:00:00Z"))).await;
    let fixture = Fixture::synced_with(fixture::synced_reconciler_with(fixture::CLOUD_POD), &stub.url).await;
    let Fixture { router, mut server, mut tokens, .. } = fixture;
    tokio::spawn(async move {
        loop {
            server.expect(Method::POST, TOKEN_REVIEWS).await.respond(&review("n1", "a1"));
        }
    });
    let listener = TestListener::start(router).await;
    let connections = join_all((0..4).map(|_| listener.connect())).await;
    let calls = || (0..100).map(|number| connections[number % connections.len()].clone());

    // The API server does not issue the pod's token yet.
    let bodies = join_all(calls().map(call)).await;
    assert!(bodies.iter().all(|body| body == "pending"), "{bodies:?}");

    let token_requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&token_requests);
    tokio::spawn(async move {
        loop {
            let request = tokens.expect(Method::POST, "/api/v1/namespaces/shop/serviceaccounts/api/token").await;
            counted.fetch_add(1, Ordering::Relaxed);
            let status = json!({"token": "a.b.c", "expirationTimestamp": "2099-01-01T00:00:00Z"});
            request.respond(&json!({"metadata": {}, "spec": {"audiences": []}, "status": status}));
        }
    });
    let retried = join_all(calls().map(async |connection| {
        loop {
            let body = call(connection.clone()).await;
            if body != "pending" || token_requests.load(Ordering::Relaxed) > 1 {
                break body;
            }
        }
    }));
    let bodies = tokio::time::timeout(std::time::Duration::from_secs(20), retried).await.unwrap();
    assert_eq!((token_requests.load(Ordering::Relaxed), stub.calls()), (1, 1));
    for body in bodies {
        assert_eq!(body["issued"]["accessKeyId"], "ASIA1", "{body}");
    }
}
