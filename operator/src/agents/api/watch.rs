//! `GET /v1/workloads`: a list, or a watch of the changes since a list. A watch has no queue. It reads the feed each time
//! the agent can receive more, so a slow agent needs no memory and misses nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use podmeta_agent_api::{ResourceVersion, WatchChange, WatchEvent};
use serde::Deserialize;
use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;
use tracing::field::display;

use super::authentication::AuthenticatedAgent;
use super::{Api, error_response};
use crate::agents::token_review::AgentIdentity;
use crate::metrics::WatchGuard;
use crate::model::feed::SharedItem;
use crate::reconcile::SharedState;

/// The interval of bookmarks on a watch without changes.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(20);

/// The maximum number of changes that are copied before the agent has received them.
const MAX_CHANGES: usize = 8;

/// The minimum duration of a watch. Then the agent must authenticate again. [`watch_jitter`] is added.
const WATCH_DURATION: Duration = Duration::from_secs(240);

/// The maximum of [`watch_jitter`], in seconds.
const MAX_WATCH_JITTER: u64 = 60;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WorkloadsQuery {
    #[serde(default)]
    watch: Option<String>,
    #[serde(default)]
    resource_version: Option<String>,
}

pub(super) async fn workloads(
    State(api): State<Arc<Api>>,
    agent: AuthenticatedAgent,
    Query(query): Query<WorkloadsQuery>,
) -> Response {
    let AuthenticatedAgent(agent) = agent;
    let is_watch = query.watch.as_deref().is_some_and(|watch| watch != "0" && watch != "false");
    if !is_watch {
        let list = api.shared.read().feed().list(&agent.node);
        return Json(list).into_response();
    }
    let version = match query.resource_version.unwrap_or_default().parse::<ResourceVersion>() {
        Ok(version) => version,
        Err(error) => return error_response(StatusCode::BAD_REQUEST, error),
    };
    if let Err(expired) = api.shared.read().feed().since(&agent.node, &version, 0) {
        return error_response(StatusCode::GONE, expired);
    }
    let end = Instant::now() + WATCH_DURATION + watch_jitter(&agent.node);
    let watch = Watch {
        _guard: api.shared.metrics.count_watch(),
        shared: Arc::clone(&api.shared),
        node_changed: api.shared.watch_node(&agent.node),
        end: agent.expires.min(end.into()),
        agent,
        version,
        last_sent: Instant::now(),
        stop: api.stop.clone(),
    };
    let body = Body::from_stream(stream::unfold(watch, Watch::next));
    ([(header::CONTENT_TYPE, "application/json;stream=watch")], body).into_response()
}

/// Returns a duration that depends on the node, so that the agents do not all reconnect at the same time.
fn watch_jitter(node: &str) -> Duration {
    let hash = node.bytes().fold(0_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    Duration::from_secs(hash % MAX_WATCH_JITTER)
}

/// The watch of one agent.
struct Watch {
    _guard: WatchGuard,
    shared: Arc<SharedState>,
    agent: AgentIdentity,
    /// The version of the last event that was sent.
    version: ResourceVersion,
    node_changed: Receiver<Instant>,
    last_sent: Instant,
    end: tokio::time::Instant,
    stop: CancellationToken,
}

impl Watch {
    /// Waits for events and returns them as lines. Returns `None` at the end of the watch.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            if tokio::time::Instant::now() >= self.end || self.stop.is_cancelled() {
                return None;
            }
            // Read before the feed, so that a later change wakes the watch again.
            let changed = *self.node_changed.borrow_and_update();
            let events = {
                let state = self.shared.read();
                // The watch ends if the agent's own pod is deleted.
                state.is_bound(&self.agent.node, &self.agent.pod).then_some(())?;
                state.feed().since(&self.agent.node, &self.version, MAX_CHANGES)
            };
            // An agent whose version has expired reconnects and gets 410.
            let mut events = events.ok()?;
            if events.is_empty() && self.last_sent.elapsed() >= BOOKMARK_INTERVAL {
                events.push(WatchEvent { resource_version: self.version.clone(), change: WatchChange::Bookmark });
            }
            if let Some(last) = events.last() {
                if events.iter().any(|event| event.change != WatchChange::Bookmark) {
                    self.shared.metrics.record_watch_lag(changed.elapsed());
                }
                self.version = last.resource_version.clone();
                self.last_sent = Instant::now();
                return Some((Ok(to_lines(&events, &self.agent.node)), self));
            }
            tokio::select! {
                changed = self.node_changed.changed() => changed.ok()?,
                () = tokio::time::sleep(BOOKMARK_INTERVAL) => {}
                () = tokio::time::sleep_until(self.end) => return None,
                () = self.stop.cancelled() => return None,
            }
        }
    }
}

/// Serializes events. An event that cannot be serialized is logged and skipped.
fn to_lines(events: &[WatchEvent<SharedItem>], node: &str) -> Bytes {
    let mut lines = Vec::new();
    for event in events {
        let start = lines.len();
        match serde_json::to_writer(&mut lines, event) {
            Ok(()) => lines.push(b'\n'),
            Err(error) => {
                lines.truncate(start);
                let pod = match &event.change {
                    WatchChange::Added { object } | WatchChange::Modified { object } => Some(display(object.pod())),
                    WatchChange::Deleted { .. } | WatchChange::Bookmark => None,
                };
                tracing::error!(
                    node,
                    pod,
                    %error,
                    "internal error: cannot serialize the workload of a pod; the agent keeps its previous state: report this bug"
                );
            }
        }
    }
    lines.into()
}
