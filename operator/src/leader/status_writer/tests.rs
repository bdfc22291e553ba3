use http::{Method, StatusCode};
use kube::runtime::events::Reporter;
use podmeta_agent_api::calls::{PodReport, ProfileGeneration, Report};
use serde_json::Value;

use super::*;
use crate::cluster::fake_api_server::{FakeApiServer, FakeRequest};
use crate::reconcile::fixture;

const STATUS: &str = "/apis/podmeta.dev/v1alpha1/namespaces/shop/metadataprofiles/web/status";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/shop/events";

/// A status writer that leads, after the given reports.
async fn start(reports: &[(&str, &str)]) -> (FakeApiServer, mpsc::Sender<StateUpdate>, watch::Sender<bool>) {
    let (client, server) = FakeApiServer::new();
    let (shared, updates_tx) = fixture::start(fixture::synced_reconciler());
    let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: None };
    let recorder = Recorder::new(client.clone(), reporter);
    let (is_leader_tx, is_leader) = watch::channel(true);
    let keys = ["accessKeyId", "secretAccessKey"].map(|key| (key.to_owned(), b"x".to_vec()));
    let data = Some(keys.into_iter().collect());
    updates_tx.send(StateUpdate::Secret { namespace: "shop".into(), name: "keys".into(), data }).await.unwrap();
    updates_tx.send(StateUpdate::Leadership(true)).await.unwrap();
    for (node, pod) in reports {
        report(&updates_tx, node, pod).await;
    }
    let writer = StatusWriter::new(shared, updates_tx.clone(), client, recorder);
    tokio::spawn(writer.run(is_leader, CancellationToken::new()));
    (server, updates_tx, is_leader_tx)
}

/// Reports that the agent of a node has generation 3 of the profile for a pod, which has a link.
async fn report(updates_tx: &mpsc::Sender<StateUpdate>, node: &str, pod: &str) {
    let profile = Some(ProfileGeneration { uid: "p1".into(), generation: 3 });
    let report = PodReport { profile, linked: Some(true), ..PodReport::default() };
    let report = Report { pods: [(pod.try_into().unwrap(), report)].into(), ..Report::default() };
    let (recorded_tx, recorded) = oneshot::channel();
    updates_tx
        .send(StateUpdate::Report { node: node.into(), report, received: Instant::now(), recorded: recorded_tx })
        .await
        .unwrap();
    assert!(recorded.await.unwrap());
}

/// Returns status and reason of a condition.
fn condition<'b>(body: &'b Value, kind: &str) -> (&'b str, &'b str) {
    let conditions = body["status"]["conditions"].as_array().unwrap();
    let condition = conditions.iter().find(|condition| condition["type"] == kind).unwrap();
    (condition["status"].as_str().unwrap(), condition["reason"].as_str().unwrap())
}

fn accept(request: FakeRequest) {
    let object = serde_json::json!({
        "apiVersion": podmeta_crds::crd::API_VERSION, "kind": "MetadataProfile",
        "metadata": {"namespace": "shop", "name": "web"}, "spec": {"dialects": ["ec2"]},
    });
    request.respond(&object);
}

#[tokio::test(start_paused = true)]
async fn changed_status_is_written_once_with_an_event() {
    let (mut server, _updates_tx, _is_leader) = start(&[("n1", "u1"), ("n2", "u2")]).await;
    let write = server.expect(Method::PATCH, STATUS).await;
    assert!(write.query.contains("fieldManager=podmeta-operator"), "{}", write.query);
    assert_eq!(write.body["metadata"]["uid"], "p1");
    assert_eq!(condition(&write.body, "Programmed"), ("True", "Programmed"));
    assert_eq!(write.body["status"]["matchedPods"], 2);
    accept(write);
    let event = server.expect(Method::POST, EVENTS).await;
    assert_eq!((&event.body["reason"], &event.body["type"]), (&"Programmed".into(), &"Normal".into()));
    event.respond_error(StatusCode::FORBIDDEN);
    server.expect_none(RESYNC_INTERVAL * 2).await;
}

#[tokio::test(start_paused = true)]
async fn failed_write_is_retried() {
    let (mut server, _updates_tx, _is_leader) = start(&[("n1", "u1"), ("n2", "u2")]).await;
    server.expect(Method::PATCH, STATUS).await.respond_error(StatusCode::FORBIDDEN);
    accept(server.expect(Method::PATCH, STATUS).await);
}

#[tokio::test(start_paused = true)]
async fn status_of_a_deleted_profile_is_not_retried() {
    let (mut server, _updates_tx, _is_leader) = start(&[("n1", "u1"), ("n2", "u2")]).await;
    server.expect(Method::PATCH, STATUS).await.respond_error(StatusCode::NOT_FOUND);
    server.expect_none(RESYNC_INTERVAL / 2).await;
}

#[tokio::test(start_paused = true)]
async fn new_leader_waits_for_reports_before_it_writes_pending() {
    let started = Instant::now();
    let (mut server, _updates_tx, _is_leader) = start(&[("n1", "u1")]).await;
    let write = server.expect(Method::PATCH, STATUS).await;
    assert!(started.elapsed() >= NEW_LEADER_GRACE);
    assert_eq!(condition(&write.body, "Programmed"), ("False", "Pending"));
    assert_eq!(write.body["status"]["pods"], serde_json::json!(["web-2"]));
}

#[tokio::test(start_paused = true)]
async fn replica_that_lost_leadership_writes_nothing() {
    let (mut server, updates_tx, is_leader_tx) = start(&[]).await;
    is_leader_tx.send_replace(false);
    updates_tx.send(StateUpdate::Leadership(false)).await.unwrap();
    server.expect_none(NEW_LEADER_GRACE * 2).await;
}
