use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::cluster::fake_api_server::FakeApiServer;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/podmeta-system/leases";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/podmeta-system/leases/operator";

fn lease(holder: &str, version: &str) -> Value {
    json!({
        "metadata": {"name": "operator", "resourceVersion": version, "annotations": {ADDRESS_ANNOTATION: "10.0.0.2:8443"}},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 3},
    })
}

fn start() -> (FakeApiServer, Leadership, CancellationToken) {
    let (client, server) = FakeApiServer::new();
    let elector = LeaderElector::new(client, "podmeta-system", "operator", "me".into(), "10.0.0.1:8443".into());
    let stop = CancellationToken::new();
    let (leadership, run) = elector.run(stop.clone());
    tokio::spawn(run);
    (server, leadership, stop)
}

async fn wait_for_leader(leadership: &mut Leadership, is_leader: bool) {
    let changed = leadership.is_leader.wait_for(|known| *known == is_leader);
    tokio::time::timeout(Duration::from_secs(60), changed).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn missing_lease_is_created_renewed_and_released() {
    let (mut server, mut leadership, stop) = start();
    server.expect(Method::GET, LEASE).await.respond_error(StatusCode::NOT_FOUND);
    let create = server.expect(Method::POST, LEASES).await;
    assert_eq!(create.body["spec"]["holderIdentity"], "me");
    create.respond(&lease("me", "1"));
    wait_for_leader(&mut leadership, true).await;
    assert_eq!(leadership.address.borrow().as_deref(), Some("10.0.0.1:8443"));

    server.expect(Method::GET, LEASE).await.respond(&lease("me", "1"));
    let renew = server.expect(Method::PUT, LEASE).await;
    assert_eq!(renew.body["spec"]["leaseTransitions"], 3, "a renewal is not a transition");
    assert_eq!(renew.body["metadata"]["annotations"][ADDRESS_ANNOTATION], "10.0.0.1:8443");
    renew.respond(&lease("me", "2"));

    stop.cancel();
    server.expect(Method::GET, LEASE).await.respond(&lease("me", "2"));
    let release = server.expect(Method::PUT, LEASE).await;
    assert_eq!(release.body["spec"]["holderIdentity"], "");
    assert!(!*leadership.is_leader.borrow());
    release.respond(&lease("", "3"));
}

#[tokio::test(start_paused = true)]
async fn lease_of_another_replica_is_acquired_after_its_duration_without_renewal() {
    let (mut server, mut leadership, _stop) = start();
    let started = Instant::now();
    let acquire = loop {
        server.expect(Method::GET, LEASE).await.respond(&lease("other", "1"));
        if started.elapsed() > LEASE_DURATION {
            break server.expect(Method::PUT, LEASE).await;
        }
        assert!(!*leadership.is_leader.borrow());
    };
    assert_eq!(leadership.address.borrow().as_deref(), Some("10.0.0.2:8443"));
    assert_eq!(acquire.body["spec"]["leaseTransitions"], 4);
    acquire.respond(&lease("me", "2"));
    wait_for_leader(&mut leadership, true).await;
}

#[tokio::test(start_paused = true)]
async fn renewed_lease_of_another_replica_is_not_acquired() {
    let (mut server, leadership, _stop) = start();
    for version in 0..20 {
        server.expect(Method::GET, LEASE).await.respond(&lease("other", &version.to_string()));
    }
    assert!(!*leadership.is_leader.borrow());
}

#[tokio::test(start_paused = true)]
async fn replica_that_loses_the_race_for_the_lease_is_not_the_leader() {
    let (mut server, leadership, _stop) = start();
    server.expect(Method::GET, LEASE).await.respond(&lease("", "1"));
    server.expect(Method::PUT, LEASE).await.respond_error(StatusCode::CONFLICT);
    server.expect(Method::GET, LEASE).await.respond(&lease("other", "2"));
    server.expect(Method::GET, LEASE).await;
    assert!(!*leadership.is_leader.borrow());
}

#[tokio::test(start_paused = true)]
async fn leader_stops_leading_before_its_lease_expires() {
    let (mut server, mut leadership, _stop) = start();
    server.expect(Method::GET, LEASE).await.respond(&lease("me", "1"));
    server.expect(Method::PUT, LEASE).await.respond(&lease("me", "1"));
    wait_for_leader(&mut leadership, true).await;
    let renewed = Instant::now();
    let lost = wait_for_leader(&mut leadership, false);
    let unavailable = async {
        loop {
            server.expect(Method::GET, LEASE).await.respond_error(StatusCode::SERVICE_UNAVAILABLE);
        }
    };
    tokio::select! {
        () = lost => {}
        () = unavailable => {}
    }
    assert!(renewed.elapsed() > RENEW_DEADLINE - RENEW_INTERVAL && renewed.elapsed() < LEASE_DURATION);
    assert_eq!(*leadership.address.borrow(), None);
}

#[test]
fn lease_can_be_acquired_if_it_is_free_own_or_expired() {
    let held_by = |holder: &str| LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(15),
        ..LeaseSpec::default()
    };
    for (lease, unchanged, expected) in [
        (None, 0, true),
        (Some(LeaseSpec::default()), 0, true),
        (Some(held_by("")), 0, true),
        (Some(held_by("me")), 0, true),
        (Some(held_by("other")), 15, false),
        (Some(held_by("other")), 16, true),
    ] {
        let unchanged = Duration::from_secs(unchanged);
        assert_eq!(can_acquire(lease.as_ref(), "me", unchanged), expected, "{lease:?} {unchanged:?}");
    }
}

#[tokio::test]
async fn missed_leadership_change_is_forwarded_as_two_updates() {
    let (is_leader_tx, is_leader_rx) = watch::channel(false);
    let (updates_tx, mut updates_rx) = mpsc::channel(8);
    // Both changes happen before the forwarder reads the channel.
    is_leader_tx.send_replace(true);
    let forward = tokio::spawn(forward_leadership(is_leader_rx.clone(), updates_tx.clone()));
    assert!(matches!(updates_rx.recv().await, Some(StateUpdate::Leadership(true))));
    is_leader_tx.send_replace(false);
    is_leader_tx.send_replace(true);
    assert!(matches!(updates_rx.recv().await, Some(StateUpdate::Leadership(false))));
    assert!(matches!(updates_rx.recv().await, Some(StateUpdate::Leadership(true))));
    drop(is_leader_tx);
    forward.await.unwrap();
}
