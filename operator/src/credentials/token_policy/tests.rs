use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::cluster::fake_api_server::{FakeApiServer, FakeRequest};

const PATH: &str = "/api/v1/namespaces/podmeta-system/serviceaccounts/operator/token";

fn policy_test(audiences: &str) -> (TokenPolicyTest, FakeApiServer) {
    let (client, server) = FakeApiServer::new();
    let test = TokenPolicyTest {
        client,
        namespace: "podmeta-system".into(),
        service_account: "operator".into(),
        pod: "operator-1".into(),
        audiences: audiences.parse().unwrap(),
    };
    (test, server)
}

fn deny(request: FakeRequest) {
    deny_by("operator-tokens", request);
}

fn deny_by(policy: &str, request: FakeRequest) {
    let message = format!(
        "serviceaccounts \"operator\" is forbidden: ValidatingAdmissionPolicy '{policy}' with binding 'b' denied request"
    );
    request.respond_status(StatusCode::FORBIDDEN, &message);
}

fn grant(request: FakeRequest) {
    let spec = request.body["spec"].clone();
    let status = json!({"token": "a.b.c", "expirationTimestamp": "2026-01-05T08:00:00Z"});
    request.respond(&json!({"metadata": {}, "spec": spec, "status": status}));
}

#[tokio::test(start_paused = true)]
async fn policy_is_enforced_if_unbound_and_foreign_tokens_are_denied() {
    let (test, mut server) = policy_test("sts.amazonaws.com");
    let (state, ()) = tokio::join!(test.test(), async {
        let unbound = server.expect(Method::POST, PATH).await;
        assert_eq!(unbound.body["spec"]["audiences"], json!(["sts.amazonaws.com"]));
        assert_eq!(unbound.body["spec"]["boundObjectRef"], Value::Null);
        deny(unbound);
        let foreign = server.expect(Method::POST, PATH).await;
        assert_eq!(foreign.body["spec"]["audiences"], json!([FOREIGN_AUDIENCE]));
        assert_eq!(foreign.body["spec"]["boundObjectRef"]["name"], "operator-1");
        deny(foreign);
    });
    assert_eq!(state, Some(TokenPolicyState::Enforced));
}

#[tokio::test(start_paused = true)]
async fn policy_is_not_enforced_if_one_of_the_two_tokens_is_issued() {
    for responses in [[grant, deny], [deny, grant]] {
        let (test, mut server) = policy_test("sts.amazonaws.com");
        let (state, ()) = tokio::join!(test.test(), async {
            for respond in responses {
                respond(server.expect(Method::POST, PATH).await);
            }
        });
        assert!(
            matches!(&state, Some(TokenPolicyState::NotEnforced(reason)) if reason.contains("issues")),
            "{state:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn denial_by_rbac_is_not_a_proof_and_an_internal_error_is_no_result() {
    let (test, mut server) = policy_test("sts.amazonaws.com");
    let (state, ()) = tokio::join!(test.test(), async {
        for _ in 0..2 {
            server.expect(Method::POST, PATH).await.respond_error(StatusCode::FORBIDDEN);
        }
    });
    assert!(matches!(&state, Some(TokenPolicyState::NotEnforced(reason)) if reason.contains("may not")), "{state:?}");
    let (state, ()) = tokio::join!(test.test(), async {
        server.expect(Method::POST, PATH).await.respond_error(StatusCode::BAD_REQUEST);
    });
    assert_eq!(state, None);
}

#[tokio::test(start_paused = true)]
async fn denial_by_another_policy_is_not_a_proof() {
    let (test, mut server) = policy_test("sts.amazonaws.com");
    let (state, ()) = tokio::join!(test.test(), async {
        for _ in 0..2 {
            deny_by("operator-tokens-2", server.expect(Method::POST, PATH).await);
        }
    });
    assert!(matches!(&state, Some(TokenPolicyState::NotEnforced(reason)) if reason.contains("another")), "{state:?}");
}

#[tokio::test(start_paused = true)]
async fn rejection_by_rbac_is_tested_again_after_5_seconds() {
    let (test, mut server) = policy_test("sts.amazonaws.com");
    let (state_tx, mut state) = watch::channel(TokenPolicyState::Unknown);
    let stop = CancellationToken::new();
    tokio::spawn(test.run(state_tx, stop.clone()));
    for _ in 0..2 {
        server.expect(Method::POST, PATH).await.respond_error(StatusCode::FORBIDDEN);
    }
    let start = Instant::now();
    for respond in [deny, deny] {
        respond(server.expect(Method::POST, PATH).await);
    }
    assert!(state.wait_for(|state| *state == TokenPolicyState::Enforced).await.is_ok());
    assert!(start.elapsed() <= 2 * RETRY_DELAY, "{:?}", start.elapsed());
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn policy_that_cannot_be_tested_for_5_minutes_is_no_longer_enforced() {
    let (test, mut server) = policy_test("sts.amazonaws.com");
    let (state_tx, mut state) = watch::channel(TokenPolicyState::Unknown);
    let stop = CancellationToken::new();
    tokio::spawn(test.run(state_tx, stop.clone()));
    for respond in [deny, deny] {
        respond(server.expect(Method::POST, PATH).await);
    }
    assert!(state.wait_for(|state| *state == TokenPolicyState::Enforced).await.is_ok());
    let start = Instant::now();
    let unavailable = async {
        loop {
            server.expect(Method::POST, PATH).await.respond_error(StatusCode::BAD_REQUEST);
        }
    };
    tokio::select! {
        () = unavailable => {}
        changed = state.changed() => changed.unwrap(),
    }
    assert_eq!(*state.borrow(), TokenPolicyState::Unknown);
    assert!((MAX_RESULT_AGE..MAX_RESULT_AGE + TEST_INTERVAL).contains(&start.elapsed()), "{:?}", start.elapsed());
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn without_an_audience_no_token_is_requested() {
    let (test, mut server) = policy_test("");
    assert!(matches!(test.test().await, Some(TokenPolicyState::NotEnforced(_))));
    server.expect_none(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn removed_policy_is_detected_within_a_minute() {
    let (test, mut server) = policy_test("sts.amazonaws.com");
    let (state_tx, mut state) = watch::channel(TokenPolicyState::Unknown);
    let stop = CancellationToken::new();
    tokio::spawn(test.run(state_tx, stop.clone()));
    for respond in [deny, deny] {
        respond(server.expect(Method::POST, PATH).await);
    }
    assert!(state.wait_for(|state| *state == TokenPolicyState::Enforced).await.is_ok());
    let start = tokio::time::Instant::now();
    for respond in [grant, deny] {
        respond(server.expect(Method::POST, PATH).await);
    }
    assert!(state.wait_for(|state| matches!(state, TokenPolicyState::NotEnforced(_))).await.is_ok());
    assert!(start.elapsed() <= TEST_INTERVAL);
    stop.cancel();
}
