//! The cache of reviewed agent tokens. A token is reviewed once a minute. The last result is used until the new one exists, so
//! that a slow API server delays no agent.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::time::Instant;

use super::token_review::AgentIdentity;

/// Interval of the reviews of a token.
pub(super) const REVIEW_INTERVAL: Duration = Duration::from_secs(60);

/// Delay until a review that failed is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// The maximum age of a result. Each request also checks that the agent's pod and node still exist.
pub(super) const MAX_AGE: Duration = Duration::from_secs(300);

/// The maximum number of cached tokens. If it is exceeded the cache is cleared, and each token is reviewed again.
const MAX_TOKENS: usize = 20_000;

/// The SHA-256 of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenHash([u8; 32]);

/// The cached result of a review.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CachedReview {
    /// The result is current.
    Current(AgentIdentity),
    /// The result may be used, and the caller must start a new review. Other callers get [`CachedReview::Current`] for some
    /// seconds.
    Due(AgentIdentity),
    /// No result, or one that is too old.
    Missing,
}

/// The results by token.
#[derive(Default)]
pub(super) struct ReviewCache(Mutex<HashMap<TokenHash, ReviewEntry>>);

/// The result of the last review of one token.
struct ReviewEntry {
    agent: AgentIdentity,
    stored_at: Instant,
    /// Time of the next review.
    review_at: Instant,
    /// Time from which the result must not be used.
    unusable_at: Instant,
}

impl TokenHash {
    pub(super) fn new(token: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }
}

impl ReviewCache {
    /// Returns the result of a token's last review.
    pub(super) fn get(&self, token: TokenHash, now: Instant) -> CachedReview {
        match self.lock().get_mut(&token) {
            Some(entry) if now >= entry.unusable_at => CachedReview::Missing,
            Some(entry) if now >= entry.review_at => {
                entry.review_at = now + RETRY_DELAY;
                CachedReview::Due(entry.agent.clone())
            }
            Some(entry) => CachedReview::Current(entry.agent.clone()),
            None => CachedReview::Missing,
        }
    }

    /// Returns the result of a token if it was stored at `time` or later, and may be used at `now`.
    pub(super) fn stored_since(&self, token: TokenHash, time: Instant, now: Instant) -> Option<AgentIdentity> {
        let entries = self.lock();
        let entry = entries.get(&token)?;
        (entry.stored_at >= time && now < entry.unusable_at).then(|| entry.agent.clone())
    }

    /// Stores the result of a review that started at `started`. It is never used after the token has expired.
    pub(super) fn insert(&self, token: TokenHash, agent: AgentIdentity, started: Instant, now: Instant) {
        let mut entries = self.lock();
        if entries.len() >= MAX_TOKENS {
            entries.clear();
        }
        let unusable_at = agent.expires.min(started + MAX_AGE);
        entries.insert(token, ReviewEntry { agent, stored_at: now, review_at: started + REVIEW_INTERVAL, unusable_at });
    }

    /// Removes the result of a token that was rejected.
    pub(super) fn remove(&self, token: TokenHash) {
        self.lock().remove(&token);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TokenHash, ReviewEntry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(expires: Instant) -> AgentIdentity {
        AgentIdentity { node: "n1".to_owned(), pod: "a1".try_into().unwrap(), expires }
    }

    #[test]
    fn result_is_due_once_a_minute_and_used_for_five() {
        let (cache, token, now) = (ReviewCache::default(), TokenHash::new("t"), Instant::now());
        let agent = agent(now + Duration::from_secs(3600));
        assert_eq!(cache.get(token, now), CachedReview::Missing);
        cache.insert(token, agent.clone(), now, now);
        let at = |seconds| cache.get(token, now + Duration::from_secs(seconds));
        assert_eq!(at(59), CachedReview::Current(agent.clone()));
        assert_eq!(at(60), CachedReview::Due(agent.clone()));
        assert_eq!(at(61), CachedReview::Current(agent.clone()), "one caller reviews");
        assert_eq!(at(70), CachedReview::Due(agent.clone()), "the review failed");
        assert_eq!(at(299), CachedReview::Due(agent));
        assert_eq!(at(300), CachedReview::Missing);
        assert_eq!(cache.get(TokenHash::new("other"), now), CachedReview::Missing);
    }

    #[test]
    fn result_is_not_used_after_the_token_expires_or_is_rejected() {
        let (cache, token, now) = (ReviewCache::default(), TokenHash::new("t"), Instant::now());
        let agent = agent(now + Duration::from_secs(30));
        cache.insert(token, agent.clone(), now, now);
        assert_eq!(cache.get(token, now + Duration::from_secs(29)), CachedReview::Current(agent));
        assert_eq!(cache.get(token, now + Duration::from_secs(30)), CachedReview::Missing);
        cache.remove(token);
        assert_eq!(cache.get(token, now), CachedReview::Missing);
    }
}
