//! Lists the node's pods, then watches them. Retries with backoff and jitter.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::time::{Instant, sleep, timeout};

use crate::operator_client::OperatorError;
use crate::serve::NodeState;
use crate::serve::sync::events::EventDecoder;
use crate::serve::sync::progress::SyncProgress;
use crate::serve::sync::{OperatorApi, jittered};

/// Longest time without a response or a frame. The operator sends a bookmark at least every 20 s.
const WATCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Retry delay after a stable watch. Each further failure doubles it, so the first retry after the start waits 2 seconds.
const MIN_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Longest retry delay. All delays are reduced by up to half at random.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(15);

/// A watch that lasted longer than this resets the retry delay.
const STABLE_WATCH: Duration = Duration::from_secs(10);

/// Lists and watches the pods until the task is cancelled. Calls `set_ready` when the readiness changes.
pub(in crate::serve) async fn follow<A: OperatorApi>(
    api: Arc<A>,
    node: Arc<NodeState>,
    set_ready: impl Fn(bool) + Send + Sync,
) -> Infallible {
    let (mut delay, mut progress) = (MIN_RETRY_DELAY, SyncProgress::new(set_ready));
    loop {
        let started = Instant::now();
        let result = list_and_watch(&*api, &node, &mut progress).await;
        progress.end_attempt(&result);
        match result {
            Ok(()) => tracing::debug!("the operator ended the watch; reconnecting"),
            Err(OperatorError::VersionExpired) => {
                tracing::info!("watch expired (410); relisting");
                node.request_list();
                // A 410 is not a failure, so the watch restarts immediately unless the list fails too.
                let listed = list(&*api, &node, &mut progress).await;
                progress.end_attempt(&listed);
                if listed.is_ok() {
                    continue;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot watch the operator; retrying. Known pods are served the last state, unknown pods get 503");
            }
        }
        delay = if started.elapsed() > STABLE_WATCH { MIN_RETRY_DELAY } else { (delay * 2).min(MAX_RETRY_DELAY) };
        sleep(jittered(delay)).await;
    }
}

async fn list_and_watch<A: OperatorApi>(
    api: &A,
    node: &NodeState,
    progress: &mut SyncProgress<impl Fn(bool)>,
) -> Result<(), OperatorError> {
    if node.version().is_none() {
        list(api, node, progress).await?;
    }
    let Some(version) = node.version() else { return Ok(()) };
    let watch = timeout(WATCH_TIMEOUT, api.watch(&version)).await;
    let mut body = watch.unwrap_or(Err(OperatorError::Timeout))?;
    progress.record_watch();
    let mut decoder = EventDecoder::default();
    loop {
        let frame = timeout(WATCH_TIMEOUT, body.frame()).await.map_err(|_| OperatorError::Timeout)?;
        let Some(frame) = frame else { return Ok(()) };
        let Ok(data) = frame?.into_data() else { continue };
        match decoder.push(&data) {
            Ok(events) if events.is_empty() => {}
            Ok(events) => {
                node.apply_events(events);
                progress.record_advance();
            }
            Err(error) => {
                // The same version would send the same event again.
                node.request_list();
                return Err(error);
            }
        }
    }
}

async fn list<A: OperatorApi>(
    api: &A,
    node: &NodeState,
    progress: &mut SyncProgress<impl Fn(bool)>,
) -> Result<(), OperatorError> {
    let list = timeout(WATCH_TIMEOUT, api.list()).await.unwrap_or(Err(OperatorError::Timeout))?;
    node.apply_list(list);
    progress.record_advance();
    Ok(())
}
