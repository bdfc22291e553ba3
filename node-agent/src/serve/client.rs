//! The operator as a node agent reaches it: HTTPS with the operator's own authority, and the agent's ServiceAccount token,
//! both read anew for each call because both are renewed.

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use podmeta_agent_api::MAX_CONCURRENT_STREAMS;
use podmeta_agent_api::calls::CallError;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The longest answer, in bytes: a list of 1,000 pods with 16 KiB of user data each.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// How the operator is reached.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its Service, such as `https://podmeta-operator.podmeta-system.svc:8443`.
    pub url: Uri,
    /// The certificates of its authorities, in PEM.
    pub ca: PathBuf,
    /// The agent's own token.
    pub token: PathBuf,
}

/// A client of the operator.
pub struct Client {
    place: Place,
    /// The connections, and the authorities that they were made with.
    http: Mutex<Option<(Vec<u8>, Connections)>>,
}

/// Connections to the operator.
pub type Connections = Http<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that says how to reach the operator cannot be used.
    #[error("cannot use {path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The operator does not answer.
    #[error("the operator cannot be reached: {0}")]
    Unreachable(String),
    /// It takes too long.
    #[error("the operator takes too long to answer")]
    TooLong,
    /// It says no.
    #[error("the operator refuses: {message}")]
    Refused {
        /// In HTTP's words.
        status: StatusCode,
        /// Why.
        message: String,
        /// Where the leader answers, if that is why.
        leader: Option<String>,
    },
    /// It says that a version is too old: list again.
    #[error("the operator does not know that version any more")]
    Gone,
    /// It is not ready, or has a problem of its own.
    #[error("the operator answers {0}")]
    Status(StatusCode),
    /// Its answer is none.
    #[error("the operator's answer cannot be read: {0}")]
    Answer(String),
}

impl Client {
    /// A client that has not connected yet.
    #[must_use]
    pub fn new(place: Place) -> Arc<Self> {
        Arc::new(Self { place, http: Mutex::new(None) })
    }

    /// Posts a call to the Service, and reads the answer.
    ///
    /// # Errors
    /// If there is none.
    pub async fn call<A: Serialize + Sync, B: for<'de> Deserialize<'de>>(
        &self,
        path: &str,
        asked: &A,
    ) -> Result<B, Error> {
        let body = self.post(None, path, asked).await?;
        serde_json::from_slice(&body).map_err(|error| Error::Answer(error.to_string()))
    }

    /// Posts a call whose answer is empty, to one replica or to the Service.
    ///
    /// # Errors
    /// If it is not taken.
    pub async fn tell<A: Serialize + Sync>(&self, replica: Option<&str>, path: &str, said: &A) -> Result<(), Error> {
        self.post(replica, path, said).await.map(drop)
    }

    /// Gets a path of the Service: the head of the answer, and its body as it comes.
    ///
    /// # Errors
    /// If the answer is none of success.
    pub async fn get(&self, path: &str) -> Result<Response<Incoming>, Error> {
        self.send(None, Method::GET, path, Bytes::new()).await
    }

    /// Gets a path of the Service, and reads the answer.
    ///
    /// # Errors
    /// If there is none.
    pub async fn read<B: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<B, Error> {
        let body = whole(self.get(path).await?).await?;
        serde_json::from_slice(&body).map_err(|error| Error::Answer(error.to_string()))
    }

    async fn post<A: Serialize + Sync>(
        &self,
        replica: Option<&str>,
        path: &str,
        asked: &A,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let asked = serde_json::to_vec(asked).map_err(|error| Error::Answer(error.to_string()))?;
        whole(self.send(replica, Method::POST, path, asked.into()).await?).await
    }

    async fn send(
        &self,
        replica: Option<&str>,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Error> {
        let http = self.connections()?;
        let service = self.place.url.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let uri = Uri::builder().scheme("https").authority(replica.unwrap_or(service)).path_and_query(path).build();
        let uri = uri.map_err(|error| Error::Unreachable(error.to_string()))?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().insert(header::AUTHORIZATION, self.authorization()?);
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let response = http.request(request).await.map_err(|error| Error::Unreachable(chain(&error)))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::GONE => Err(Error::Gone),
            status if status.is_client_error() => {
                let body = whole(response).await?;
                let CallError { message, leader } = serde_json::from_slice(&body).map_err(|_| Error::Status(status))?;
                Err(Error::Refused { status, message, leader })
            }
            status => {
                // This replica cannot, and would be asked again and again: a new connection may lead to another one.
                *self.kept() = None;
                Err(Error::Status(status))
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<(Vec<u8>, Connections)>> {
        self.http.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn authorization(&self) -> Result<HeaderValue, Error> {
        let path = &self.place.token;
        let file = |why: String| Error::File { path: path.clone(), why };
        let token = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| file(error.to_string()))?);
        let mut value = HeaderValue::from_str(&Zeroizing::new(format!("Bearer {}", token.trim())))
            .map_err(|_| file("it holds no token".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn connections(&self) -> Result<Connections, Error> {
        let path = &self.place.ca;
        let file = |why: String| Error::File { path: path.clone(), why };
        let pem = std::fs::read(path).map_err(|error| file(error.to_string()))?;
        let mut known = self.kept();
        if let Some((made_with, http)) = &*known
            && *made_with == pem
        {
            return Ok(http.clone());
        }
        let host = self.place.url.host().unwrap_or_default();
        let http = connections(&pem, host).map_err(file)?;
        *known = Some((pem, http.clone()));
        Ok(http)
    }
}

/// Connections to anything that proves, by one of these authorities, to be `host`: replicas too, whatever their address.
///
/// # Errors
/// If the authorities' certificates are none.
pub fn connections(pem: &[u8], host: &str) -> Result<Connections, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("it holds no certificate".to_owned());
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
    tcp.set_connect_timeout(Some(std::time::Duration::from_secs(3)));
    let http = Http::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_only(true)
        .http2_initial_max_send_streams(MAX_CONCURRENT_STREAMS as usize)
        .http2_keep_alive_interval(std::time::Duration::from_secs(10))
        .http2_keep_alive_timeout(std::time::Duration::from_secs(10))
        .http2_keep_alive_while_idle(true)
        .build(connector.wrap_connector(tcp));
    Ok(http)
}

async fn whole(response: Response<Incoming>) -> Result<Zeroizing<Vec<u8>>, Error> {
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| Error::Answer(error.to_string()))?;
    Ok(Zeroizing::new(body.to_bytes().into()))
}

/// An error with what it comes from: hyper's own words say only at which step it was.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("place", &self.place).finish_non_exhaustive()
    }
}
