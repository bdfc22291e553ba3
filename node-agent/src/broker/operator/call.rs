//! Calls to the operator on behalf of a request that is waiting.

use std::time::Duration;

use http::StatusCode;
use podmeta_metadata::names::PodUid;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};

use super::lane::Lane;
use crate::operator_client::{OperatorClient, OperatorError};

/// Longest time that a request waits for the operator, including the wait for other calls.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Delay after the first response that is not current. It doubles up to [`RETRY_DELAY`].
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Delay between two attempts after a failure.
const RETRY_DELAY: Duration = Duration::from_millis(400);

/// Minimum time between the start of a retry and the deadline. A retry that starts later can end in a timeout. A timeout makes
/// the client change the replica, and hides the operator's error.
const MIN_RETRY_TIME: Duration = Duration::from_millis(250);

/// Error of a failed call.
#[derive(Debug, thiserror::Error)]
pub(super) enum PodCallError {
    /// The pod has too many calls of this kind in its queue. No call was made.
    #[error("the pod has too many calls to the operator in flight; retry later")]
    QueueFull,
    /// The call failed.
    #[error(transparent)]
    Operator(#[from] OperatorError),
}

/// A call for a pod in a lane.
pub(super) struct PodCall<'c, A> {
    pub(super) client: &'c OperatorClient,
    pub(super) lane: &'c Lane,
    pub(super) pod: &'c PodUid,
    pub(super) path: &'static str,
    pub(super) request: &'c A,
}

impl<A: Serialize + Sync> PodCall<'_, A> {
    /// Calls the operator. See [`Self::send_until`].
    pub(super) async fn send<B: for<'de> Deserialize<'de>>(&self) -> Result<B, PodCallError> {
        self.send_until(|_| true).await
    }

    /// Calls the operator until `is_current` accepts the response, for at most 3 seconds. Retries while the operator is
    /// unreachable, and while the replica cannot serve the call (5xx) or does not know the pod yet (403). Returns the last
    /// response.
    pub(super) async fn send_until<B: for<'de> Deserialize<'de>>(
        &self,
        is_current: impl Fn(&B) -> bool + Send,
    ) -> Result<B, PodCallError> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        let queued = self.lane.queue(self.pod).ok_or(PodCallError::QueueFull)?;
        let Ok(_started) = timeout_at(deadline, queued.start()).await else {
            return Err(OperatorError::Timeout.into());
        };
        let mut not_current_delay = FIRST_RETRY_DELAY;
        loop {
            let attempt = self.lane.attempt(self.client.call(self.path, self.request, deadline));
            let response = timeout_at(deadline, attempt).await.unwrap_or(Err(OperatorError::Timeout));
            let is_temporary = match &response {
                Ok(response) => !is_current(response),
                Err(OperatorError::Unreachable(_) | OperatorError::Status(_)) => true,
                Err(OperatorError::Rejected { status, .. }) => *status == StatusCode::FORBIDDEN,
                Err(
                    OperatorError::File { .. }
                    | OperatorError::Timeout
                    | OperatorError::VersionExpired
                    | OperatorError::InvalidResponse(_),
                ) => false,
            };
            let delay = if response.is_ok() { not_current_delay } else { RETRY_DELAY };
            if !is_temporary || !has_time_to_retry(Instant::now() + delay, deadline) {
                return Ok(response?);
            }
            sleep(delay).await;
            if response.is_ok() {
                not_current_delay = (not_current_delay * 2).min(RETRY_DELAY);
            }
        }
    }
}

/// Returns true if a retry that starts at `start` has enough time before the deadline.
fn has_time_to_retry(start: Instant, deadline: Instant) -> bool {
    deadline.saturating_duration_since(start) >= MIN_RETRY_TIME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_starts_only_if_it_has_time_for_a_response() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        assert!(has_time_to_retry(now + ms(2750), now + CALL_TIMEOUT));
        assert!(!has_time_to_retry(now + ms(2751), now + CALL_TIMEOUT));
        assert!(!has_time_to_retry(now + ms(3001), now + CALL_TIMEOUT));
    }
}
