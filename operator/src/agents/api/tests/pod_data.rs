//! Calls for the credentials, documents and user data of a pod.

use super::*;

#[tokio::test(start_paused = true)]
async fn data_of_a_pod_on_another_node_or_of_an_unknown_pod_returns_403() {
    let key = json!({"name": "keys", "key": "boot"});
    for pod in ["u2", "unknown"] {
        for (path, body) in [
            (CREDENTIALS, credentials_of(pod)),
            (USER_DATA, json!({"pod": pod, "key": key})),
            (DOCUMENT, document_of(pod, "10.0.0.7")),
        ] {
            let response = Fixture::synced().await.post(path, &body).await;
            assert_eq!(response.status, 403, "{path} {pod} {}", response.body);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn document_with_the_pods_addresses_is_signed_and_with_others_returns_403() {
    for (address, status) in [("10.0.0.7", 200), ("10.0.0.8", 403)] {
        let response = Fixture::synced().await.post(DOCUMENT, &document_of("u1", address)).await;
        assert_eq!(response.status, status, "{address} {}", response.body);
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_of_an_unread_secret_return_503() {
    let mut fixture = Fixture::synced().await;
    fixture.updates_tx.send(StateUpdate::SecretsUnread(SecretScope::Cluster)).await.unwrap();
    fixture::flush(&fixture.updates_tx).await;
    let response = fixture.post(CREDENTIALS, &credentials_of("u1")).await;
    assert_eq!((response.status, response.retry_after), (503, true));
}

#[tokio::test(start_paused = true)]
async fn credentials_of_a_newer_generation_return_503_and_of_the_known_one_200() {
    let mut fixture = Fixture::synced().await;
    for (generation, status) in [(4, 503), (3, 200), (2, 200)] {
        let mut body = credentials_of("u1");
        body["profile"] = json!({"uid": "p1", "generation": generation});
        let response = fixture.post(CREDENTIALS, &body).await;
        assert_eq!(response.status, status, "{generation}");
    }
}

#[tokio::test]
async fn cloud_role_is_issued_to_the_agent_of_the_pods_node_only() {
    let stub = StubSts::start(|request| {
        assert_eq!(request.form["WebIdentityToken"], "a.b.c");
        (200, aws_response("AssumeRoleWithWebIdentity", "2099-01-01T00:00:00Z"))
    });
    let stub = stub.await;
    let mut fixture = Fixture::synced_with(fixture::synced_reconciler_with(fixture::CLOUD_POD), &stub.url).await;
    let other = fixture.call_as("n2", "a2", Method::POST, CREDENTIALS, &credentials_of("u3")).await;
    assert_eq!((other.status, stub.calls()), (403, 0), "{}", other.body);
    let mut tokens = std::mem::replace(&mut fixture.tokens, FakeApiServer::new().1);
    let body = credentials_of("u3");
    let first = fixture.post(CREDENTIALS, &body).await;
    assert_eq!((first.status, &first.body), (200, &json!("pending")), "the API server has not issued the token");
    let issued = async {
        loop {
            let response = fixture.post(CREDENTIALS, &body).await;
            if response.body != "pending" {
                break response;
            }
        }
    };
    let (response, ()) = tokio::join!(issued, async {
        let request = tokens.expect(Method::POST, "/api/v1/namespaces/shop/serviceaccounts/api/token").await;
        assert_eq!(request.body["spec"]["boundObjectRef"]["uid"], "u3");
        let status = json!({"token": "a.b.c", "expirationTimestamp": "2099-01-01T00:00:00Z"});
        request.respond(&json!({"metadata": {}, "spec": {"audiences": []}, "status": status}));
    });
    assert_eq!(response.status, 200, "{}", response.body);
    assert_eq!(response.body["issued"]["accessKeyId"], "ASIA1", "{}", response.body);
    assert_eq!(stub.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn data_of_a_deleted_pod_returns_403_five_minutes_after_its_grace_period() {
    for (minutes, status) in [(4, 200), (6, 403)] {
        let mut fixture = Fixture::synced().await;
        let deletion = Timestamp::now() - SignedDuration::from_mins(minutes);
        for mut update in fixture::updates() {
            if let StateUpdate::Pod { facts, .. } = &mut update
                && facts.metadata.uid.as_str() == "u1"
            {
                facts.metadata.deletion_timestamp = Some(deletion);
                fixture.updates_tx.send(update).await.unwrap();
            }
        }
        fixture::flush(&fixture.updates_tx).await;
        for (path, body) in [(CREDENTIALS, credentials_of("u1")), (DOCUMENT, document_of("u1", "10.0.0.7"))] {
            let response = fixture.post(path, &body).await;
            assert_eq!(response.status, status, "{path} {}", response.body);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn missing_role_or_user_data_returns_404() {
    let ecs = json!({"pod": "u1", "dialect": "ecs"});
    assert_eq!(Fixture::synced().await.post(CREDENTIALS, &ecs).await.status, 404);
    let user_data = json!({"pod": "u1", "key": {"name": "keys", "key": "boot"}});
    assert_eq!(Fixture::synced().await.post(USER_DATA, &user_data).await.status, 404);
}
