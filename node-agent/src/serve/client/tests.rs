use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;

/// An operator of which every other replica cannot answer: connections lead to one of them, and to one without end.
struct Replicas {
    client: Arc<Client>,
    connections: Arc<AtomicUsize>,
    folder: PathBuf,
    _end: DropGuard,
}

impl Replicas {
    async fn start(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["operator".to_owned()]).unwrap().self_signed(&key).unwrap();
        let folder = std::env::temp_dir().join(format!("podmeta-client-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("ca.crt"), certificate.pem()).unwrap();
        std::fs::write(folder.join("token"), "t").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://operator:{}", listener.local_addr().unwrap().port()).parse().unwrap();
        let place = Place { url, ca: folder.join("ca.crt"), token: folder.join("token") };

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = config.unwrap().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key);
        let mut config = config.unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (connections, end) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let serve = serve(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&connections));
        tokio::spawn(end.clone().run_until_cancelled_owned(serve));
        Self { client: Client::new(place), connections, folder, _end: end.drop_guard() }
    }

    /// Asks a replica by its address, as for a report: no name is looked up.
    async fn ask(&self) -> Result<(), Error> {
        let port = self.client.place.url.port_u16().unwrap();
        self.client.tell(Some(&format!("127.0.0.1:{port}")), "/", &()).await
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, connections: Arc<AtomicUsize>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let number = connections.fetch_add(1, Ordering::Relaxed);
        let status = if number.is_multiple_of(2) { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::NO_CONTENT };
        let tls = tls.clone();
        tokio::spawn(async move {
            let stream = TokioIo::new(tls.accept(stream).await.unwrap());
            let answer = service_fn(move |_| {
                let mut response = Response::new(Full::<Bytes>::default());
                *response.status_mut() = status;
                std::future::ready(Ok::<_, Infallible>(response))
            });
            drop(http2::Builder::new(TokioExecutor::new()).serve_connection(stream, answer).await);
        });
    }
}

#[tokio::test]
async fn a_replica_that_cannot_answer_is_not_asked_again_on_its_connection() {
    let replicas = Replicas::start("cannot").await;
    assert!(matches!(replicas.ask().await, Err(Error::Status(StatusCode::SERVICE_UNAVAILABLE))));
    for _ in 0..3 {
        replicas.ask().await.unwrap();
    }
    assert_eq!(replicas.connections.load(Ordering::Relaxed), 2, "the one that answers is kept");
}
