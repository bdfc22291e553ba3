//! What an agent asks for one pod, and its reports.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use podmeta_agent_api::calls::{DocumentRequest, PodInDialect, PodsKey, Refused as Said, Report};
use podmeta_metadata::names::PodUid;

use super::agent::Agent;
use super::{Api, later, refuse};
use crate::broker::{self, Refusal};
use crate::index::Entry;
use crate::metrics::Refused;
use crate::world::World;

pub(super) async fn credentials(
    State(api): State<Arc<Api>>,
    agent: Agent,
    Json(asked): Json<PodInDialect>,
) -> Response {
    let given =
        about(&api, &agent, &asked.pod, |world, entry| broker::credentials(world, entry, &asked, Timestamp::now()));
    given.map_or_else(|refused| *refused, |given| Json(given).into_response())
}

pub(super) async fn secrets(State(api): State<Arc<Api>>, agent: Agent, Json(asked): Json<PodsKey>) -> Response {
    about(&api, &agent, &asked.pod, |world, entry| broker::user_data(world, entry, &asked.key))
        .map_or_else(|refused| *refused, |data| Json(data).into_response())
}

pub(super) async fn document(
    State(api): State<Arc<Api>>,
    agent: Agent,
    Json(asked): Json<DocumentRequest>,
) -> Response {
    let text = match about(&api, &agent, &asked.pod, |_, entry| broker::document(entry, &asked)) {
        Ok(text) => text,
        Err(refused) => return *refused,
    };
    // One at a time for each node, so that none keeps the others waiting.
    let own = api.turns.of(&agent.0.node);
    let _own_turn = own.lock().await;
    let Ok(_turn) = api.signing.acquire().await else { return later("this replica ends") };
    let signer = Arc::clone(&api.signer);
    match tokio::task::spawn_blocking(move || signer.sign(&text)).await {
        Ok(Ok(signed)) => Json(signed).into_response(),
        Ok(Err(error)) => {
            refuse(StatusCode::INTERNAL_SERVER_ERROR, format_args!("the document could not be signed: {error}"))
        }
        Err(error) => {
            refuse(StatusCode::INTERNAL_SERVER_ERROR, format_args!("the document could not be signed: {error}"))
        }
    }
}

pub(super) async fn reports(State(api): State<Arc<Api>>, agent: Agent, Json(report): Json<Report>) -> Response {
    if !api.shared.report(&api.leadership.leads, &agent.0.node, report) {
        let leader = api.leadership.address.borrow().clone();
        let said = Said { message: "another replica leads: report there".to_owned(), leader };
        return (StatusCode::MISDIRECTED_REQUEST, Json(said)).into_response();
    }
    StatusCode::NO_CONTENT.into_response()
}

/// What can be had for a pod of the agent's own node.
fn about<T>(
    api: &Api,
    agent: &Agent,
    pod: &PodUid,
    have: impl FnOnce(&World, &Entry) -> Result<T, Refusal>,
) -> Result<T, Box<Response>> {
    let node = &agent.0.node;
    let world = api.shared.world();
    let Some(entry) = world.pod_on(node, pod) else {
        drop(world);
        api.shared.metrics.refused(Refused::Pod);
        api.refusals.tell(node, &format!("the agent of this node asked for pod {pod}, which is not bound to it"));
        return Err(Box::new(refuse(StatusCode::FORBIDDEN, "no such pod is bound to this agent's node")));
    };
    let refused = |refusal| match refusal {
        Refusal::None(_) | Refusal::Missing(_) => refuse(StatusCode::NOT_FOUND, refusal),
        Refusal::Behind => later("this replica has not compiled that generation of the profile yet"),
        Refusal::Address => {
            api.shared.metrics.refused(Refused::Address);
            api.refusals.tell(node, &format!("the agent of this node named addresses that pod {pod} does not have"));
            refuse(StatusCode::FORBIDDEN, refusal)
        }
    };
    have(&world, entry).map_err(|refusal| Box::new(refused(refusal)))
}
