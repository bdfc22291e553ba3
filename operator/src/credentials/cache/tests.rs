use podmeta_metadata::credentials::FailureCause;
use podmeta_metadata::secret::SecretString;

use super::*;
use crate::credentials::request::tests::web_identity;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const NO_JITTER: Jitter = Jitter(0.0);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn credentials(id: &str, issued: i64, expiration: i64) -> Credentials {
    Credentials {
        access_key_id: id.to_owned(),
        secret_access_key: SecretString::new("s".to_owned()),
        session_token: SecretString::new("t".to_owned()),
        last_updated: at(issued),
        expiration: at(expiration),
    }
}

fn failure() -> CredentialsFailure {
    CredentialsFailure::failed("no".to_owned(), FailureCause::AccessDenied, at(0))
}

fn request() -> RoleRequest {
    web_identity("shop", "u1")
}

fn with_hour(jitter: Jitter) -> SessionCache {
    let mut cache = SessionCache::default();
    cache.store(&request(), credentials("one", 0, HOUR), at(0), jitter);
    cache
}

fn stale(id: &str) -> SessionCacheState {
    SessionCacheState::Stale(credentials(id, 0, HOUR))
}

#[test]
fn renewal_starts_with_30_minutes_left_or_half_of_a_short_session() {
    let mut cache = with_hour(NO_JITTER);
    let ready = SessionCacheState::Ready(Ok(credentials("one", 0, HOUR)));
    assert_eq!(cache.state(&request(), at(30 * MINUTE - 1)), ready);
    assert_eq!(cache.state(&request(), at(30 * MINUTE)), stale("one"));
    let mut cache = SessionCache::default();
    cache.store(&request(), credentials("short", 0, 15 * MINUTE), at(0), NO_JITTER);
    assert!(matches!(cache.state(&request(), at(15 * MINUTE / 2 - 1)), SessionCacheState::Ready(Ok(_))));
    assert!(matches!(cache.state(&request(), at(15 * MINUTE / 2)), SessionCacheState::Stale(_)));
}

#[test]
fn renewal_starts_up_to_10_minutes_earlier_with_jitter() {
    let mut cache = with_hour(Jitter(0.5));
    assert_eq!(cache.due(at(25 * MINUTE - 1)), []);
    assert_eq!(cache.due(at(25 * MINUTE)), [request()]);
    assert_eq!(cache.state(&request(), at(25 * MINUTE)), stale("one"));
}

#[test]
fn credentials_are_served_until_they_expire_while_the_provider_fails() {
    let mut cache = with_hour(NO_JITTER);
    let old = credentials("one", 0, HOUR);
    for minute in [30, 45, 59] {
        let now = at(minute * MINUTE);
        assert_eq!(cache.store_failure(&request(), failure(), now, NO_JITTER), Ok(old.clone()));
        assert_eq!(cache.state(&request(), now), SessionCacheState::Ready(Ok(old.clone())), "backing off");
    }
    assert_eq!(cache.store_failure(&request(), failure(), at(HOUR), NO_JITTER), Err(failure()));
    assert_eq!(cache.state(&request(), at(HOUR)), SessionCacheState::Ready(Err(failure())));
}

#[test]
fn failure_is_cached_with_an_exponential_backoff_that_ends_with_a_success() {
    let mut cache = SessionCache::default();
    let mut now = 0;
    for backoff in [1, 2, 4, 8, 16, 32, 60, 60] {
        let _failure = cache.store_failure(&request(), failure(), at(now), NO_JITTER);
        assert_eq!(
            cache.state(&request(), at(now + backoff - 1)),
            SessionCacheState::Ready(Err(failure())),
            "{backoff}"
        );
        now += backoff;
        assert_eq!(cache.state(&request(), at(now)), SessionCacheState::Missing, "{backoff}");
    }
    cache.store(&request(), credentials("one", now, now + 1), at(now), NO_JITTER);
    let _failure = cache.store_failure(&request(), failure(), at(now + 1), NO_JITTER);
    assert_eq!(cache.state(&request(), at(now + 2)), SessionCacheState::Missing, "the first backoff");
}

#[test]
fn failure_is_not_returned_after_the_clock_was_set_back() {
    let mut cache = with_hour(NO_JITTER);
    let (hour_ahead, new) = (at(90 * MINUTE), web_identity("shop", "u2"));
    let _failure = cache.store_failure(&new, failure(), hour_ahead, NO_JITTER);
    assert_eq!(cache.state(&new, at(30 * MINUTE)), SessionCacheState::Missing);
    let _failure = cache.store_failure(&request(), failure(), hour_ahead, NO_JITTER);
    assert_eq!(cache.due(at(30 * MINUTE)), [request()]);
}

#[test]
fn jitter_is_at_most_the_second_half_of_the_backoff() {
    let mut cache = SessionCache::default();
    let _failure = cache.store_failure(&request(), failure(), at(0), Jitter::new(u32::MAX));
    assert_eq!(cache.state(&request(), at(1)), SessionCacheState::Ready(Err(failure())));
    assert_eq!(cache.state(&request(), at(2)), SessionCacheState::Missing);
}

#[test]
fn credentials_of_one_request_are_not_those_of_another() {
    let mut cache = with_hour(NO_JITTER);
    assert_eq!(cache.state(&web_identity("shop", "u2"), at(1)), SessionCacheState::Missing);
    assert_eq!(cache.state(&web_identity("attic", "u1"), at(1)), SessionCacheState::Missing);
}

#[test]
fn unused_credentials_are_not_renewed() {
    let mut cache = SessionCache::default();
    cache.store(&request(), credentials("one", 0, 4 * HOUR), at(0), NO_JITTER);
    assert_eq!(cache.due(at(4 * HOUR - 1)), [request()]);
    let renewed = credentials("two", 4 * HOUR - 1, 8 * HOUR - 1);
    cache.store(&request(), renewed, at(4 * HOUR - 1), NO_JITTER);
    assert_eq!(cache.due(at(8 * HOUR - 2)), [], "no request since the start");
}

#[test]
fn entries_end_with_their_pod_and_unused_failures_after_a_while() {
    let mut cache = with_hour(NO_JITTER);
    let other = web_identity("shop", "u2");
    let _failure = cache.store_failure(&other, failure(), at(0), NO_JITTER);
    cache.retain(at(1), |_| true);
    assert_eq!(cache.len(), 2);
    cache.retain(at(5 * MINUTE), |_| true);
    assert_eq!(cache.state(&other, at(5 * MINUTE)), SessionCacheState::Missing);
    cache.retain(at(5 * MINUTE), |request| request.pod.uid.as_str() != "u1");
    assert!(cache.is_empty());
}

#[test]
fn renewals_of_250_pods_that_start_together_are_spread_over_the_window() {
    let mut cache = SessionCache::default();
    for pod in 0..250_u32 {
        let request = web_identity("shop", &format!("u{pod}"));
        cache.store(&request, credentials("one", 0, HOUR), at(0), Jitter::new(pod * (u32::MAX / 250)));
    }
    let due = |minute: i64| cache.due(at(minute * MINUTE)).len();
    assert_eq!((due(20), due(30)), (0, 250));
    assert!((120..=130).contains(&due(25)), "{}", due(25));
}
