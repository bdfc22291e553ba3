use http::{Method, StatusCode};
use kube::runtime::events::Reporter;
use podmeta_agent_api::calls::Report;
use podmeta_metadata::node_guard::NodeGuardState;
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;

use super::*;
use crate::cluster::FIELD_MANAGER;
use crate::cluster::fake_api_server::{FakeApiServer, FakeRequest};
use crate::model::node_guard::{GuardedCondition, REPORT_EXPIRY};
use crate::reconcile::fixture;

const N1: &str = "/api/v1/nodes/n1/status";
const N2: &str = "/api/v1/nodes/n2/status";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

struct Leader {
    server: FakeApiServer,
    updates_tx: mpsc::Sender<StateUpdate>,
    is_leader_tx: watch::Sender<bool>,
    shared: Arc<SharedState>,
}

impl Leader {
    /// Starts a writer that leads. Nodes n1 and n2 have agents that have not reported.
    async fn start() -> Self {
        let (client, server) = FakeApiServer::new();
        let (shared, updates_tx) = fixture::start(fixture::synced_reconciler());
        let recorder = Recorder::new(client.clone(), Reporter { controller: FIELD_MANAGER.into(), instance: None });
        let (is_leader_tx, is_leader) = watch::channel(true);
        updates_tx.send(StateUpdate::Leadership(true)).await.unwrap();
        let agents = AgentAccount { namespace: "podmeta-system".to_owned(), name: "podmeta-agent".to_owned() };
        let writer = NodeGuardWriter::new(Arc::clone(&shared), updates_tx.clone(), client, recorder, agents);
        tokio::spawn(writer.run(is_leader, CancellationToken::new()));
        Self { server, updates_tx, is_leader_tx, shared }
    }

    async fn report(&self, node: &str, guard: NodeGuardState) {
        let (recorded_tx, recorded) = oneshot::channel();
        let report = Report { guard, ..Report::default() };
        let update = StateUpdate::Report { node: node.into(), report, received: Instant::now(), recorded: recorded_tx };
        self.updates_tx.send(update).await.unwrap();
        assert!(recorded.await.unwrap());
    }

    /// Waits for a write of a node's condition, and accepts it. Returns status and reason.
    async fn accept(&mut self, path: &str) -> (String, String) {
        let write = self.server.expect(Method::PATCH, path).await;
        let condition = condition(&write);
        write.respond(&json!({"metadata": {"name": "n"}}));
        condition
    }

    /// Waits for an event, and accepts it. Returns type and reason.
    async fn accept_event(&mut self) -> (String, String) {
        let event = self.server.expect(Method::POST, EVENTS).await;
        let text = |field: &str| event.body[field].as_str().unwrap().to_owned();
        let found = (text("type"), text("reason"));
        event.respond(&json!({}));
        found
    }
}

