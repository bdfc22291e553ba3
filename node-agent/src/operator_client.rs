//! The client of the operator's API: HTTPS with the operator's own CA and the agent's ServiceAccount token. Both files
//! are read for each call, because both are rotated.

mod https;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use podmeta_agent_api::calls::CallError;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use https::{HttpsClient, https_client};

/// Longest response in bytes: a list of 1,000 pods with 16 KiB of user data each.
const MAX_RESPONSE_BYTES: usize = 32 * 1024 * 1024;

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
    /// The HTTPS client, and the CA file that it was built with.
    https: Mutex<Option<(Vec<u8>, HttpsClient)>>,
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

impl OperatorClient {
    /// Creates a client. It connects on the first call.
    #[must_use]
    pub fn new(endpoint: OperatorEndpoint) -> Arc<Self> {
        Arc::new(Self { endpoint, https: Mutex::new(None) })
    }

    /// Posts a request to the Service and parses the response.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn call<A: Serialize + Sync, B: for<'de> Deserialize<'de>>(
        &self,
        path: &str,
        request: &A,
    ) -> Result<B, OperatorError> {
        let body = self.post_body(None, path, request).await?;
        serde_json::from_slice(&body).map_err(|error| OperatorError::InvalidResponse(error.to_string()))
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

    /// Gets a path of the Service and parses the response.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn get_json<B: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<B, OperatorError> {
        let body = read_body(self.get(path).await?).await?;
        serde_json::from_slice(&body).map_err(|error| OperatorError::InvalidResponse(error.to_string()))
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
        let https = self.https_client()?;
        let service = self.endpoint.url.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let uri = Uri::builder().scheme("https").authority(replica.unwrap_or(service)).path_and_query(path).build();
        let uri = uri.map_err(|error| OperatorError::Unreachable(error.to_string()))?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().insert(header::AUTHORIZATION, self.authorization()?);
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
                // Drop the connection: a new one may lead to another replica.
                *self.lock_https() = None;
                Err(OperatorError::Status(status))
            }
        }
    }

    fn lock_https(&self) -> MutexGuard<'_, Option<(Vec<u8>, HttpsClient)>> {
        self.https.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn authorization(&self) -> Result<HeaderValue, OperatorError> {
        let path = &self.endpoint.token;
        let file_error = |reason: String| OperatorError::File { path: path.clone(), reason };
        let token = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| file_error(error.to_string()))?);
        let mut value = HeaderValue::from_str(&Zeroizing::new(format!("Bearer {}", token.trim())))
            .map_err(|_| file_error("it does not contain a token".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Returns the HTTPS client. Builds a new one if the CA file has changed.
    fn https_client(&self) -> Result<HttpsClient, OperatorError> {
        let path = &self.endpoint.ca;
        let file_error = |reason: String| OperatorError::File { path: path.clone(), reason };
        let pem = std::fs::read(path).map_err(|error| file_error(error.to_string()))?;
        let mut current = self.lock_https();
        if let Some((built_with, https)) = &*current
            && *built_with == pem
        {
            return Ok(https.clone());
        }
        let host = self.endpoint.url.host().unwrap_or_default();
        let https = https_client(&pem, host).map_err(file_error)?;
        *current = Some((pem, https.clone()));
        Ok(https)
    }
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
