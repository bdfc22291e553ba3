use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::cluster::fake_api_server::FakeApiServer;

const NAMESPACES: &str = "/api/v1/namespaces";
const NODES: &str = "/api/v1/nodes";

fn object(name: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name, "resourceVersion": "5"}})
}

/// A node whose heartbeat no `Timestamp` can hold.
fn unreadable_node(name: &str) -> Value {
    let condition = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": "9999-12-31T23:59:59Z"});
    json!({"metadata": object(name)["metadata"], "status": {"conditions": [condition]}})
}

fn list(items: &[Value]) -> Value {
    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": items})
}

fn expired() -> Value {
    json!({"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "reason": "Expired", "message": "too old", "code": 410}})
}

/// Describes the updates that arrive until the list is complete, that one included.
async fn next_updates(updates_rx: &mut mpsc::Receiver<StateUpdate>) -> Vec<String> {
    let mut updates = Vec::new();
    loop {
        let update = tokio::time::timeout(Duration::from_secs(60), updates_rx.recv()).await.unwrap().unwrap();
        match update {
            StateUpdate::Namespace(facts) => updates.push(format!("set {}", facts.metadata.name)),
            StateUpdate::Node { facts, .. } => updates.push(format!("set {}", facts.metadata.name)),
            StateUpdate::NamespaceDeleted(name) | StateUpdate::NodeDeleted(name) => {
                updates.push(format!("deleted {name}"));
            }
            StateUpdate::ListComplete(_) => return updates,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn relist_deletes_objects_that_were_deleted_while_disconnected() {
    let (client, mut server) = FakeApiServer::new();
    let (updates_tx, mut updates_rx) = mpsc::channel(16);
    tokio::spawn(namespaces(client, updates_tx));
    server.expect(Method::GET, NAMESPACES).await.respond(&list(&[object("a"), object("b")]));
    assert_eq!(next_updates(&mut updates_rx).await, ["set a", "set b"]);

    let watch = server.expect(Method::GET, NAMESPACES).await;
    assert!(watch.query.contains("watch=true") && watch.query.contains("resourceVersion=9"), "{}", watch.query);
    watch.respond_events(&[json!({"type": "DELETED", "object": object("a")}), expired()]);
    server.expect(Method::GET, NAMESPACES).await.respond(&list(&[object("c")]));
    assert_eq!(next_updates(&mut updates_rx).await, ["deleted a", "set c", "deleted b"]);
}

#[tokio::test(start_paused = true)]
async fn failed_list_is_retried() {
    let (client, mut server) = FakeApiServer::new();
    let (updates_tx, mut updates_rx) = mpsc::channel(16);
    tokio::spawn(namespaces(client, updates_tx));
    for status in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::FORBIDDEN] {
        server.expect(Method::GET, NAMESPACES).await.respond_error(status);
    }
    server.expect(Method::GET, NAMESPACES).await.respond(&list(&[object("a")]));
    assert_eq!(next_updates(&mut updates_rx).await, ["set a"]);
}

#[tokio::test(start_paused = true)]
async fn unreadable_object_keeps_its_last_readable_state() {
    let (client, mut server) = FakeApiServer::new();
    let (updates_tx, mut updates_rx) = mpsc::channel(16);
    tokio::spawn(nodes(client, updates_tx));
    server.expect(Method::GET, NODES).await.respond(&list(&[unreadable_node("never"), object("known")]));
    assert_eq!(next_updates(&mut updates_rx).await, ["set known"]);

    let event = json!({"type": "MODIFIED", "object": unreadable_node("known")});
    server.expect(Method::GET, NODES).await.respond_events(&[event, expired()]);
    server.expect(Method::GET, NODES).await.respond(&list(&[unreadable_node("known")]));
    assert_eq!(next_updates(&mut updates_rx).await, Vec::<String>::new(), "the node is not deleted");
    server.expect(Method::GET, NODES).await.respond_events(&[expired()]);
    server.expect(Method::GET, NODES).await.respond(&list(&[]));
    assert_eq!(next_updates(&mut updates_rx).await, ["deleted known"]);
}

#[tokio::test(start_paused = true)]
async fn invalid_policy_is_sent_with_its_errors() {
    let (client, mut server) = FakeApiServer::new();
    let (updates_tx, mut updates_rx) = mpsc::channel(16);
    tokio::spawn(policies(client, updates_tx));
    let policy = json!({
        "apiVersion": podmeta_crds::crd::API_VERSION, "kind": "MetadataPolicy",
        "metadata": {"name": "strict", "resourceVersion": "5"}, "spec": {"maxHopLimit": "many"},
    });
    let path = "/apis/podmeta.dev/v1alpha1/metadatapolicies";
    server.expect(Method::GET, path).await.respond(&list(&[policy]));
    let Some(StateUpdate::Policy(object)) = updates_rx.recv().await else { panic!("no policy") };
    assert_eq!(object.name, "strict");
    assert!(object.spec.unwrap_err()[0].field.contains("maxHopLimit"));
}

#[tokio::test(start_paused = true)]
async fn invalid_pod_is_skipped() {
    let (client, mut server) = FakeApiServer::new();
    let (updates_tx, mut updates_rx) = mpsc::channel(16);
    tokio::spawn(pods(client, updates_tx));
    let pod = |name: &str, uid: &str| {
        let metadata = json!({
            "namespace": "shop", "name": name, "uid": uid, "resourceVersion": "5",
            "creationTimestamp": "2026-01-05T08:00:00Z",
        });
        json!({"metadata": metadata, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}})
    };
    let request = server.expect(Method::GET, "/api/v1/pods").await;
    assert!(request.query.contains("spec.nodeName"), "{}", request.query);
    request.respond(&list(&[pod("bad", ""), pod("good", "u1")]));
    let Some(StateUpdate::Pod { facts, .. }) = updates_rx.recv().await else { panic!("no pod") };
    assert_eq!(facts.metadata.name, "good");
    assert!(matches!(updates_rx.recv().await, Some(StateUpdate::ListComplete(WatchedKind::Pods))));
}

#[tokio::test(start_paused = true)]
async fn pod_that_becomes_invalid_is_deleted() {
    let (client, mut server) = FakeApiServer::new();
    let (updates_tx, mut updates_rx) = mpsc::channel(16);
    tokio::spawn(pods(client, updates_tx));
    let pod = |label: &str| {
        let metadata = json!({
            "namespace": "shop", "name": "web", "uid": "u1", "resourceVersion": "5", "labels": {"app": label},
            "creationTimestamp": "2026-01-05T08:00:00Z",
        });
        json!({"metadata": metadata, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}})
    };
    server.expect(Method::GET, "/api/v1/pods").await.respond(&list(&[pod("web")]));
    assert!(matches!(updates_rx.recv().await, Some(StateUpdate::Pod { .. })));
    assert!(matches!(updates_rx.recv().await, Some(StateUpdate::ListComplete(WatchedKind::Pods))));
    let event = json!({"type": "MODIFIED", "object": pod("not valid")});
    server.expect(Method::GET, "/api/v1/pods").await.respond_events(&[event, expired()]);
    server.expect(Method::GET, "/api/v1/pods").await.respond(&list(&[pod("not valid")]));
    let Some(StateUpdate::PodDeleted(uid)) = updates_rx.recv().await else { panic!("the pod is still served") };
    assert_eq!(uid.to_string(), "u1");
}

#[tokio::test(start_paused = true)]
async fn pod_that_becomes_unreadable_is_deleted_until_it_is_readable() {
    let (client, mut server) = FakeApiServer::new();
    let (updates_tx, mut updates_rx) = mpsc::channel(16);
    tokio::spawn(pods(client, updates_tx));
    let pod = |start_time: &str| {
        let metadata = json!({
            "namespace": "shop", "name": "web", "uid": "u1", "resourceVersion": "5",
            "creationTimestamp": "2026-01-05T08:00:00Z",
        });
        let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]});
        json!({"metadata": metadata, "spec": spec, "status": {"startTime": start_time}})
    };
    let (readable, unreadable) = (pod("2026-01-05T08:00:00Z"), pod("9999-12-31T23:59:59Z"));
    let modified = |pod: &Value| json!({"type": "MODIFIED", "object": pod});
    let is_served = |update: Option<StateUpdate>| match update {
        Some(StateUpdate::Pod { facts, .. }) => (facts.metadata.uid.to_string(), true),
        Some(StateUpdate::PodDeleted(uid)) => (uid.to_string(), false),
        other => panic!("{other:?}"),
    };
    server.expect(Method::GET, "/api/v1/pods").await.respond(&list(std::slice::from_ref(&readable)));
    assert_eq!(is_served(updates_rx.recv().await), ("u1".to_owned(), true));
    assert!(matches!(updates_rx.recv().await, Some(StateUpdate::ListComplete(WatchedKind::Pods))));
    let events = [modified(&unreadable), modified(&readable), expired()];
    server.expect(Method::GET, "/api/v1/pods").await.respond_events(&events);
    assert_eq!(is_served(updates_rx.recv().await), ("u1".to_owned(), false));
    assert_eq!(is_served(updates_rx.recv().await), ("u1".to_owned(), true));
    // A list has the unreadable pod too.
    server.expect(Method::GET, "/api/v1/pods").await.respond(&list(&[unreadable]));
    assert_eq!(is_served(updates_rx.recv().await), ("u1".to_owned(), false));
    assert!(matches!(updates_rx.recv().await, Some(StateUpdate::ListComplete(WatchedKind::Pods))));
}
