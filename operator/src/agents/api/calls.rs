//! Handlers of requests for one pod, and of reports.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use podmeta_agent_api::calls::{
    CallError, CredentialsRequest, CredentialsResponse, DocumentRequest, Report, UserDataRequest,
};
use podmeta_metadata::names::PodUid;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::authentication::AuthenticatedAgent;
use super::{Api, error_response, retry_later_response};
use crate::agents::broker::{self, BrokerError, RoleSource};
use crate::metrics::RejectedReason;
use crate::model::compiled_pod::CompiledPod;
use crate::model::state::OperatorState;
use crate::model::update::StateUpdate;

/// The time that a request waits for a cloud. The node's other credentials requests wait for it, so it is short.
const MAX_CLOUD_WAIT: Duration = Duration::from_millis(25);

pub(super) async fn credentials(
    State(api): State<Arc<Api>>,
    agent: AuthenticatedAgent,
    Json(request): Json<CredentialsRequest>,
) -> Response {
    let source = || {
        for_pod(&api, &agent, &request.pod, |state, pod| {
            broker::role_source(state, pod, &agent.0.node, &request, api.issuer.cluster(), Timestamp::now())
        })
    };
    let role = match source() {
        Ok(RoleSource::Ready(response)) => return Json(response).into_response(),
        Ok(RoleSource::Cloud(role)) => role,
        Err(error) => return *error,
    };
    // The call to the cloud continues if the request stops waiting.
    let issued = timeout(MAX_CLOUD_WAIT, api.issuer.issue((*role).clone())).await;
    let credentials = issued.map_or(CredentialsResponse::Pending, broker::to_response);
    // The pod may have been deleted, or have another role, since the call started.
    match source() {
        Ok(RoleSource::Cloud(current)) if current == role => Json(credentials).into_response(),
        Ok(RoleSource::Cloud(_) | RoleSource::Ready(_)) => retry_later_response("the role of the pod has changed"),
        Err(error) => *error,
    }
}

pub(super) async fn user_data(
    State(api): State<Arc<Api>>,
    agent: AuthenticatedAgent,
    Json(request): Json<UserDataRequest>,
) -> Response {
    for_pod(&api, &agent, &request.pod, |state, pod| broker::user_data(state, pod, &request.key))
        .map_or_else(|error| *error, |data| Json(data).into_response())
}

pub(super) async fn document(
    State(api): State<Arc<Api>>,
    agent: AuthenticatedAgent,
    Json(request): Json<DocumentRequest>,
) -> Response {
    let text = match for_pod(&api, &agent, &request.pod, |_, pod| broker::document(pod, &request)) {
        Ok(text) => text,
        Err(error) => return *error,
    };
    // One request of each node at a time, so that no node delays the others.
    let node_lock = api.node_locks.get(&agent.0.node);
    let _node_guard = node_lock.lock().await;
    let Ok(_slot) = api.signing_slot.acquire().await else {
        return retry_later_response("this replica is shutting down");
    };
    let signer = Arc::clone(&api.signer);
    let signed = tokio::task::spawn_blocking(move || signer.sign(&text)).await;
    let error = match signed {
        Ok(Ok(signed)) => return Json(signed).into_response(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::error!(pod_uid = %request.pod, error, "internal error: cannot sign an identity document; the agent gets 500: report this bug");
    error_response(StatusCode::INTERNAL_SERVER_ERROR, "internal error: cannot sign the document")
}

/// Records a report if this replica is the leader. The reconcile task decides that in the order of its updates, so no report
/// is kept after leadership was lost.
pub(super) async fn reports(
    State(api): State<Arc<Api>>,
    agent: AuthenticatedAgent,
    Json(report): Json<Report>,
) -> Response {
    if *api.leadership.is_leader.borrow() {
        let (recorded_tx, recorded) = oneshot::channel();
        let update =
            StateUpdate::Report { node: agent.0.node, report, received: Instant::now(), recorded: recorded_tx };
        if api.updates_tx.send(update).await.is_err() {
            return retry_later_response("this replica is shutting down");
        }
        match recorded.await {
            Ok(true) => return StatusCode::NO_CONTENT.into_response(),
            // The reconcile task does not know yet that this replica is the leader.
            Ok(false) if *api.leadership.is_leader.borrow() => {
                return retry_later_response("this replica has just become the leader");
            }
            Ok(false) => {}
            Err(_) => return retry_later_response("this replica is shutting down"),
        }
    }
    let leader = api.leadership.address.borrow().clone();
    let error = CallError { message: "this replica is not the leader".to_owned(), leader };
    (StatusCode::MISDIRECTED_REQUEST, Json(error)).into_response()
}

/// Calls `f` with a pod that is bound to the agent's node and has not ended.
fn for_pod<T>(
    api: &Api,
    agent: &AuthenticatedAgent,
    uid: &PodUid,
    f: impl FnOnce(&OperatorState, &CompiledPod) -> Result<T, BrokerError>,
) -> Result<T, Box<Response>> {
    let node = &agent.0.node;
    let state = api.shared.read();
    if state.has_ended(uid, Timestamp::now()) {
        drop(state);
        api.shared.metrics.count_rejected(RejectedReason::Pod);
        return Err(Box::new(error_response(StatusCode::FORBIDDEN, "the pod was deleted")));
    }
    let Some(pod) = state.pod_on_node(node, uid) else {
        drop(state);
        api.shared.metrics.count_rejected(RejectedReason::Pod);
        api.violations.report(node, &format!("the node's agent requested data of pod {uid}, which is not bound to it"));
        return Err(Box::new(error_response(StatusCode::FORBIDDEN, "the pod is not bound to the agent's node")));
    };
    let to_response = |error: BrokerError| match error {
        BrokerError::NotConfigured(_) | BrokerError::Unavailable(_) => error_response(StatusCode::NOT_FOUND, error),
        BrokerError::Behind => retry_later_response(error),
        BrokerError::Address => {
            api.shared.metrics.count_rejected(RejectedReason::Address);
            let violation =
                format!("the node's agent requested a document with addresses that pod {uid} does not have");
            api.violations.report(node, &violation);
            error_response(StatusCode::FORBIDDEN, error)
        }
    };
    f(&state, pod).map_err(|error| Box::new(to_response(error)))
}
