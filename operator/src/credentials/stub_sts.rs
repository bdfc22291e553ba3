//! A stub of the clouds' STS on a loopback port. It is not a cloud: a test decides each response from the request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use http::{HeaderMap, StatusCode, Uri};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The request ID of every response. AWS sends it in this header.
pub(crate) const REQUEST_ID: &str = "r-1";

/// A request to the stub.
#[derive(Debug)]
pub(crate) struct StubRequest {
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: HeaderMap,
    pub(crate) form: BTreeMap<String, String>,
}

/// The stub. It stops on drop.
pub(crate) struct StubSts {
    /// The URL.
    pub(crate) url: String,
    calls: Arc<AtomicUsize>,
    _stop: DropGuard,
}

impl StubSts {
    /// Starts the stub. `respond` returns status and body of each response.
    pub(crate) async fn start(respond: impl Fn(StubRequest) -> (u16, String) + Clone + Send + Sync + 'static) -> Self {
        Self::start_with_silence(move |request| Some(respond(request))).await
    }

    /// Starts a stub that never responds to a request for which `respond` returns `None`.
    pub(crate) async fn start_with_silence(
        respond: impl Fn(StubRequest) -> Option<(u16, String)> + Clone + Send + Sync + 'static,
    ) -> Self {
        let (calls, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let counted = Arc::clone(&calls);
        let handle = move |uri: Uri, headers: HeaderMap, body: Bytes| {
            counted.fetch_add(1, Ordering::Relaxed);
            let pairs = |text: &[u8]| form_urlencoded::parse(text).into_owned().collect();
            let query = pairs(uri.query().unwrap_or_default().as_bytes());
            let response = respond(StubRequest { query, headers, form: pairs(&body) });
            async {
                let Some((status, text)) = response else { return std::future::pending().await };
                (StatusCode::from_u16(status).unwrap(), [("x-amzn-requestid", REQUEST_ID)], text)
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            let serve = axum::serve(listener, Router::new().fallback(handle));
            serve.with_graceful_shutdown(stopped).await.unwrap();
        });
        Self { url, calls, _stop: stop.drop_guard() }
    }

    /// Returns the number of requests so far.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

/// Returns a successful response of an action of AWS STS. Its secrets contain `hunter`.
/// Source: AssumeRole and AssumeRoleWithWebIdentity, example responses.
pub(crate) fn aws_response(action: &str, expiration: &str) -> String {
    format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials>\
         <AccessKeyId>ASIA1</AccessKeyId><SecretAccessKey>hunter2</SecretAccessKey><SessionToken>hunter3</SessionToken>\
         <Expiration>{expiration}</Expiration></Credentials></{action}Result>\
         <ResponseMetadata><RequestId>{REQUEST_ID}</RequestId></ResponseMetadata></{action}Response>"
    )
}

/// Returns an error response of AWS STS.
pub(crate) fn aws_error(code: &str, message: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error><RequestId>{REQUEST_ID}</RequestId></ErrorResponse>"
    )
}
