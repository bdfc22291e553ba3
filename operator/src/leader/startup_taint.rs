//! Removes the startup taint `podmeta.dev/not-ready` from nodes that are ready. Only the leader runs it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::node_patch::{self, MAX_CONCURRENT_PATCHES, PATCH_TIMEOUT};
use crate::cluster::ApiTimeout;
use crate::cluster::object::MaybeObject;
use crate::model::startup_taint::{STARTUP_TAINT, TaintedNode};
use crate::reconcile::SharedState;

/// Interval of checks. A new node waits at most this time after the report that it is ready.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The first and the maximum interval of patches of one node. It doubles while the node keeps the taint: patches fail, or another
/// program adds the taint again.
const MIN_PATCH_INTERVAL: Duration = Duration::from_secs(10);
const MAX_PATCH_INTERVAL: Duration = Duration::from_secs(60);

/// Number of outdated patches of one node after which a failure is logged.
const LOGGED_OUTDATED_PATCHES: u32 = 3;

/// Removes the taint until `stop` is cancelled. A replica that is not the leader has no reports, so it finds no node.
pub async fn run(shared: Arc<SharedState>, client: Client, stop: CancellationToken) {
    let api: Api<MaybeObject<Node>> = Api::all(client);
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut attempts = HashMap::<String, Attempts>::new();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let now = Instant::now();
        let mut nodes = shared.read().ready_tainted_nodes(now);
        attempts.retain(|_, attempts| now.duration_since(attempts.last) < 2 * MAX_PATCH_INTERVAL);
        nodes.retain(|node| attempts.get(&node.name).is_none_or(|attempts| attempts.is_due(now)));
        for node in &nodes {
            let attempts = attempts.entry(node.name.clone()).or_insert(Attempts { last: now, count: 0, outdated: 0 });
            (attempts.last, attempts.count) = (now, attempts.count.saturating_add(1));
        }
        let remove = async |node: TaintedNode| (remove(&api, &node).await, node.name);
        let results = stream::iter(nodes).map(remove).buffer_unordered(MAX_CONCURRENT_PATCHES).collect::<Vec<_>>();
        let Some(results) = stop.run_until_cancelled(results).await else { return };
        let mut failures = Vec::new();
        for (result, node) in results {
            match result {
                Ok(Removal::Removed) => tracing::info!(node, taint = STARTUP_TAINT, "removed the startup taint"),
                Ok(Removal::Outdated) => {
                    let Some(attempts) = attempts.get_mut(&node) else { continue };
                    attempts.outdated += 1;
                    if attempts.outdated == LOGGED_OUTDATED_PATCHES {
                        failures.push((
                            node,
                            anyhow!("the taints of the node keep changing, or the API server rejects the patch"),
                        ));
                    }
                }
                Err(error) => failures.push((node, error)),
            }
        }
        // Failures share one log line, because most of them have the same cause.
        if let Some((node, error)) = failures.first() {
            let (count, error) = (failures.len(), format!("{error:#}"));
            tracing::warn!(
                node,
                count,
                error,
                "cannot remove the startup taint; retrying. `node` is one of `count` nodes"
            );
        }
    }
}

/// The patches of one node.
#[derive(Debug)]
struct Attempts {
    last: Instant,
    /// Number of patches. It starts again after two minutes without a patch.
    count: u32,
    /// Number of these patches that failed because the node or its taints had changed.
    outdated: u32,
}

impl Attempts {
    fn is_due(&self, now: Instant) -> bool {
        let doublings = self.count.saturating_sub(1).min(8);
        now.duration_since(self.last) >= (MIN_PATCH_INTERVAL * 2_u32.pow(doublings)).min(MAX_PATCH_INTERVAL)
    }
}

/// The result of a request.
#[derive(Debug, PartialEq, Eq)]
enum Removal {
    /// The taint was removed.
    Removed,
    /// The taints have changed, or the node was deleted. The watch returns the change.
    Outdated,
}

async fn remove(api: &Api<MaybeObject<Node>>, node: &TaintedNode) -> Result<Removal> {
    let patch = Patch::Json::<()>(serde_json::from_value(json_patch(node))?);
    let patched = tokio::time::timeout(PATCH_TIMEOUT, api.patch(&node.name, &node_patch::params(), &patch)).await;
    match patched.map_err(|_| ApiTimeout)? {
        Ok(_) => Ok(Removal::Removed),
        // 422: a test of the patch failed.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => Ok(Removal::Outdated),
        Err(error) => Err(error.into()),
    }
}

