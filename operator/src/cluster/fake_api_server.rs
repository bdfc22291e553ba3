//! A Kubernetes client for tests. The test responds to its requests.

use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tower_test::mock::{self, Handle, SendResponse};

/// The time that a test waits for a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// The API server of a test.
pub(crate) struct FakeApiServer(Handle<Request<Body>, Response<Body>>);

/// A request that waits for a response.
pub(crate) struct FakeRequest {
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Value,
    respond: SendResponse<Response<Body>>,
}

impl FakeApiServer {
    pub(crate) fn new() -> (Client, Self) {
        let (service, handle) = mock::pair::<Request<Body>, Response<Body>>();
        (Client::new(service, "default"), Self(handle))
    }

    /// Waits for the next request, which must have this method and path.
    pub(crate) async fn expect(&mut self, method: Method, path: &str) -> FakeRequest {
        let (request, respond) = self.next_request().await.unwrap_or_else(|| panic!("no request {method} {path}"));
        assert_eq!((request.method(), request.uri().path()), (&method, path));
        FakeRequest::read(request, respond).await
    }

    /// Waits for the next request.
    pub(crate) async fn expect_any(&mut self) -> FakeRequest {
        let (request, respond) = self.next_request().await.expect("no request");
        FakeRequest::read(request, respond).await
    }

    async fn next_request(&mut self) -> Option<(Request<Body>, SendResponse<Response<Body>>)> {
        let request = tokio::time::timeout(REQUEST_TIMEOUT, self.0.next_request()).await.ok()?;
        Some(request.expect("the client was dropped"))
    }

    /// Asserts that there is no request for this time.
    pub(crate) async fn expect_none(&mut self, duration: Duration) {
        let request = tokio::time::timeout(duration, self.0.next_request()).await;
        if let Ok(Some((request, _))) = request {
            panic!("unexpected request {} {}", request.method(), request.uri());
        }
    }
}

impl FakeRequest {
    async fn read(request: Request<Body>, respond: SendResponse<Response<Body>>) -> Self {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self {
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
            respond,
        }
    }

    /// Ends the connection without a response.
    pub(crate) fn disconnect(self) {
        self.respond.send_error("the connection was reset");
    }

    pub(crate) fn respond(self, object: &Value) {
        self.send(StatusCode::OK, object.to_string());
    }

    /// Responds with the events of a watch, then ends the watch.
    pub(crate) fn respond_events(self, events: &[Value]) {
        self.send(StatusCode::OK, events.iter().map(|event| format!("{event}\n")).collect());
    }

    pub(crate) fn respond_error(self, status: StatusCode) {
        self.respond_status(status, "a test error");
    }

    /// Responds with an error that has this message.
    pub(crate) fn respond_status(self, status: StatusCode, message: &str) {
        let code = status.as_u16();
        let reason = status.canonical_reason().unwrap_or_default().replace(' ', "");
        let body = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "reason": reason, "message": message, "code": code,
        });
        self.send(status, body.to_string());
    }

    fn send(self, status: StatusCode, body: String) {
        let body = Body::from(body.into_bytes());
        self.respond.send_response(Response::builder().status(status).body(body).unwrap());
    }
}
