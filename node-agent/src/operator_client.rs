//! The client of the operator's API: HTTPS with the operator's own CA and the agent's ServiceAccount token. Both files
//! are read for each call, because both are rotated. New connections are limited in their rate.

mod connect_limiter;
mod https;
#[cfg(test)]
pub(crate) mod test_operator;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use podmeta_agent_api::calls::CallError;
use podmeta_metadata::secret::JsonErrorPosition;
use podmeta_metadata::workload::MAX_WORKLOAD_BYTES;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

#[cfg(test)]
use connect_limiter::CONNECT_BURST;
use connect_limiter::ConnectLimiter;
use https::limited_https_client;
pub use https::{OperatorHttpsClient, https_client};

/// Longest response in bytes: a list of 250 pods of the largest size, with their addresses.
const MAX_RESPONSE_BYTES: usize = 256 * MAX_WORKLOAD_BYTES;

/// The address of the operator and the files to authenticate both sides.
#[derive(Clone, Debug)]
pub struct OperatorEndpoint {
    /// The Service, such as `https://podmeta-operator.podmeta-system.svc:8443`.
    pub url: Uri,
    /// The certificates of the operator's CAs, in PEM.
    pub ca: PathBuf,
    /// The agent's ServiceAccount token.
    pub token: PathBuf,
}

/// A client of the operator. Its connections belong to the runtime that calls it.
pub struct OperatorClient {
    endpoint: OperatorEndpoint,
    connect_limiter: ConnectLimiter,
    https: Mutex<CurrentHttps>,
}

/// The HTTPS client that calls use.
#[derive(Default)]
struct CurrentHttps {
    /// The client, and the CA file that it was built with. `None` after its connections were dropped.
    client: Option<(Vec<u8>, OperatorHttpsClient)>,
    /// Increases with each client, so that a call that failed does not drop a newer client.
    number: u64,
}

/// The files of the endpoint.
struct EndpointFiles {
    ca: Vec<u8>,
    authorization: HeaderValue,
}

/// Error of a failed call.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The CA or token file cannot be used.
    #[error("cannot use {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Reason why it cannot be used.
        reason: String,
    },
    /// The connection failed.
    #[error("cannot reach the operator: {0}")]
    Unreachable(String),
    /// The operator did not respond in time.
    #[error("the operator did not respond in time")]
    Timeout,
    /// The operator rejected the call with a 4xx status.
    #[error("the operator rejected the call: {message}")]
    Rejected {
        /// The status code.
        status: StatusCode,
        /// The reason.
        message: String,
        /// The address of the leader, if this replica does not lead.
        leader: Option<String>,
    },
    /// The watch cannot continue from this resource version (410).
    #[error("resource version expired")]
    VersionExpired,
    /// The replica cannot serve the call now.
    #[error("the operator responded {0}")]
    Status(StatusCode),
    /// The response cannot be parsed or is too long.
    #[error("invalid response of the operator: {0}")]
    InvalidResponse(String),
}

impl OperatorError {
    /// Returns the error of a response that is not the expected JSON. It contains no value of it, which may be secret.
    pub(crate) fn invalid_json(error: &serde_json::Error) -> Self {
        Self::InvalidResponse(JsonErrorPosition::from(error).to_string())
    }
}

impl OperatorClient {
    /// Creates a client. It connects on the first call.
    #[must_use]
    pub fn new(endpoint: OperatorEndpoint) -> Arc<Self> {
        Arc::new(Self { endpoint, connect_limiter: ConnectLimiter::default(), https: Mutex::default() })
    }

