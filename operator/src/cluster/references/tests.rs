use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::cluster::fake_api_server::FakeApiServer;
use crate::model::compiled_pod::ProfileKey;
use crate::model::index::SecretUnavailable;
use crate::reconcile::fixture;

const SECRET: &str = "/api/v1/namespaces/shop/secrets/keys";
const SECRETS: &str = "/api/v1/namespaces/shop/secrets";

fn secret() -> Value {
    json!({"metadata": {"namespace": "shop", "name": "keys", "resourceVersion": "7"}, "data": {"key": "dmFsdWU="}})
}

/// Starts the watches of a reconcile task with the profiles of the fixture, which refer to the Secret shop/keys.
async fn start() -> (FakeApiServer, Arc<SharedState>, mpsc::Sender<StateUpdate>) {
    let (client, server) = FakeApiServer::new();
    let (shared, updates_tx) = fixture::start(fixture::empty_reconciler());
    tokio::spawn(run(shared.clone(), client, updates_tx.clone()));
    for update in fixture::updates() {
        updates_tx.send(update).await.unwrap();
    }
    for kind in WatchedKind::ALL.into_iter().filter(|kind| *kind != WatchedKind::References) {
        updates_tx.send(StateUpdate::ListComplete(kind)).await.unwrap();
    }
    (server, shared, updates_tx)
}

async fn wait_for_sync(shared: &SharedState) {
    let mut synced = shared.synced();
    let synced = synced.wait_for(|synced| *synced);
    tokio::time::timeout(Duration::from_secs(60), synced).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn state_is_synced_after_the_secret_was_read() {
    let (mut server, shared, _updates_tx) = start().await;
    let read = server.expect(Method::GET, SECRET).await;
    assert!(!*shared.synced().borrow());
    read.respond(&secret());
    wait_for_sync(&shared).await;
    assert_eq!(shared.read().index().secret("shop", "keys").unwrap()["key"].as_slice(), b"value");
    let watch = server.expect(Method::GET, SECRETS).await;
    assert!(watch.query.contains("resourceVersion=7") && watch.query.contains("metadata.name"), "{}", watch.query);
}

#[tokio::test(start_paused = true)]
async fn secret_that_cannot_be_read_does_not_delay_the_sync_and_is_retried() {
    let (mut server, shared, updates_tx) = start().await;
    server.expect(Method::GET, SECRET).await.respond_error(StatusCode::FORBIDDEN);
    wait_for_sync(&shared).await;
    assert_eq!(shared.read().index().secret("shop", "keys"), Err(SecretUnavailable::Unread));
    server.expect(Method::GET, SECRET).await.respond_error(StatusCode::NOT_FOUND);
    let watch = server.expect(Method::GET, SECRETS).await;
    fixture::flush(&updates_tx).await;
    assert_eq!(shared.read().index().secret("shop", "keys"), Err(SecretUnavailable::Missing));
    watch.respond_events(&[json!({"type": "ADDED", "object": secret()})]);
    server.expect(Method::GET, SECRET).await.respond(&secret());
    server.expect(Method::GET, SECRETS).await;
    fixture::flush(&updates_tx).await;
    assert!(shared.read().index().secret("shop", "keys").is_ok());
}

#[tokio::test(start_paused = true)]
async fn secret_without_a_profile_is_dropped_and_read_again_for_a_new_profile() {
    let (mut server, shared, updates_tx) = start().await;
    server.expect(Method::GET, SECRET).await.respond(&secret());
    wait_for_sync(&shared).await;
    server.expect(Method::GET, SECRETS).await.respond_events(&[json!({"type": "MODIFIED", "object": secret()})]);

    let mut references = shared.references();
    let key = ProfileKey { namespace: "shop".into(), name: "web".into() };
    updates_tx.send(StateUpdate::ProfileDeleted(key)).await.unwrap();
    references.wait_for(|known| known.as_ref().is_some_and(BTreeMap::is_empty)).await.unwrap();
    server.expect_none(Duration::from_secs(60)).await;
    fixture::flush(&updates_tx).await;
    assert_eq!(shared.read().index().secret("shop", "keys"), Err(SecretUnavailable::Unread));

    for update in fixture::updates() {
        updates_tx.send(update).await.unwrap();
    }
    server.expect(Method::GET, SECRET).await.respond(&secret());
    server.expect(Method::GET, SECRETS).await;
    fixture::flush(&updates_tx).await;
    assert!(shared.read().index().secret("shop", "keys").is_ok());
}

#[test]
fn config_map_values_are_those_of_the_requested_keys() {
    let map = json!({"metadata": {}, "data": {"a": "text", "b": "other"}, "binaryData": {"c": "AAE="}});
    let map: ConfigMap = serde_json::from_value(map).unwrap();
    let keys = ["a", "c", "missing"].map(str::to_owned).into();
    let values = config_map_values(&map, &keys);
    assert_eq!(values, BTreeMap::from([("a".into(), "text".into()), ("c".into(), Bytes::from_static(&[0, 1]))]));
}
