//! Calls to the operator on behalf of a request that is waiting.

use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};

use crate::operator_client::{OperatorClient, OperatorError};

/// Longest time that a request waits for the operator.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Delay between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(400);

/// Calls the operator. See [`call_until`].
pub(super) async fn call<A: Serialize + Sync, B: for<'de> Deserialize<'de>>(
    client: &OperatorClient,
    path: &str,
    request: &A,
) -> Result<B, OperatorError> {
    call_until(client, path, request, |_| true).await
}

/// Calls the operator until `is_current` accepts the response, for at most 3 seconds. Retries temporary failures: a
/// replica that is shutting down, or that does not know the pod or its latest version yet (403 or 5xx). Returns the
/// last response.
pub(super) async fn call_until<A: Serialize + Sync, B: for<'de> Deserialize<'de>>(
    client: &OperatorClient,
    path: &str,
    request: &A,
    is_current: impl Fn(&B) -> bool + Send,
) -> Result<B, OperatorError> {
    let deadline = Instant::now() + CALL_TIMEOUT;
    loop {
        let response = timeout_at(deadline, client.call(path, request)).await;
        let response = response.unwrap_or(Err(OperatorError::Timeout));
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
        if !is_temporary || Instant::now() + RETRY_DELAY >= deadline {
            return response;
        }
        sleep(RETRY_DELAY).await;
    }
}
