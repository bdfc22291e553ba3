//! Who asks: the agent of one node, or nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::Response;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};

use super::{Api, later, refuse};
use crate::connections::Peer;
use crate::metrics::Refused;
use crate::reviewer::{Bearer, Refusal};

/// How often one node's agent is worth an event, and for how long it must go on: this replica may hear of a pod a moment
/// after the one that the agent watches.
const EVERY: Duration = Duration::from_secs(60);
const GOES_ON: Duration = Duration::from_secs(5);

/// An agent whose pod is there now.
#[derive(Debug)]
pub(super) struct Agent(pub(super) Bearer);

impl FromRequestParts<Arc<Api>> for Agent {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Response> {
        let bearer = of(parts, api).await;
        if let (Ok(_), Some(peer)) = (&bearer, parts.extensions.get::<Peer>()) {
            peer.prove();
        }
        match bearer {
            Ok(_) if !*api.shared.synced().borrow() => Err(later("this replica has not read the cluster yet")),
            Ok(bearer) if api.shared.world().is_on(&bearer.node, &bearer.pod) => Ok(Self(bearer)),
            Ok(bearer) => {
                tracing::info!(node = bearer.node, pod = %bearer.pod, "an agent's pod is gone, or not known here yet; it is told to come again");
                Err(later("this agent's own pod is gone, or not known here yet"))
            }
            Err(Refusal::Unavailable(why)) => {
                tracing::warn!(why, "an agent's token could not be reviewed; the agent is told to come again");
                Err(later("the API server cannot review the token now"))
            }
            Err(refusal) => {
                api.shared.metrics.refused(Refused::Token);
                tracing::warn!(path = parts.uri.path(), why = %refusal, "a request was refused: it is no node agent's");
                Err(refuse(StatusCode::UNAUTHORIZED, refusal))
            }
        }
    }
}

async fn of(parts: &Parts, api: &Api) -> Result<Bearer, Refusal> {
    let header = parts.headers.get(header::AUTHORIZATION).and_then(|header| header.to_str().ok());
    let token = header.and_then(|header| header.strip_prefix("Bearer ")).filter(|token| !token.is_empty());
    let token = token.ok_or(Refusal::NoToken)?;
    let from = parts.extensions.get::<Peer>().map(|peer| peer.address);
    api.reviewer.bearer(token, from).await
}

/// Tells of agents that asked for what is not theirs.
pub(super) struct Refusals {
    recorder: Recorder,
    seen: Mutex<Seen>,
}

impl Refusals {
    pub(super) fn new(recorder: Recorder) -> Self {
        Self { recorder, seen: Mutex::default() }
    }

    /// An event on the node, if it goes on; a line in the log each time.
    pub(super) fn tell(&self, node: &str, what: &str) {
        tracing::warn!(
            node,
            what,
            "an agent asked for what is not its own; if this goes on, look at what runs on that node"
        );
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.is_worth_an_event(node, Instant::now()) {
            return;
        }
        let event = Event {
            type_: EventType::Warning,
            reason: "AgentRefused".to_owned(),
            note: Some(what.to_owned()),
            action: "Serve".to_owned(),
            secondary: None,
        };
        let node = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            // What the kubelet says too, so that `kubectl describe node` finds it.
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        };
        let recorder = self.recorder.clone();
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &node).await {
                tracing::warn!(%error, "an event could not be written");
            }
        });
    }
}

/// By node, when the first of some refusals was, and whether it was told.
#[derive(Debug, Default)]
struct Seen(HashMap<String, (Instant, bool)>);

impl Seen {
    fn is_worth_an_event(&mut self, node: &str, now: Instant) -> bool {
        self.0.retain(|_, (first, _)| now.duration_since(*first) < EVERY);
        let (first, told) = self.0.entry(node.to_owned()).or_insert((now, false));
        now.duration_since(*first) >= GOES_ON && !std::mem::replace(told, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_that_go_on_are_an_event_a_minute_for_each_node_and_a_passing_one_is_none() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let mut told = |node, second| seen.is_worth_an_event(node, start + Duration::from_secs(second));
        let at: Vec<u64> = (0..130).filter(|second| told("a", *second)).collect();
        assert_eq!(at, [5, 65, 125]);
        assert!(!told("b", 130));
        assert!(!told("b", 200), "the next one is a first one again");
    }
}
