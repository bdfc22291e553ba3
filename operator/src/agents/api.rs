//! The request handlers of the agents' API. An agent's node comes from its token only. A request for a pod that is not
//! bound to that node is rejected.

mod authentication;
mod calls;
#[cfg(test)]
mod tests;
mod violations;
mod watch;

use std::sync::{Arc, Mutex};

use axum::Json;
use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use kube::runtime::events::Recorder;
use podmeta_agent_api::WORKLOADS;
use podmeta_agent_api::calls::{CREDENTIALS, CallError, DOCUMENT, REPORTS, USER_DATA};
use podmeta_metadata::signature::Signer;
use podmeta_service::log_throttle::LogThrottle;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::keyed_locks::KeyedLocks;
use super::token_review::TokenReviewer;
use crate::credentials::issuer::CredentialsIssuer;
use crate::leader::lease::Leadership;
use crate::model::update::StateUpdate;
use crate::reconcile::SharedState;
use violations::ViolationReporter;

/// The maximum size of a request body, in bytes. A report of 1,000 pods has about 200 KiB.
const MAX_BODY: usize = 1024 * 1024;

/// The dependencies of the handlers.
pub struct ApiContext {
    /// The state.
    pub shared: Arc<SharedState>,
    /// The queue of updates of the state.
    pub updates_tx: mpsc::Sender<StateUpdate>,
    /// Authenticates agents.
    pub reviewer: Arc<TokenReviewer>,
    /// True if this replica is the leader.
    pub leadership: Leadership,
    /// Issues credentials of cloud roles.
    pub issuer: Arc<CredentialsIssuer>,
    /// Signs identity documents.
    pub signer: Signer,
    /// Publishes events on nodes.
    pub recorder: Recorder,
    /// Ends watches.
    pub stop: CancellationToken,
}

/// The state of the handlers.
pub struct Api {
    shared: Arc<SharedState>,
    updates_tx: mpsc::Sender<StateUpdate>,
    reviewer: Arc<TokenReviewer>,
    leadership: Leadership,
    issuer: Arc<CredentialsIssuer>,
    signer: Arc<Signer>,
    /// A signature takes milliseconds of CPU time, so one is computed at a time.
    signing_slot: Semaphore,
    node_locks: KeyedLocks<String>,
    violations: ViolationReporter,
    /// Limits the log lines of requests that are not authenticated.
    rejection_log: Mutex<LogThrottle>,
    stop: CancellationToken,
}

impl Api {
    /// Creates the handlers.
    #[must_use]
    pub fn new(context: ApiContext) -> Arc<Self> {
        Arc::new(Self {
            shared: context.shared,
            updates_tx: context.updates_tx,
            reviewer: context.reviewer,
            leadership: context.leadership,
            issuer: context.issuer,
            signer: Arc::new(context.signer),
            signing_slot: Semaphore::new(1),
            node_locks: KeyedLocks::default(),
            violations: ViolationReporter::new(context.recorder),
            rejection_log: Mutex::default(),
            stop: context.stop,
        })
    }

    /// Returns the routes.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route(WORKLOADS, get(watch::workloads))
            .route(CREDENTIALS, post(calls::credentials))
            .route(DOCUMENT, post(calls::document))
            .route(USER_DATA, post(calls::user_data))
            .route(REPORTS, post(calls::reports))
            .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
            .with_state(self)
    }
}

fn error_response(status: StatusCode, message: impl std::fmt::Display) -> Response {
    (status, Json(CallError { message: message.to_string(), leader: None })).into_response()
}

/// Returns 503 with `Retry-After: 1`.
fn retry_later_response(message: impl std::fmt::Display) -> Response {
    let mut response = error_response(StatusCode::SERVICE_UNAVAILABLE, message);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
