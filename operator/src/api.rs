//! What agents ask, over HTTPS. Which node an agent is on comes from its token alone, and a pod that is not bound to that
//! node now is refused, whatever is asked for it.

mod agent;
mod calls;
mod watch;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use kube::runtime::events::Recorder;
use podmeta_agent_api::WORKLOADS;
use podmeta_agent_api::calls::{CREDENTIALS, DOCUMENT, REPORTS, Refused, SECRETS};
use podmeta_metadata::signature::Signer;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::lease::Leadership;
use crate::reconcile::Shared;
use crate::reviewer::Reviewer;
use crate::turns::Turns;
use agent::Refusals;

/// The longest body of a call, in bytes: a report of 1,000 pods is a fifth of it.
const MAX_BODY: usize = 1024 * 1024;

/// What requests are answered from.
pub struct Api {
    shared: Arc<Shared>,
    reviewer: Reviewer,
    leadership: Leadership,
    signer: Arc<Signer>,
    /// Signatures take milliseconds of a processor each, so they take turns.
    signing: Semaphore,
    turns: Turns<String>,
    refusals: Refusals,
    stop: CancellationToken,
}

impl Api {
    /// An API that answers from a world. Its streams end when `stop` is cancelled.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        reviewer: Reviewer,
        leadership: Leadership,
        signer: Signer,
        recorder: Recorder,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (signer, signing, refusals) = (Arc::new(signer), Semaphore::new(1), Refusals::new(recorder));
        Arc::new(Self { shared, reviewer, leadership, signer, signing, turns: Turns::default(), refusals, stop })
    }

    /// The routes.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route(WORKLOADS, get(watch::workloads))
            .route(CREDENTIALS, post(calls::credentials))
            .route(DOCUMENT, post(calls::document))
            .route(SECRETS, post(calls::secrets))
            .route(REPORTS, post(calls::reports))
            .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
            .with_state(self)
    }
}

fn refuse(status: StatusCode, message: impl std::fmt::Display) -> Response {
    (status, Json(Refused { message: message.to_string(), leader: None })).into_response()
}

/// Later, for the moment in which this replica does not know enough yet.
fn later(message: &str) -> Response {
    let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, message);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
