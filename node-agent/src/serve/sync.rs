//! Keeps the node in sync with the operator: follows its list and watch, reports to the leader, and saves the state.

mod events;
mod follow;
mod list;
#[cfg(test)]
mod mock;
mod progress;
mod report;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use podmeta_agent_api::calls::{REPORTS, Report};
use podmeta_agent_api::{ResourceVersion, WORKLOADS, WorkloadList};
use tokio_util::sync::CancellationToken;

use crate::broker::OperatorBroker;
use crate::operator_client::{OperatorClient, OperatorError};
use crate::serve::{NodeState, StateFile};

pub(super) use follow::follow;
pub(super) use report::report;

/// Time for which changes are collected before they are reported or saved.
const BATCH_DELAY: Duration = Duration::from_millis(100);

/// The body of a watch response.
type WatchBody = UnsyncBoxBody<Bytes, OperatorError>;

/// The calls of the operator's API that keep a node in sync. Tests replace it.
pub(super) trait OperatorApi: Send + Sync + 'static {
    /// Lists the node's pods.
    fn list(&self) -> impl Future<Output = Result<WorkloadList, OperatorError>> + Send;

    /// Watches the node's pods from a resource version.
    fn watch(&self, from: &ResourceVersion) -> impl Future<Output = Result<WatchBody, OperatorError>> + Send;

    /// Reports to one replica, or to any replica if `replica` is `None`.
    fn report(&self, replica: Option<&str>, report: &Report) -> impl Future<Output = Result<(), OperatorError>> + Send;
}

impl OperatorApi for OperatorClient {
    async fn list(&self) -> Result<WorkloadList, OperatorError> {
        self.get_json(WORKLOADS).await.map(list::parse_items)
    }

    async fn watch(&self, from: &ResourceVersion) -> Result<WatchBody, OperatorError> {
        let response = self.get(&format!("{WORKLOADS}?watch=1&resourceVersion={from}")).await?;
        let body = response.into_body().map_err(|error| OperatorError::Unreachable(error.to_string()));
        Ok(body.boxed_unsync())
    }

    async fn report(&self, replica: Option<&str>, report: &Report) -> Result<(), OperatorError> {
        self.post(replica, REPORTS, report).await
    }
}

/// Saves the state after each change, until `stop` is cancelled. Then the file belongs to the next agent, whose state is
/// newer.
pub(super) async fn save(file: StateFile, node: Arc<NodeState>, broker: Arc<OperatorBroker>, stop: CancellationToken) {
    let (mut pods, mut credentials) = (node.changes(), broker.changes());
    while !stop.is_cancelled() {
        if let Err(error) = file.write(&node.state()) {
            tracing::warn!(file = %file.path().display(), %error, "cannot save the state: serving continues, but a restarted agent needs the operator");
        }
        let change = async {
            tokio::select! {
                _ = pods.changed() => {}
                _ = credentials.changed() => {}
            }
            tokio::time::sleep(BATCH_DELAY).await;
        };
        stop.run_until_cancelled(change).await;
    }
}

/// Returns a random time between half of `max` and `max`, so that the agents of many nodes do not call at the same time.
fn jittered(max: Duration) -> Duration {
    let mut byte = [0];
    if aws_lc_rs::rand::fill(&mut byte).is_err() {
        return max;
    }
    max / 2 + max.mul_f64(f64::from(byte[0]) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::SavedState;
    use crate::serve::fixture::{denied_item, list, node_state, saved_broker_state, unreachable_broker};

    #[tokio::test(start_paused = true)]
    async fn stopped_agent_does_not_overwrite_the_state_of_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::in_dir(directory.path());
        let (node, stop) = (node_state(SavedState::default()), CancellationToken::new());
        let broker = unreachable_broker(saved_broker_state(&[]));
        let saved = || file.read().unwrap().and_then(|state| state.resource_version).map(|version| version.to_string());
        let task = tokio::spawn(save(file.clone(), Arc::clone(&node), broker, stop.clone()));
        node.apply_list(list(1, vec![denied_item("a", "one")]));
        tokio::time::sleep(2 * BATCH_DELAY).await;
        assert_eq!(saved().as_deref(), Some("e1:1"));
        stop.cancel();
        file.write(&SavedState { resource_version: Some("e1:3".parse().unwrap()), ..SavedState::default() }).unwrap();
        node.apply_list(list(2, vec![denied_item("a", "two")]));
        tokio::time::timeout(10 * BATCH_DELAY, task).await.unwrap().unwrap();
        assert_eq!(saved().as_deref(), Some("e1:3"));
    }
}
