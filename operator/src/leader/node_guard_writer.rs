//! Writes the condition `podmeta.dev/Guarded` of nodes, and an event when it changes. Only the leader runs it.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::cluster::object::MaybeObject;
use crate::cluster::{ApiTimeout, FIELD_MANAGER, events};
use crate::model::node_guard::{AgentAccount, GUARDED, GuardedNode, GuardedReason};
use crate::model::status::ConditionStatus;
use crate::model::update::StateUpdate;
use crate::reconcile::SharedState;

/// Interval of checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Minimum interval of writes of one node, also after a failure. A state that changes all the time causes few writes.
const MIN_WRITE_INTERVAL: Duration = Duration::from_secs(10);

/// The time that a new leader waits for reports before it writes that a node has none. Agents report every 12 to 25 seconds.
const NEW_LEADER_GRACE: Duration = Duration::from_secs(30);

/// Maximum number of concurrent writes.
const MAX_CONCURRENT_WRITES: usize = 8;

/// The timeout of one API request.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// The writer.
pub struct NodeGuardWriter {
    shared: Arc<SharedState>,
    updates_tx: mpsc::Sender<StateUpdate>,
    client: Client,
    recorder: Recorder,
    agents: AgentAccount,
}

impl NodeGuardWriter {
    /// Creates a writer.
    #[must_use]
    pub fn new(
        shared: Arc<SharedState>,
        updates_tx: mpsc::Sender<StateUpdate>,
        client: Client,
        recorder: Recorder,
        agents: AgentAccount,
    ) -> Self {
        Self { shared, updates_tx, client, recorder, agents }
    }

    /// Writes conditions while this replica is the leader. Returns when `stop` is cancelled or the elector ends.
    pub async fn run(self, mut is_leader: watch::Receiver<bool>, stop: CancellationToken) {
        let run = async {
            while is_leader.wait_for(|is_leader| *is_leader).await.is_ok() {
                tokio::select! {
                    () = self.lead() => {}
                    _ = is_leader.wait_for(|is_leader| !*is_leader) => {}
                }
                self.shared.metrics.set_guarded_nodes(&[]);
            }
        };
        stop.run_until_cancelled(run).await;
    }

    async fn lead(&self) {
        let started = Instant::now();
        // The times of the last writes, by node.
        let mut written = HashMap::<String, Instant>::new();
        let mut ticks = interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let mut nodes = self.shared.read().guarded_nodes(&self.agents, now);
            let statuses = nodes.iter().map(|node| node.reason.status()).collect::<Vec<_>>();
            self.shared.metrics.set_guarded_nodes(&statuses);
            written.retain(|_, time| now.duration_since(*time) < MIN_WRITE_INTERVAL);
            let is_new_leader = now.duration_since(started) <= NEW_LEADER_GRACE;
            nodes.retain(|node| {
                let waits_for_report = is_new_leader && node.reason == GuardedReason::NoReport;
                node.has_changed() && !waits_for_report && !written.contains_key(&node.name)
            });
            written.extend(nodes.iter().map(|node| (node.name.clone(), now)));
            self.write_all(nodes).await;
        }
    }

    /// Writes the conditions of nodes. Failures share one log line: an API server that rejects one write rejects all of them.
    async fn write_all(&self, nodes: Vec<GuardedNode>) {
        let write = async |node: GuardedNode| {
            let result = self.write(&node).await;
            result.err().map(|error| (node.name, error))
        };
        let writes = stream::iter(nodes).map(write).buffer_unordered(MAX_CONCURRENT_WRITES);
        let failures = writes.filter_map(std::future::ready).collect::<Vec<_>>().await;
        if let Some((node, error)) = failures.first() {
            tracing::warn!(
                node,
                count = failures.len(),
                error = format!("{error:#}"),
                "cannot write the condition podmeta.dev/Guarded; retrying. `node` is one of `count` nodes"
            );
        }
    }

    /// Writes the condition of a node, and an event.
    async fn write(&self, node: &GuardedNode) -> Result<()> {
        let now = Timestamp::now();
        let condition = node.next(now);
        // The API server rejects the patch if the object has another UID: the node was replaced.
        let body = json!({"metadata": {"uid": node.uid}, "status": {"conditions": [{
            "type": GUARDED,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "lastHeartbeatTime": to_seconds(now),
            "lastTransitionTime": to_seconds(condition.last_transition),
        }]}});
        let api: Api<MaybeObject<Node>> = Api::all(self.client.clone());
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        // A strategic merge patch changes the condition of this type and no other one.
        let body = Patch::Strategic(&body);
        let written = tokio::time::timeout(API_TIMEOUT, api.patch_status(&node.name, &params, &body)).await;
        match written.map_err(|_| ApiTimeout)? {
            Ok(_) => {}
            // The node was deleted.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let update = StateUpdate::GuardedWritten { node: node.name.clone(), uid: node.uid.clone(), condition };
        self.updates_tx.send(update).await.context("the reconcile task has ended")?;
        if node.needs_event() {
            events::publish(&self.recorder, to_event(node), &events::node_reference(&node.name)).await;
        }
        Ok(())
    }
}

/// Formats a time as the API server does: without fractions of a second.
fn to_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn to_event(node: &GuardedNode) -> Event {
    let type_ = match node.reason.status() {
        ConditionStatus::True => EventType::Normal,
        ConditionStatus::False | ConditionStatus::Unknown => EventType::Warning,
    };
    Event {
        type_,
        reason: node.reason.as_str().to_owned(),
        note: Some(node.message.clone()),
        action: "Reconcile".to_owned(),
        secondary: None,
    }
}
