use std::collections::BTreeMap;

use http::{Method, StatusCode};
use k8s_openapi::api::authentication::v1::UserInfo;
use serde_json::json;
use tokio::time::advance;

use super::*;
use crate::agents::review_cache::REVIEW_INTERVAL;
use crate::cluster::fake_api_server::{FakeApiServer, FakeRequest};
use crate::log_capture::LogCapture;

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

const AGENT_USER: &str = "system:serviceaccount:podmeta-system:podmeta-agent";

fn status(audience: &str, user: &str, nodes: &[&str]) -> TokenReviewStatus {
    let nodes = nodes.iter().map(ToString::to_string).collect();
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(vec![audience.to_owned()]),
        user: Some(UserInfo {
            username: Some(user.to_owned()),
            extra: Some(BTreeMap::from([
                (NODE_NAME_CLAIM.to_owned(), nodes),
                (POD_UID_CLAIM.to_owned(), vec!["u1".to_owned()]),
            ])),
            ..UserInfo::default()
        }),
        error: None,
    }
}

#[test]
fn agent_token_gives_its_node_and_pod() {
    let pod: PodUid = "u1".try_into().unwrap();
    assert_eq!(agent_from_review(&status(AUDIENCE, AGENT_USER, &["a"]), AGENT_USER), Ok(("a".to_owned(), pod)));
}

#[test]
fn token_of_another_user_audience_or_without_node_is_rejected() {
    let other = "system:serviceaccount:shop:web";
    assert_eq!(
        agent_from_review(&status(AUDIENCE, other, &["a"]), AGENT_USER),
        Err(AuthError::NotAnAgent(other.into()))
    );
    assert!(matches!(
        agent_from_review(&status("https://api", AGENT_USER, &["a"]), AGENT_USER),
        Err(AuthError::NotAuthenticated(_))
    ));
    let unauthenticated = TokenReviewStatus { authenticated: Some(false), ..status(AUDIENCE, AGENT_USER, &["a"]) };
    assert!(matches!(agent_from_review(&unauthenticated, AGENT_USER), Err(AuthError::NotAuthenticated(_))));
    assert!(matches!(
        agent_from_review(&TokenReviewStatus::default(), AGENT_USER),
        Err(AuthError::NotAuthenticated(_))
    ));
    for nodes in [&[][..], &["a", "b"]] {
        assert_eq!(agent_from_review(&status(AUDIENCE, AGENT_USER, nodes), AGENT_USER), Err(AuthError::NoNode));
    }
}

#[test]
fn remaining_lifetime_ends_with_the_token() {
    use base64::Engine as _;
    let now = jiff::Timestamp::from_second(1000).unwrap();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"exp":1007}"#);
    assert_eq!(remaining_lifetime(&format!("h.{claims}.s"), now), Some(Duration::from_secs(7)));
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"exp":900}"#);
    assert_eq!(remaining_lifetime(&format!("h.{claims}.s"), now), Some(Duration::ZERO));
    assert_eq!(remaining_lifetime("not a token", now), None);
}

/// A reviewer, its API server and a token that expires in an hour.
fn fixture() -> (Arc<TokenReviewer>, FakeApiServer, String) {
    use base64::Engine as _;
    let (client, server) = FakeApiServer::new();
    let expires = jiff::Timestamp::now().as_second() + 3600;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{expires}}}"#));
    let reviewer = TokenReviewer::new(client, "podmeta-system", "podmeta-agent");
    (Arc::new(reviewer), server, format!("h.{claims}.s"))
}

async fn next_review(server: &mut FakeApiServer) -> FakeRequest {
    server.expect(Method::POST, PATH).await
}

fn respond(review: FakeRequest, status: &TokenReviewStatus) {
    review.respond(&json!({"metadata": {}, "spec": {}, "status": status}));
}

/// Calls the reviewer while the API server accepts one token.
async fn authenticate_first(reviewer: &Arc<TokenReviewer>, server: &mut FakeApiServer, token: &str) {
    let accept = async { respond(next_review(server).await, &status(AUDIENCE, AGENT_USER, &["a"])) };
    let (agent, ()) = tokio::join!(reviewer.authenticate(token, None), accept);
    assert_eq!(agent.unwrap().node, "a");
}

#[tokio::test(start_paused = true)]
async fn api_server_that_does_not_respond_delays_no_known_agent() {
    let (reviewer, mut server, token) = fixture();
    authenticate_first(&reviewer, &mut server, &token).await;
    advance(REVIEW_INTERVAL).await;
    let started = Instant::now();
    assert_eq!(reviewer.authenticate(&token, None).await.unwrap().node, "a");
    assert_eq!(started.elapsed(), Duration::ZERO);
    let _unanswered = next_review(&mut server).await;
}

#[tokio::test(start_paused = true)]
async fn token_that_the_next_review_rejects_is_not_accepted_again() {
    let (reviewer, mut server, token) = fixture();
    authenticate_first(&reviewer, &mut server, &token).await;
    advance(REVIEW_INTERVAL).await;
    assert!(reviewer.authenticate(&token, None).await.is_ok());
    let rejected = TokenReviewStatus { authenticated: Some(false), ..TokenReviewStatus::default() };
    respond(next_review(&mut server).await, &rejected);
    // The review in the background holds the lock of the address until it ends.
    let address_lock = reviewer.address_locks.get(&None);
    drop(address_lock.lock().await);
    assert_eq!(reviewer.cache.get(TokenHash::new(&token), Instant::now()), CachedReview::Missing);
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_the_review_of_one_token_cause_one_review() {
    let (reviewer, mut server, token) = fixture();
    let calls = async { tokio::join!(reviewer.authenticate(&token, None), reviewer.authenticate(&token, None)) };
    let accept = async { respond(next_review(&mut server).await, &status(AUDIENCE, AGENT_USER, &["a"])) };
    let ((first, second), ()) = tokio::join!(calls, accept);
    assert_eq!(first, second);
    assert!(first.is_ok());
}

/// Lets the next review in the background fail, and waits until it has ended.
async fn fail_review(reviewer: &TokenReviewer, server: &mut FakeApiServer) {
    next_review(server).await.respond_error(StatusCode::INTERNAL_SERVER_ERROR);
    let all_slots = u32::try_from(MAX_CONCURRENT_REVIEWS / 2).unwrap();
    let _all = reviewer.background_slots.acquire_many(all_slots).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn failed_reviews_in_the_background_are_logged_once_a_second_with_the_number_of_the_others() {
    let log = LogCapture::start("warn");
    let (reviewer, mut server, token) = fixture();
    let tokens: Vec<String> = (0..5).map(|number| format!("{token}{number}")).collect();
    for token in &tokens {
        authenticate_first(&reviewer, &mut server, token).await;
    }
    advance(REVIEW_INTERVAL).await;
    for token in &tokens[..4] {
        assert!(reviewer.authenticate(token, None).await.is_ok());
        fail_review(&reviewer, &mut server).await;
    }
    advance(Duration::from_secs(1)).await;
    assert!(reviewer.authenticate(&tokens[4], None).await.is_ok());
    fail_review(&reviewer, &mut server).await;
    let text = log.text();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("cannot review the token of an agent")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    for (line, suppressed) in lines.iter().zip(["suppressed=0", "suppressed=3"]) {
        assert!(line.contains("node=\"a\"") && line.contains(suppressed), "{line}");
    }
}
