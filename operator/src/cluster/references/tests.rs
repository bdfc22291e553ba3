use http::{Method, StatusCode};
use podmeta_metadata::profile::{KeyRef, UserDataSource};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Receiver};

use super::*;
use crate::cluster::fake_api_server::FakeApiServer;
use crate::model::compiled_pod::ProfileKey;
use crate::reconcile::fixture;

const CONFIG_MAP: &str = "/api/v1/namespaces/shop/configmaps/boot";
const CONFIG_MAPS: &str = "/api/v1/namespaces/shop/configmaps";

fn config_map(script: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": "boot", "resourceVersion": "7"}, "data": {"script": script, "other": "x"}})
}

/// Returns the profiles of the fixture. They refer to the ConfigMap shop/boot.
fn profiles() -> impl Iterator<Item = StateUpdate> {
    fixture::updates().into_iter().filter_map(|update| {
        let StateUpdate::Profile(mut object) = update else { return None };
        let key = KeyRef { name: "boot".to_owned(), key: "script".to_owned() };
        let spec = object.spec.as_mut().unwrap();
        Arc::make_mut(&mut spec.profile).user_data = Some(UserDataSource::ConfigMap(key));
        Some(StateUpdate::Profile(object))
    })
}

/// Starts the watches of a reconcile task with these profiles. Returns the sender of its updates, and the updates that the
/// watches send.
async fn start() -> (FakeApiServer, mpsc::Sender<StateUpdate>, Receiver<StateUpdate>) {
    let (client, server) = FakeApiServer::new();
    let (shared, reconcile_tx) = fixture::start(fixture::empty_reconciler());
    for update in profiles().chain([StateUpdate::ListComplete(WatchedKind::Profiles)]) {
        reconcile_tx.send(update).await.unwrap();
    }
    let (updates_tx, updates_rx) = mpsc::channel(64);
    tokio::spawn(run(shared, client, updates_tx));
    (server, reconcile_tx, updates_rx)
}

/// Describes the next update.
async fn next_update(updates_rx: &mut Receiver<StateUpdate>) -> String {
    match tokio::time::timeout(Duration::from_secs(60), updates_rx.recv()).await.unwrap().unwrap() {
        StateUpdate::ConfigMap { namespace, name, values } => {
            let values: Vec<_> =
                values.iter().map(|(key, value)| format!(" {key}={}", String::from_utf8_lossy(value))).collect();
            format!("{namespace}/{name}{}", values.concat())
        }
        StateUpdate::ListComplete(WatchedKind::References) => "complete".to_owned(),
        StateUpdate::ReferenceDropped { object, keys } => format!("dropped {} {keys:?}", object.name),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn list_is_complete_after_the_config_map_was_read() {
    let (mut server, _reconcile_tx, mut updates_rx) = start().await;
    let read = server.expect(Method::GET, CONFIG_MAP).await;
    assert!(updates_rx.try_recv().is_err());
    read.respond(&config_map("one"));
    assert_eq!(next_update(&mut updates_rx).await, "shop/boot script=one");
    assert_eq!(next_update(&mut updates_rx).await, "complete");
    let watch = server.expect(Method::GET, CONFIG_MAPS).await;
    assert!(watch.query.contains("resourceVersion=7") && watch.query.contains("metadata.name"), "{}", watch.query);
}

#[tokio::test(start_paused = true)]
async fn config_map_that_cannot_be_read_does_not_delay_the_list_and_is_retried() {
    let (mut server, _reconcile_tx, mut updates_rx) = start().await;
    server.expect(Method::GET, CONFIG_MAP).await.respond_error(StatusCode::FORBIDDEN);
    assert_eq!(next_update(&mut updates_rx).await, "complete");
    server.expect(Method::GET, CONFIG_MAP).await.respond_error(StatusCode::NOT_FOUND);
    assert_eq!(next_update(&mut updates_rx).await, "shop/boot");
    let watch = server.expect(Method::GET, CONFIG_MAPS).await;
    watch.respond_events(&[json!({"type": "ADDED", "object": config_map("one")})]);
    assert_eq!(next_update(&mut updates_rx).await, "shop/boot script=one");
    server.expect(Method::GET, CONFIG_MAP).await.respond(&config_map("two"));
    assert_eq!(next_update(&mut updates_rx).await, "shop/boot script=two");
}

#[tokio::test(start_paused = true)]
async fn config_map_without_a_profile_is_dropped_and_read_again_for_a_new_profile() {
    let (mut server, reconcile_tx, mut updates_rx) = start().await;
    server.expect(Method::GET, CONFIG_MAP).await.respond(&config_map("one"));
    assert_eq!(next_update(&mut updates_rx).await, "shop/boot script=one");
    assert_eq!(next_update(&mut updates_rx).await, "complete");
    server.expect(Method::GET, CONFIG_MAPS).await.respond_events(&[]);

    let key = ProfileKey { namespace: "shop".into(), name: "web".into() };
    reconcile_tx.send(StateUpdate::ProfileDeleted(key)).await.unwrap();
    assert_eq!(next_update(&mut updates_rx).await, r#"dropped boot {"script"}"#);
    server.expect_none(Duration::from_secs(60)).await;

    for update in profiles() {
        reconcile_tx.send(update).await.unwrap();
    }
    server.expect(Method::GET, CONFIG_MAP).await.respond(&config_map("two"));
    assert_eq!(next_update(&mut updates_rx).await, "shop/boot script=two");
}

#[test]
fn config_map_values_are_those_of_the_requested_keys() {
    let map = json!({"metadata": {}, "data": {"a": "text", "b": "other"}, "binaryData": {"c": "AAE="}});
    let map: ConfigMap = serde_json::from_value(map).unwrap();
    let keys = ["a", "c", "missing"].map(str::to_owned).into();
    let values = config_map_values(&map, &keys);
    assert_eq!(values, BTreeMap::from([("a".into(), "text".into()), ("c".into(), Bytes::from_static(&[0, 1]))]));
}
