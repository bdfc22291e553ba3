//! `GET /v1/workloads`: a list, or a stream of what changed since. A stream holds no queue: each time its agent can take
//! more it is given what is now, so an agent that reads slowly costs nothing and misses nothing.

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
use podmeta_agent_api::{Change, Event, ResourceVersion};
use serde::Deserialize;
use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;

use super::agent::Agent;
use super::{Api, refuse};
use crate::feed::Sent;
use crate::metrics::Watching;
use crate::reconcile::Shared;
use crate::reviewer::Bearer;

/// How often a stream says that it is still there.
const BOOKMARK: Duration = Duration::from_secs(20);

/// How many changes are said at a time: the next are copied when the agent has taken these, however many agents there are.
const CHANGES: usize = 8;

/// How long a stream goes on before the agent must show its token again. Each node's is a little different, so that they
/// do not all come at once.
const LIFE: Duration = Duration::from_secs(240);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Asked {
    #[serde(default)]
    watch: Option<String>,
    #[serde(default)]
    resource_version: Option<String>,
}

pub(super) async fn workloads(State(api): State<Arc<Api>>, agent: Agent, Query(asked): Query<Asked>) -> Response {
    let Agent(bearer) = agent;
    let watch = asked.watch.as_deref().is_some_and(|watch| watch != "0" && watch != "false");
    if !watch {
        let list = api.shared.world().feed().list(&bearer.node);
        return Json(list).into_response();
    }
    let version = asked.resource_version.unwrap_or_default().parse::<ResourceVersion>();
    let version = match version {
        Ok(version) => version,
        Err(malformed) => return refuse(StatusCode::BAD_REQUEST, malformed),
    };
    if let Err(gone) = api.shared.world().feed().since(&bearer.node, &version, 0) {
        return refuse(StatusCode::GONE, gone);
    }
    let changes = api.shared.changes(&bearer.node);
    let spread = bearer.node.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 60;
    let watching = Stream {
        _counted: api.shared.metrics.agent(),
        shared: Arc::clone(&api.shared),
        end: bearer.until.min(Instant::now() + LIFE + Duration::from_secs(spread)).into(),
        bearer,
        version,
        changes,
        said: Instant::now(),
        stop: api.stop.clone(),
    };
    let lines = stream::unfold(watching, Stream::next);
    ([(header::CONTENT_TYPE, "application/json;stream=watch")], Body::from_stream(lines)).into_response()
}

struct Stream {
    _counted: Watching,
    shared: Arc<Shared>,
    bearer: Bearer,
    version: ResourceVersion,
    changes: Receiver<Instant>,
    said: Instant,
    end: tokio::time::Instant,
    stop: CancellationToken,
}

impl Stream {
    /// The next lines, when there are some and the agent can take them.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            if tokio::time::Instant::now() >= self.end || self.stop.is_cancelled() {
                return None;
            }
            // Before looking, so that what changes meanwhile wakes it again.
            let changed = *self.changes.borrow_and_update();
            let events = {
                let world = self.shared.world();
                // An agent that is gone is told nothing more, whoever has its connection.
                world.is_on(&self.bearer.node, &self.bearer.pod).then_some(())?;
                world.feed().since(&self.bearer.node, &self.version, CHANGES)
            };
            // An agent that is too far behind comes again, and is told to list.
            let mut events = events.ok()?;
            if events.is_empty() && self.said.elapsed() >= BOOKMARK {
                events.push(Event { resource_version: self.version.clone(), change: Change::Bookmark });
            }
            if let Some(last) = events.last() {
                if events.iter().any(|event| event.change != Change::Bookmark) {
                    self.shared.metrics.sent_after(changed.elapsed());
                }
                self.version = last.resource_version.clone();
                self.said = Instant::now();
                return Some((Ok(lines(&events)), self));
            }
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = tokio::time::sleep(BOOKMARK) => {}
                () = tokio::time::sleep_until(self.end) => return None,
                () = self.stop.cancelled() => return None,
            }
        }
    }
}

fn lines(events: &[Event<Sent>]) -> Bytes {
    let mut lines = Vec::new();
    for event in events {
        match serde_json::to_writer(&mut lines, event) {
            Ok(()) => lines.push(b'\n'),
            Err(error) => tracing::error!(%error, "a change has no form in JSON; this is a mistake of podmeta's"),
        }
    }
    lines.into()
}
