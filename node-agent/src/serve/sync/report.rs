//! Reports to the leading replica what the node serves.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use podmeta_agent_api::calls::Report;
use tokio::time::{sleep, timeout};

use crate::broker::OperatorBroker;
use crate::operator_client::OperatorError;
use crate::serve::NodeState;
use crate::serve::sync::{BATCH_DELAY, OperatorApi, jittered};

/// Interval of reports without a change. A new leader has no reports and waits 30 s for them.
const REPORT_INTERVAL: Duration = Duration::from_secs(25);

/// Timeout of one report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The time that the first report waits for the state of the guards. The link daemon is not called before the first list.
const FIRST_GUARD_TIMEOUT: Duration = Duration::from_secs(15);

/// Delay after a report that failed.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Reports after each change and at an interval. The first report waits up to 15 s until the link daemon was called: a report
/// without links would set the node's pods to pending each time that an agent starts.
pub(in crate::serve) async fn report<A: OperatorApi>(
    api: Arc<A>,
    node: Arc<NodeState>,
    broker: Arc<OperatorBroker>,
) -> Infallible {
    let (mut pods, mut credentials, mut findings) = (node.changes(), broker.changes(), node.findings());
    let (mut guard, mut links) = (node.guard(), node.link_changes());
    let mut leader = None;
    // The node has the sender, so this cannot fail. After the timeout the guard is unknown.
    drop(timeout(FIRST_GUARD_TIMEOUT, guard.wait_for(Option::is_some)).await);
    loop {
        let report = node.report(jiff::Timestamp::now().as_second());
        let sent = timeout(REPORT_TIMEOUT, send_report(&*api, &mut leader, &report)).await;
        let delay = match sent.unwrap_or(Err(OperatorError::Timeout)) {
            Ok(()) => REPORT_INTERVAL,
            Err(error) => {
                tracing::info!(%error, "cannot send the report of this node to the leader; statuses of profiles wait for it; retrying");
                leader = None;
                RETRY_DELAY
            }
        };
        tokio::select! {
            _ = pods.changed() => {}
            _ = credentials.changed() => {}
            _ = findings.changed() => {}
            _ = guard.changed() => {}
            _ = links.changed() => {}
            () = sleep(jittered(delay)) => {}
        }
        sleep(BATCH_DELAY).await;
    }
}

/// Sends a report to the last known leader. If it is unavailable, sends it to any replica. Follows one redirect to the
/// leader.
async fn send_report<A: OperatorApi>(
    api: &A,
    leader: &mut Option<String>,
    report: &Report,
) -> Result<(), OperatorError> {
    let mut sent = api.report(leader.as_deref(), report).await;
    if leader.is_some() && matches!(sent, Err(OperatorError::Unreachable(_) | OperatorError::Status(_))) {
        *leader = None;
        sent = api.report(None, report).await;
    }
    match sent {
        Err(OperatorError::Rejected { leader: Some(other), .. }) => {
            *leader = Some(other);
            api.report(leader.as_deref(), report).await
        }
        sent => sent,
    }
}
