//! An operator on a loopback port, with HTTPS and a CA of its own. The benchmark `neighbours` includes this file.

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use podmeta_agent_api::MAX_CONCURRENT_STREAMS;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{OperatorClient, OperatorEndpoint};

/// A call that the test responds to.
pub(crate) struct TestCall {
    /// The number of the connection, from 0.
    pub(crate) connection: usize,
    pub(crate) path: String,
}

pub(crate) type OperatorResponse = (StatusCode, String);

/// The operator and a client of it. It stops on drop.
pub(crate) struct TestOperator {
    pub(crate) client: Arc<OperatorClient>,
    /// The directory with `ca.crt` and `token`.
    pub(crate) directory: PathBuf,
    connections: Arc<AtomicUsize>,
    _stop: DropGuard,
}

impl TestOperator {
    pub(crate) async fn start<F>(name: &str, respond: impl Fn(TestCall) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = OperatorResponse> + Send + 'static,
    {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let directory = std::env::temp_dir().join(format!("podmeta-operator-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("ca.crt"), certificate.pem()).unwrap();
        std::fs::write(directory.join("token"), "t").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
        let endpoint = OperatorEndpoint { url, ca: directory.join("ca.crt"), token: directory.join("token") };

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = config.unwrap().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key);
        let mut config = config.unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (connections, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let serve = serve(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&connections), Arc::new(respond));
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve));
        Self { client: OperatorClient::new(endpoint), directory, connections, _stop: stop.drop_guard() }
    }

    /// Returns the number of connections that the client has opened.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for TestOperator {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

async fn serve<F>(
    listener: TcpListener,
    tls: TlsAcceptor,
    connections: Arc<AtomicUsize>,
    respond: Arc<impl Fn(TestCall) -> F + Send + Sync + 'static>,
) where
    F: Future<Output = OperatorResponse> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let connection = connections.fetch_add(1, Ordering::Relaxed);
        let (tls, respond) = (tls.clone(), Arc::clone(&respond));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                let respond = Arc::clone(&respond);
                async move {
                    let path = request.uri().path().to_owned();
                    let (status, body) = respond(TestCall { connection, path }).await;
                    let mut response = Response::new(Full::<Bytes>::from(body));
                    *response.status_mut() = status;
                    Ok::<_, Infallible>(response)
                }
            });
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(MAX_CONCURRENT_STREAMS);
            drop(builder.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}