    /// Posts a request to the Service and parses the response. If there is no response before `deadline`, the next call uses
    /// a new connection: a replica that stopped may not have closed this one.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn call<A: Serialize + Sync, B: for<'de> Deserialize<'de>>(
        &self,
        path: &str,
        request: &A,
        deadline: Instant,
    ) -> Result<B, OperatorError> {
        let number = self.next_number();
        let Ok(body) = timeout_at(deadline, self.post_body(None, path, request)).await else {
            self.change_replica(number);
            return Err(OperatorError::Timeout);
        };
        let body = body?;
        serde_json::from_slice(&body).map_err(|error| OperatorError::invalid_json(&error))
    }

    /// Posts a request to one replica, or to the Service if `replica` is `None`. Ignores the response body.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn post<A: Serialize + Sync>(
        &self,
        replica: Option<&str>,
        path: &str,
        request: &A,
    ) -> Result<(), OperatorError> {
        self.post_body(replica, path, request).await.map(drop)
    }

    /// Gets a path of the Service. Returns the response with its unread body.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn get(&self, path: &str) -> Result<Response<Incoming>, OperatorError> {
        self.send(None, Method::GET, path, Bytes::new()).await
    }

    /// Gets a path of the Service and parses the JSON of the response.
    ///
    /// # Errors
    /// If the call fails, the status is not a success, or the body is not valid.
    pub async fn get_json<B: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<B, OperatorError> {
        let body = read_body(self.get(path).await?).await?;
        serde_json::from_slice(&body).map_err(|error| OperatorError::invalid_json(&error))
    }

    async fn post_body<A: Serialize + Sync>(
        &self,
        replica: Option<&str>,
        path: &str,
        request: &A,
    ) -> Result<Zeroizing<Vec<u8>>, OperatorError> {
        let request = serde_json::to_vec(request).map_err(|error| OperatorError::InvalidResponse(error.to_string()))?;
        read_body(self.send(replica, Method::POST, path, request.into()).await?).await
    }

    async fn send(
        &self,
        replica: Option<&str>,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, OperatorError> {
        let files = self.endpoint.read_files().await?;
        let (https, number) = self.https_client(files.ca)?;
        let service = self.endpoint.url.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let uri = Uri::builder().scheme("https").authority(replica.unwrap_or(service)).path_and_query(path).build();
        let uri = uri.map_err(|error| OperatorError::Unreachable(error.to_string()))?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().insert(header::AUTHORIZATION, files.authorization);
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let response = https.request(request).await;
        let response = response.map_err(|error| OperatorError::Unreachable(with_sources(&error)))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::GONE => Err(OperatorError::VersionExpired),
            status if status.is_client_error() => {
                let body = read_body(response).await?;
                let CallError { message, leader } =
                    serde_json::from_slice(&body).map_err(|_| OperatorError::Status(status))?;
                Err(OperatorError::Rejected { status, message, leader })
            }
            status => {
                self.change_replica(number);
                Err(OperatorError::Status(status))
            }
        }
    }

    /// Returns the number of the client that the next call uses.
    fn next_number(&self) -> u64 {
        let current = self.lock_https();
        current.number + u64::from(current.client.is_none())
    }

    fn lock_https(&self) -> MutexGuard<'_, CurrentHttps> {
        self.https.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the connections of the client with this number: a new one may lead to another replica. Keeps them if a new
    /// connection would have to wait.
    fn change_replica(&self, number: u64) {
        let mut current = self.lock_https();
        if current.number == number && current.client.is_some() && self.connect_limiter.is_free(Instant::now()) {
            *current = CurrentHttps { client: None, number: number + 1 };
        }
    }

    /// Returns the HTTPS client and its number. Builds a new one if the CA file has changed.
    fn https_client(&self, ca: Vec<u8>) -> Result<(OperatorHttpsClient, u64), OperatorError> {
        let mut current = self.lock_https();
        if let Some((built_with, https)) = &current.client
            && *built_with == ca
        {
            return Ok((https.clone(), current.number));
        }
        let host = self.endpoint.url.host().unwrap_or_default();
        let https = limited_https_client(&ca, host, self.connect_limiter.clone());
        let https = https.map_err(|reason| OperatorError::File { path: self.endpoint.ca.clone(), reason })?;
        let number = current.number + 1;
        *current = CurrentHttps { client: Some((ca, https.clone())), number };
        Ok((https, number))
    }
}

impl OperatorEndpoint {
    /// Reads the files on a blocking thread.
    async fn read_files(&self) -> Result<EndpointFiles, OperatorError> {
        let (ca, token) = (self.ca.clone(), self.token.clone());
        let read = spawn_blocking(move || {
            let pem = std::fs::read(&ca).map_err(|error| file_error(&ca, error.to_string()))?;
            Ok(EndpointFiles { ca: pem, authorization: read_authorization(&token)? })
        });
        read.await.unwrap_or_else(|error| Err(file_error(&self.token, error.to_string())))
    }
}

fn read_authorization(path: &Path) -> Result<HeaderValue, OperatorError> {
    let token = std::fs::read_to_string(path).map_err(|error| file_error(path, error.to_string()))?;
    let token = Zeroizing::new(token);
    let mut value = HeaderValue::from_str(&Zeroizing::new(format!("Bearer {}", token.trim())))
        .map_err(|_| file_error(path, "it does not contain a token".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn file_error(path: &Path, reason: String) -> OperatorError {
    OperatorError::File { path: path.to_owned(), reason }
}

async fn read_body(response: Response<Incoming>) -> Result<Zeroizing<Vec<u8>>, OperatorError> {
    let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES).collect().await;
    let body = body.map_err(|error| OperatorError::InvalidResponse(error.to_string()))?;
    Ok(Zeroizing::new(body.to_bytes().into()))
}

/// Formats an error with all its sources, because hyper's own message names only the step that failed.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl std::fmt::Debug for OperatorClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorClient").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