/// Returns status and reason of the only condition in a write.
fn condition(write: &FakeRequest) -> (String, String) {
    let [condition] = &write.body["status"]["conditions"].as_array().unwrap()[..] else { panic!("{}", write.body) };
    assert_eq!(condition["type"], GUARDED);
    let text = |field: &str| condition[field].as_str().unwrap().to_owned();
    (text("status"), text("reason"))
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

fn missing() -> NodeGuardState {
    NodeGuardState::GuardsMissing { message: "not permitted".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn condition_is_written_once_with_an_event() {
    let mut leader = Leader::start().await;
    leader.report("n1", NodeGuardState::InPlace).await;
    leader.report("n2", NodeGuardState::InPlace).await;
    // Both nodes are written at the same time, so their requests have no order.
    let mut requests = Vec::new();
    for _ in 0..4 {
        let request = leader.server.expect_any().await;
        if request.path == N1 {
            assert!(request.query.contains("fieldManager=podmeta-operator"), "{}", request.query);
            assert_eq!(request.body.as_object().unwrap().keys().collect::<Vec<_>>(), ["metadata", "status"]);
            assert_eq!(request.body["metadata"], json!({"uid": ""}), "the UID of the fixture");
            assert_eq!(condition(&request), pair("True", "GuardsInPlace"));
            let fields = &request.body["status"]["conditions"][0];
            assert!(fields["lastTransitionTime"].as_str().unwrap().ends_with('Z'), "{fields}");
        }
        requests.push(request.path.clone());
        request.respond(&json!({"metadata": {"name": "n"}}));
    }
    requests.sort();
    assert_eq!(requests, [N1, N2, EVENTS, EVENTS]);
    leader.server.expect_none(REPORT_EXPIRY / 2).await;
}

#[tokio::test(start_paused = true)]
async fn new_leader_waits_for_reports_before_it_writes_that_there_is_none() {
    let started = Instant::now();
    let mut leader = Leader::start().await;
    let mut written = Vec::new();
    for _ in 0..2 {
        let write = leader.server.expect_any().await;
        assert!(started.elapsed() >= REPORT_EXPIRY, "{:?}", started.elapsed());
        assert_eq!(condition(&write), pair("Unknown", "NoReport"));
        written.push(write.path.clone());
        write.respond(&json!({"metadata": {"name": "n"}}));
    }
    written.sort();
    assert_eq!(written, [N1, N2]);
    leader.server.expect_none(REPORT_EXPIRY).await;
}

#[tokio::test(start_paused = true)]
async fn change_is_written_with_an_event_of_its_type() {
    let mut leader = Leader::start().await;
    leader.report("n1", NodeGuardState::InPlace).await;
    assert_eq!(leader.accept(N1).await, pair("True", "GuardsInPlace"));
    assert_eq!(leader.accept_event().await, pair("Normal", "GuardsInPlace"));
    leader.report("n1", missing()).await;
    assert_eq!(leader.accept(N1).await, pair("False", "GuardsMissing"));
    assert_eq!(leader.accept_event().await, pair("Warning", "GuardsMissing"));
    leader.report("n1", NodeGuardState::Unknown).await;
    assert_eq!(leader.accept(N1).await, pair("Unknown", "LinkDaemonUnavailable"));
    assert_eq!(leader.accept_event().await, pair("Warning", "LinkDaemonUnavailable"));
}

#[tokio::test(start_paused = true)]
async fn node_is_written_at_most_every_10_seconds() {
    let mut leader = Leader::start().await;
    leader.report("n1", NodeGuardState::InPlace).await;
    leader.accept(N1).await;
    let first = Instant::now();
    leader.accept_event().await;
    leader.report("n1", missing()).await;
    leader.accept(N1).await;
    assert!(first.elapsed() + CHECK_INTERVAL >= MIN_WRITE_INTERVAL, "{:?}", first.elapsed());
}

#[tokio::test(start_paused = true)]
async fn write_that_failed_or_found_no_node_is_retried() {
    let mut leader = Leader::start().await;
    leader.report("n1", NodeGuardState::InPlace).await;
    leader.server.expect(Method::PATCH, N1).await.respond_error(StatusCode::FORBIDDEN);
    leader.server.expect(Method::PATCH, N1).await.respond_error(StatusCode::NOT_FOUND);
    assert_eq!(leader.accept(N1).await, pair("True", "GuardsInPlace"));
}

#[tokio::test(start_paused = true)]
async fn replica_that_lost_leadership_writes_nothing_and_counts_no_nodes() {
    let mut leader = Leader::start().await;
    let mut registry = Registry::default();
    leader.shared.metrics.register(&mut registry);
    let count = |status: &str| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let prefix = format!("podmeta_operator_guarded_nodes{{status=\"{status}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().to_owned()
    };
    leader.report("n1", NodeGuardState::InPlace).await;
    leader.accept(N1).await;
    leader.accept_event().await;
    assert_eq!((count("True"), count("False"), count("Unknown")), ("1".into(), "0".into(), "1".into()));
    leader.is_leader_tx.send_replace(false);
    leader.updates_tx.send(StateUpdate::Leadership(false)).await.unwrap();
    leader.server.expect_none(REPORT_EXPIRY * 2).await;
    assert_eq!((count("True"), count("Unknown")), ("0".into(), "0".into()));
}

fn guarded_node(known: Option<GuardedReason>, message: &str, reason: GuardedReason) -> GuardedNode {
    let known = known.map(|known| GuardedCondition {
        status: known.status().as_str().to_owned(),
        reason: known.as_str().to_owned(),
        message: String::new(),
        last_transition: Timestamp::UNIX_EPOCH,
    });
    GuardedNode { name: "n1".to_owned(), uid: String::new(), known, reason, message: message.to_owned() }
}

/// Returns the first second at which a node is due. The node was written at second 0 and has not changed since.
fn due_second(node: &GuardedNode) -> u64 {
    let start = Instant::now();
    let mut history = WriteHistory::new(start);
    history.written.insert(node.name.clone(), start);
    let mut seconds = 0..200;
    let due = seconds.find(|second| {
        let now = start + Duration::from_secs(*second);
        history.update(std::slice::from_ref(node), now);
        history.is_due(node, now)
    });
    due.unwrap()
}

#[test]
fn message_is_written_rarely_and_true_only_after_it_has_held() {
    use GuardedReason::{AddressTranslation, GuardsInPlace, GuardsMissing, LinksMissing, NoReport};
    assert_eq!(due_second(&guarded_node(Some(GuardsInPlace), "m", GuardsMissing)), 10);
    assert_eq!(due_second(&guarded_node(Some(LinksMissing), "m", LinksMissing)), 60);
    assert_eq!(due_second(&guarded_node(Some(LinksMissing), "m", GuardsInPlace)), 20);
    assert_eq!(due_second(&guarded_node(Some(LinksMissing), "m", AddressTranslation)), 20);
    assert_eq!(due_second(&guarded_node(None, "m", GuardsInPlace)), 10);
    assert_eq!(due_second(&guarded_node(Some(GuardsInPlace), "m", NoReport)), 75);
}

#[test]
fn true_waits_again_after_another_state() {
    let start = Instant::now();
    let mut history = WriteHistory::new(start);
    let in_place = guarded_node(Some(GuardedReason::LinksMissing), "m", GuardedReason::GuardsInPlace);
    let missing = guarded_node(Some(GuardedReason::LinksMissing), "", GuardedReason::LinksMissing);
    let second = |second| start + Duration::from_secs(second);
    history.update(std::slice::from_ref(&in_place), second(0));
    history.update(std::slice::from_ref(&missing), second(10));
    history.update(std::slice::from_ref(&in_place), second(12));
    assert!(!history.is_due(&in_place, second(31)));
    assert!(history.is_due(&in_place, second(32)));
}

#[tokio::test(start_paused = true)]
async fn check_writes_a_limited_number_of_nodes() {
    let mut leader = Leader::start().await;
    leader.is_leader_tx.send_replace(false);
    for index in 0..=MAX_WRITES_PER_CHECK {
        let node = json!({"metadata": {"name": format!("m{index}")}});
        leader.updates_tx.send(fixture::node_update(&serde_json::from_value(node).unwrap())).await.unwrap();
        leader.report(&format!("m{index}"), NodeGuardState::InPlace).await;
    }
    // One check finds all nodes.
    leader.is_leader_tx.send_replace(true);
    let mut are_writes = Vec::new();
    for _ in 0..2 * MAX_WRITES_PER_CHECK + 1 {
        let request = leader.server.expect_any().await;
        are_writes.push(request.path.starts_with("/api/v1/nodes/"));
        request.respond(&json!({"metadata": {"name": "n"}}));
    }
    let expected = [vec![true; MAX_WRITES_PER_CHECK], vec![false; MAX_WRITES_PER_CHECK], vec![true]].concat();
    assert_eq!(are_writes, expected, "events follow the writes of a check");
}

#[tokio::test(start_paused = true)]
async fn state_that_changed_while_other_writes_ran_is_not_written() {
    let mut leader = Leader::start().await;
    leader.is_leader_tx.send_replace(false);
    for index in 0..=MAX_CONCURRENT_PATCHES {
        let node = json!({"metadata": {"name": format!("m{index}")}});
        leader.updates_tx.send(fixture::node_update(&serde_json::from_value(node).unwrap())).await.unwrap();
        leader.report(&format!("m{index}"), NodeGuardState::InPlace).await;
    }
    // One check finds all nodes.
    leader.is_leader_tx.send_replace(true);
    let mut pending = Vec::new();
    for _ in 0..MAX_CONCURRENT_PATCHES {
        pending.push(leader.server.expect_any().await);
    }
    let mut names = (0..=MAX_CONCURRENT_PATCHES).map(|index| format!("m{index}"));
    let path = |name: &str| format!("/api/v1/nodes/{name}/status");
    let waiting = names.find(|name| pending.iter().all(|write| write.path != path(name))).unwrap();
    leader.report(&waiting, missing()).await;
    for write in pending {
        write.respond(&json!({"metadata": {"name": "n"}}));
    }
    let write = loop {
        let request = leader.server.expect_any().await;
        if request.path == path(&waiting) {
            break request;
        }
        request.respond(&json!({}));
    };
    assert_eq!(condition(&write), pair("False", "GuardsMissing"));
}
