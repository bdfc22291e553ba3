use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Receiver};

use super::*;
use crate::cluster::fake_api_server::FakeApiServer;

const ALL_SECRETS: &str = "/api/v1/secrets";

fn secret(namespace: &str, name: &str, value: &str) -> Value {
    json!({
        "metadata": {
            "namespace": namespace, "name": name, "uid": name, "resourceVersion": "5",
            "labels": {USABLE_BY_LABEL: USABLE_BY_PROFILES},
        },
        "data": {"key": value},
    })
}

fn list(items: &[Value]) -> Value {
    json!({"kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": items})
}

fn event(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

fn expired() -> Value {
    json!({"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "reason": "Expired", "message": "too old", "code": 410}})
}

fn start(scopes: &[SecretScope]) -> (FakeApiServer, Receiver<StateUpdate>) {
    let (client, server) = FakeApiServer::new();
    let (updates_tx, updates_rx) = mpsc::channel(64);
    tokio::spawn(run(scopes.iter().cloned().collect(), client, updates_tx));
    (server, updates_rx)
}

/// Describes the next updates.
async fn next_updates(updates_rx: &mut Receiver<StateUpdate>, count: usize) -> Vec<String> {
    let mut updates = Vec::new();
    while updates.len() < count {
        let update = tokio::time::timeout(Duration::from_secs(60), updates_rx.recv()).await.unwrap().unwrap();
        updates.push(match update {
            StateUpdate::Secret { namespace, name, data: None } => format!("no {namespace}/{name}"),
            StateUpdate::Secret { namespace, name, data: Some(data) } => {
                format!("{namespace}/{name} {}", String::from_utf8_lossy(data.get("key").unwrap()))
            }
            StateUpdate::SecretsUnread(SecretScope::Cluster) => "unread".to_owned(),
            StateUpdate::SecretsUnread(SecretScope::Namespace(namespace)) => format!("unread {namespace}"),
            StateUpdate::SecretsListed(SecretScope::Cluster) => "listed".to_owned(),
            StateUpdate::SecretsListed(SecretScope::Namespace(namespace)) => format!("listed {namespace}"),
            StateUpdate::ListComplete(WatchedKind::Secrets) => "complete".to_owned(),
            other => panic!("{other:?}"),
        });
    }
    updates
}

#[tokio::test(start_paused = true)]
async fn one_list_and_watch_selects_the_label_in_all_namespaces() {
    let (mut server, mut updates_rx) = start(&[SecretScope::Cluster]);
    assert_eq!(next_updates(&mut updates_rx, 1).await, ["unread"]);
    let request = server.expect(Method::GET, ALL_SECRETS).await;
    let label = "labelSelector=podmeta.dev%2Fusable-by%3Dmetadataprofiles";
    assert!(request.query.contains(label) && request.query.contains("limit=16"), "{}", request.query);
    request.respond(&list(&[secret("shop", "keys", "b25l"), secret("attic", "keys", "dHdv")]));
    assert_eq!(next_updates(&mut updates_rx, 4).await, ["shop/keys one", "attic/keys two", "listed", "complete"]);

    let watch = server.expect(Method::GET, ALL_SECRETS).await;
    assert!(watch.query.contains("watch=true") && watch.query.contains(label), "{}", watch.query);
    // The API server reports a Secret that loses the label as deleted.
    let changed = event("MODIFIED", &secret("shop", "keys", "bmV3"));
    watch.respond_events(&[changed, event("DELETED", &secret("attic", "keys", "dHdv")), expired()]);
    assert_eq!(next_updates(&mut updates_rx, 2).await, ["shop/keys new", "no attic/keys"]);

    server.expect(Method::GET, ALL_SECRETS).await.respond(&list(&[]));
    assert_eq!(next_updates(&mut updates_rx, 2).await, ["no shop/keys", "listed"], "complete is sent once");
}

#[tokio::test(start_paused = true)]
async fn namespace_without_a_role_does_not_delay_the_others() {
    let scope = |name: &str| SecretScope::Namespace(name.to_owned());
    let (mut server, mut updates_rx) = start(&[scope("attic"), scope("shop")]);
    assert_eq!(next_updates(&mut updates_rx, 2).await, ["unread attic", "unread shop"]);
    let requests = [server.expect_any().await, server.expect_any().await];
    for request in requests {
        match request.path.as_str() {
            "/api/v1/namespaces/attic/secrets" => request.respond_error(StatusCode::FORBIDDEN),
            "/api/v1/namespaces/shop/secrets" => request.respond(&list(&[secret("shop", "keys", "b25l")])),
            other => panic!("{other}"),
        }
    }
    let mut updates = next_updates(&mut updates_rx, 3).await;
    updates.sort_unstable();
    assert_eq!(updates, ["complete", "listed shop", "shop/keys one"]);
    // The watch of the namespace shop waits for its response.
    let mut requests = vec![server.expect_any().await, server.expect_any().await];
    let retry = requests.extract_if(.., |request| request.path == "/api/v1/namespaces/attic/secrets").next();
    retry.unwrap().respond(&list(&[secret("attic", "keys", "dHdv")]));
    assert_eq!(next_updates(&mut updates_rx, 2).await, ["attic/keys two", "listed attic"]);
}

#[tokio::test(start_paused = true)]
async fn unavailable_api_server_delays_the_list() {
    let (mut server, mut updates_rx) = start(&[SecretScope::Cluster]);
    server.expect(Method::GET, ALL_SECRETS).await.disconnect();
    server.expect(Method::GET, ALL_SECRETS).await.respond(&list(&[]));
    assert_eq!(next_updates(&mut updates_rx, 3).await, ["unread", "listed", "complete"]);
}

#[tokio::test(start_paused = true)]
async fn without_namespaces_the_list_is_complete_and_nothing_is_requested() {
    let (mut server, mut updates_rx) = start(&[]);
    assert_eq!(next_updates(&mut updates_rx, 1).await, ["complete"]);
    assert!(updates_rx.recv().await.is_none());
    server.expect_none(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn secret_that_is_too_large_or_without_the_label_is_not_usable() {
    let (mut server, mut updates_rx) = start(&[SecretScope::Cluster]);
    let mut unlabelled = secret("shop", "unlabelled", "b25l");
    unlabelled["metadata"]["labels"] = json!({});
    let large = secret("shop", "large", &"AAAA".repeat(22 * 1024));
    server.expect(Method::GET, ALL_SECRETS).await.respond(&list(&[unlabelled, large]));
    let updates = next_updates(&mut updates_rx, 5).await;
    assert_eq!(updates, ["unread", "no shop/unlabelled", "no shop/large", "listed", "complete"]);
}

#[tokio::test(start_paused = true)]
async fn secrets_over_the_budget_of_a_namespace_are_not_usable() {
    let (mut server, mut updates_rx) = start(&[SecretScope::Cluster]);
    let value = "AAAA".repeat(21_000);
    let secrets: Vec<Value> = (0..70).map(|index| secret("shop", &format!("s{index:02}"), &value)).collect();
    server.expect(Method::GET, ALL_SECRETS).await.respond(&list(&secrets));
    let updates = next_updates(&mut updates_rx, 73).await;
    assert_eq!(updates.iter().filter(|update| update.starts_with("shop/")).count(), 66);
    assert_eq!(updates[67..], ["no shop/s66", "no shop/s67", "no shop/s68", "no shop/s69", "listed", "complete"]);
}
