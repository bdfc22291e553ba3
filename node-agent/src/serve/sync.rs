//! Keeps the node in sync with the operator: follows its list and watch, reports to the leader, and saves the state.

mod events;
mod follow;
mod list;
#[cfg(test)]
mod mock;
mod progress;
mod report;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use podmeta_agent_api::calls::{REPORTS, Report};
use podmeta_agent_api::{ResourceVersion, WORKLOADS, WorkloadList};

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

/// Saves the state after each change.
pub(super) async fn save(file: StateFile, node: Arc<NodeState>, broker: Arc<OperatorBroker>) -> Infallible {
    let (mut pods, mut credentials) = (node.changes(), broker.changes());
    loop {
        if let Err(error) = file.write(&node.state()) {
            tracing::warn!(%error, "cannot save the state; a restart will need the operator");
        }
        tokio::select! {
            _ = pods.changed() => {}
            _ = credentials.changed() => {}
        }
        tokio::time::sleep(BATCH_DELAY).await;
    }
}

/// Returns a random time between half of `max` and `max`, so that the agents of many nodes do not call at once.
fn jittered(max: Duration) -> Duration {
    let mut byte = [0];
    if aws_lc_rs::rand::fill(&mut byte).is_err() {
        return max;
    }
    max / 2 + max.mul_f64(f64::from(byte[0]) / 512.0)
}
