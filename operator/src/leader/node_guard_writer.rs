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
use kube::api::{Api, Patch};
use kube::runtime::events::{Event, EventType, Recorder};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::node_patch::{self, MAX_CONCURRENT_PATCHES, PATCH_TIMEOUT};
use crate::cluster::object::MaybeObject;
use crate::cluster::{ApiTimeout, events};
use crate::model::node_guard::{AgentAccount, GUARDED, GuardedNode, GuardedReason, REPORT_EXPIRY};
use crate::model::status::ConditionStatus;
use crate::model::update::StateUpdate;
use crate::reconcile::SharedState;

/// Interval of checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Minimum interval of writes of one node, also after a failure. A state that changes all the time causes few writes.
const MIN_WRITE_INTERVAL: Duration = Duration::from_secs(10);

/// Minimum interval of writes of one node that change only the message.
const MIN_MESSAGE_INTERVAL: Duration = Duration::from_secs(60);

/// The time for which guards must be in place before True replaces another status. Dampens a state that changes all the time.
const IN_PLACE_DELAY: Duration = Duration::from_secs(20);

/// Maximum number of writes per check. A check starts when all writes of the one before have ended.
const MAX_WRITES_PER_CHECK: usize = 64;

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
        let mut history = WriteHistory::new(Instant::now());
        let mut ticks = interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let mut nodes = self.shared.read().guarded_nodes(&self.agents, now);
            let statuses = nodes.iter().map(|node| node.reason.status()).collect::<Vec<_>>();
            self.shared.metrics.set_guarded_nodes(&statuses);
            history.update(&nodes, now);
            nodes.retain(|node| node.has_changed() && history.is_due(node, now));
            // Nodes that were not written for long come first.
            nodes.sort_by_key(|node| history.written.get(&node.name).copied());
            nodes.truncate(MAX_WRITES_PER_CHECK);
            let names = nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>();
            let outdated = self.write_all(nodes).await;
            let written = names.into_iter().filter(|name| !outdated.contains(name));
            history.written.extend(written.map(|name| (name, now)));
        }
    }

    /// Writes the conditions of nodes, then their events. Failures share one log line, because most of them have the same cause.
    /// Returns the names of the nodes whose state changed before their write. They were not written.
    async fn write_all(&self, nodes: Vec<GuardedNode>) -> Vec<String> {
        let write = async |node: GuardedNode| {
            let result = self.write(&node).await;
            (node, result)
        };
        let writes = stream::iter(nodes).map(write).buffer_unordered(MAX_CONCURRENT_PATCHES);
        let (mut failures, mut events, mut outdated) = (Vec::new(), Vec::new(), Vec::new());
        for (node, result) in writes.collect::<Vec<_>>().await {
            match result {
                Ok(Written::Changed) if node.needs_event() => events.push(node),
                Ok(Written::Changed | Written::Deleted) => {}
                Ok(Written::Outdated) => outdated.push(node.name),
                Err(error) => failures.push((node.name, error)),
            }
        }
        if let Some((node, error)) = failures.first() {
            tracing::warn!(
                node,
                count = failures.len(),
                error = format!("{error:#}"),
                "cannot write the condition podmeta.dev/Guarded; retrying. `node` is one of `count` nodes"
            );
        }
        let publish = async |node: GuardedNode| {
            events::publish(&self.recorder, to_event(&node), &events::node_reference(&node.name)).await;
        };
        stream::iter(events).map(publish).buffer_unordered(MAX_CONCURRENT_PATCHES).collect::<()>().await;
        outdated
    }

    /// Writes the condition of a node, unless its state changed since the check. A write can wait for earlier writes of the
    /// check: at most [`MAX_CONCURRENT_PATCHES`] run at the same time.
    async fn write(&self, node: &GuardedNode) -> Result<Written> {
        if self.shared.read().guarded_node(&node.name, &self.agents, Instant::now()).as_ref() != Some(node) {
            return Ok(Written::Outdated);
        }
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
        // A strategic merge patch changes the condition of this type and no other one.
        let body = Patch::Strategic(&body);
        let written =
            tokio::time::timeout(PATCH_TIMEOUT, api.patch_status(&node.name, &node_patch::params(), &body)).await;
        match written.map_err(|_| ApiTimeout)? {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Written::Deleted),
            Err(error) => return Err(error.into()),
        }
        let update = StateUpdate::GuardedWritten { node: node.name.clone(), uid: node.uid.clone(), condition };
        self.updates_tx.send(update).await.context("the reconcile task has ended")?;
        Ok(Written::Changed)
    }
}

/// The result of a write.
enum Written {
    /// Nothing was written: the state of the node is not that of the check.
    Outdated,
    /// The condition was written.
    Changed,
    /// The node was deleted.
    Deleted,
}

/// The history of the nodes in the term of a leader. It limits the writes.
#[derive(Debug)]
struct WriteHistory {
    started: Instant,
    /// The time of the last write of each node.
    written: HashMap<String, Instant>,
    /// The time since which the guards of each node are in place.
    in_place: HashMap<String, Instant>,
}

impl WriteHistory {
    fn new(started: Instant) -> Self {
        Self { started, written: HashMap::new(), in_place: HashMap::new() }
    }

    /// Records the current states. `nodes` has every node.
    fn update(&mut self, nodes: &[GuardedNode], now: Instant) {
        let in_place = nodes.iter().filter(|node| node.reason.status() == ConditionStatus::True);
        let since = |name: &String| self.in_place.get(name).copied().unwrap_or(now);
        self.in_place = in_place.map(|node| (node.name.clone(), since(&node.name))).collect();
        self.written.retain(|_, time| now.duration_since(*time) < MIN_MESSAGE_INTERVAL);
    }

    /// Returns true if a changed node can be written now.
    fn is_due(&self, node: &GuardedNode, now: Instant) -> bool {
        // A new leader has no reports yet. If the node of the former leader crashed, agents need longer to find the new one.
        if node.reason == GuardedReason::NoReport && now.duration_since(self.started) < REPORT_EXPIRY {
            return false;
        }
        let interval = if node.changes_message_only() { MIN_MESSAGE_INTERVAL } else { MIN_WRITE_INTERVAL };
        if self.written.get(&node.name).is_some_and(|written| now.duration_since(*written) < interval) {
            return false;
        }
        let changes_status = node.known.as_ref().is_some_and(|known| known.status != node.reason.status().as_str());
        let since = self.in_place.get(&node.name);
        !changes_status || since.is_none_or(|since| now.duration_since(*since) >= IN_PLACE_DELAY)
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