/// Returns the JSON patch. It tests the UID of the node and the key of each taint first, so it never removes another taint.
/// The last taint is removed first: a removal changes the indexes of the taints after it.
fn json_patch(node: &TaintedNode) -> Value {
    let is_same_object = json!({"op": "test", "path": "/metadata/uid", "value": node.uid});
    let removals = node.indexes.iter().rev().flat_map(|index| {
        [
            json!({"op": "test", "path": format!("/spec/taints/{index}/key"), "value": STARTUP_TAINT}),
            json!({"op": "remove", "path": format!("/spec/taints/{index}")}),
        ]
    });
    std::iter::once(is_same_object).chain(removals).collect()
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use podmeta_agent_api::calls::Report;
    use podmeta_metadata::node_guard::NodeGuardState;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::cluster::fake_api_server::FakeApiServer;
    use crate::model::update::StateUpdate;
    use crate::reconcile::fixture;

    const N1: &str = "/api/v1/nodes/n1";

    /// Starts the task of a leader. Node n1 has the startup taint with two effects, and another taint between them.
    async fn start() -> (FakeApiServer, mpsc::Sender<StateUpdate>) {
        let (client, server) = FakeApiServer::new();
        let (shared, updates_tx) = fixture::start(fixture::synced_reconciler());
        updates_tx.send(StateUpdate::Leadership(true)).await.unwrap();
        updates_tx.send(node(&[STARTUP_TAINT, "other", STARTUP_TAINT])).await.unwrap();
        tokio::spawn(run(shared, client, CancellationToken::new()));
        (server, updates_tx)
    }

    fn node(taints: &[&str]) -> StateUpdate {
        let taints = taints.iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect::<Vec<_>>();
        let node = json!({"metadata": {"name": "n1", "uid": "uid-1"}, "spec": {"taints": taints}});
        fixture::node_update(&serde_json::from_value(node).unwrap())
    }

    async fn report(updates_tx: &mpsc::Sender<StateUpdate>, guard: NodeGuardState) {
        let (recorded_tx, recorded) = oneshot::channel();
        let report = Report { guard, ..Report::default() };
        let update = StateUpdate::Report { node: "n1".into(), report, received: Instant::now(), recorded: recorded_tx };
        updates_tx.send(update).await.unwrap();
        assert!(recorded.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_taint_of_podmeta_is_removed_from_a_ready_node() {
        let (mut server, updates_tx) = start().await;
        report(&updates_tx, NodeGuardState::Starting).await;
        server.expect_none(CHECK_INTERVAL * 4).await;
        report(&updates_tx, NodeGuardState::InPlace).await;
        let patch = server.expect(Method::PATCH, N1).await;
        assert!(patch.query.contains("fieldManager=podmeta-operator"), "{}", patch.query);
        let expected = json!([
            {"op": "test", "path": "/metadata/uid", "value": "uid-1"},
            {"op": "test", "path": "/spec/taints/2/key", "value": "podmeta.dev/not-ready"},
            {"op": "remove", "path": "/spec/taints/2"},
            {"op": "test", "path": "/spec/taints/0/key", "value": "podmeta.dev/not-ready"},
            {"op": "remove", "path": "/spec/taints/0"},
        ]);
        assert_eq!(patch.body, expected);
        updates_tx.send(node(&["other"])).await.unwrap();
        fixture::flush(&updates_tx).await;
        patch.respond(&json!({"metadata": {"name": "n1"}}));
        server.expect_none(CHECK_INTERVAL * 4).await;
    }

    #[tokio::test(start_paused = true)]
    async fn removal_is_retried_after_a_conflict_or_a_failure() {
        let (mut server, updates_tx) = start().await;
        report(&updates_tx, NodeGuardState::InPlace).await;
        for status in [StatusCode::UNPROCESSABLE_ENTITY, StatusCode::FORBIDDEN] {
            server.expect(Method::PATCH, N1).await.respond_error(status);
        }
        server.expect(Method::PATCH, N1).await.respond(&json!({"metadata": {"name": "n1"}}));
    }

    #[tokio::test(start_paused = true)]
    async fn interval_of_patches_of_a_node_grows_to_a_minute() {
        let (mut server, updates_tx) = start().await;
        report(&updates_tx, NodeGuardState::InPlace).await;
        server.expect(Method::PATCH, N1).await.respond_error(StatusCode::UNPROCESSABLE_ENTITY);
        for (seconds, status) in [(10, Some(StatusCode::FORBIDDEN)), (20, None), (40, None), (60, None), (60, None)] {
            let last = Instant::now();
            // The agent reports every 8 seconds, because a report expires.
            while last.elapsed() + Duration::from_secs(10) < Duration::from_secs(seconds) {
                server.expect_none(Duration::from_secs(8)).await;
                report(&updates_tx, NodeGuardState::InPlace).await;
            }
            let patch = server.expect(Method::PATCH, N1).await;
            let interval = last.elapsed() + CHECK_INTERVAL;
            assert!(interval >= Duration::from_secs(seconds), "{interval:?}");
            assert!(interval <= Duration::from_secs(seconds) + 3 * CHECK_INTERVAL, "{interval:?}");
            match status {
                Some(status) => patch.respond_error(status),
                // Another program adds the taint again.
                None => patch.respond(&json!({"metadata": {"name": "n1"}})),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn replica_that_is_not_the_leader_removes_nothing() {
        let (mut server, updates_tx) = start().await;
        report(&updates_tx, NodeGuardState::Starting).await;
        report(&updates_tx, NodeGuardState::InPlace).await;
        server.expect(Method::PATCH, N1).await.respond_error(StatusCode::FORBIDDEN);
        updates_tx.send(StateUpdate::Leadership(false)).await.unwrap();
        fixture::flush(&updates_tx).await;
        server.expect_none(CHECK_INTERVAL * 4).await;
    }
}
