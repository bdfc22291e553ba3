//! Authenticates the agent of a request.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::Response;
use tokio::time::Instant;

use super::{Api, error_response, retry_later_response};
use crate::agents::connections::PeerConnection;
use crate::agents::token_review::{AgentIdentity, AuthError};
use crate::metrics::RejectedReason;

/// An authenticated agent. Its node exists, and its own pod is bound to that node.
#[derive(Debug)]
pub(super) struct AuthenticatedAgent(pub(super) AgentIdentity);

impl FromRequestParts<Arc<Api>> for AuthenticatedAgent {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Response> {
        let agent = match authenticate(parts, api).await {
            Ok(agent) => agent,
            Err(AuthError::Unavailable(error)) => {
                if let Some(suppressed) = admit_rejection(api) {
                    tracing::warn!(
                        error,
                        suppressed,
                        "cannot review the token of an agent; the agent must retry later (503)"
                    );
                }
                return Err(retry_later_response("the API server cannot review the token"));
            }
            Err(error) => {
                api.shared.metrics.count_rejected(RejectedReason::Token);
                if let Some(suppressed) = admit_rejection(api) {
                    let peer = peer_address(parts).map(tracing::field::display);
                    tracing::warn!(
                        request_path = parts.uri.path(),
                        peer,
                        %error,
                        suppressed,
                        "rejecting a request (401): not authenticated; if the peer is a node agent, check its ServiceAccount token"
                    );
                }
                return Err(error_response(StatusCode::UNAUTHORIZED, error));
            }
        };
        if let Some(peer) = parts.extensions.get::<PeerConnection>() {
            peer.set_authenticated();
        }
        if !*api.shared.synced().borrow() {
            return Err(retry_later_response("this replica has not read the cluster yet"));
        }
        if !api.shared.read().is_bound(&agent.node, &agent.pod) {
            tracing::info!(
                node = agent.node,
                agent_pod_uid = %agent.pod,
                "the agent's own pod or node is deleted or not known yet; the agent must retry later (503)"
            );
            return Err(retry_later_response(
                "the agent's own pod or node is deleted or not known to this replica yet",
            ));
        }
        Ok(Self(agent))
    }
}

async fn authenticate(parts: &Parts, api: &Api) -> Result<AgentIdentity, AuthError> {
    let header = parts.headers.get(header::AUTHORIZATION).and_then(|header| header.to_str().ok());
    let token = header.and_then(|header| header.strip_prefix("Bearer ")).filter(|token| !token.is_empty());
    api.reviewer.authenticate(token.ok_or(AuthError::NoToken)?, peer_address(parts)).await
}

fn peer_address(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<PeerConnection>().map(|peer| peer.address)
}

/// Returns the number of suppressed lines, or `None` if a rejected request must not be logged now.
fn admit_rejection(api: &Api) -> Option<u64> {
    api.rejection_log.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now())
}
