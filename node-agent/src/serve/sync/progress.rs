//! Readiness of the agent. An agent is ready if it has a state and its attempts to list and watch make progress.

use crate::operator_client::OperatorError;

/// Number of attempts in a row without progress, with a response of the operator, after which the agent is not ready. The
/// backoff between them is 15 to 29 seconds in total.
pub(super) const MAX_FUTILE_ATTEMPTS: u32 = 5;

/// Decides from the attempts to list and watch whether the agent is ready.
pub(super) struct SyncProgress<F> {
    set_ready: F,
    /// The last readiness that was reported.
    is_ready: Option<bool>,
    /// The number of attempts in a row with a response of the operator and without progress.
    futile_attempts: u32,
    /// True if this attempt has started a watch.
    is_watching: bool,
    /// True if this attempt has applied a list or an event.
    has_advanced: bool,
}

impl<F: Fn(bool)> SyncProgress<F> {
    /// Reports changes of the readiness to `set_ready`. An agent without state is not ready until it has a list.
    pub(super) fn new(set_ready: F) -> Self {
        Self { set_ready, is_ready: None, futile_attempts: 0, is_watching: false, has_advanced: false }
    }

    /// Records that the operator accepted a watch from the version of this node.
    pub(super) fn record_watch(&mut self) {
        self.is_watching = true;
        if self.futile_attempts < MAX_FUTILE_ATTEMPTS {
            self.report(true);
        }
    }

    /// Records that a list or an event was applied.
    pub(super) fn record_advance(&mut self) {
        self.has_advanced = true;
        self.futile_attempts = 0;
        self.report(true);
    }

    /// Ends an attempt. An operator that is unavailable changes nothing, so it blocks no rollout of the agents.
    pub(super) fn end_attempt(&mut self, result: &Result<(), OperatorError>) {
        let (is_watching, has_advanced) =
            (std::mem::take(&mut self.is_watching), std::mem::take(&mut self.has_advanced));
        let has_responded = is_watching || result.as_ref().err().is_some_and(is_futile_response);
        if has_responded && !has_advanced {
            self.futile_attempts = self.futile_attempts.saturating_add(1);
        }
        if self.futile_attempts == MAX_FUTILE_ATTEMPTS && self.is_ready != Some(false) {
            tracing::error!(
                attempts = MAX_FUTILE_ATTEMPTS,
                "not ready: the operator responds, but no list or event can be applied; serving the last state"
            );
            self.report(false);
        }
    }

    fn report(&mut self, is_ready: bool) {
        if self.is_ready.replace(is_ready) != Some(is_ready) {
            (self.set_ready)(is_ready);
        }
    }
}

/// Returns true if a replica that can serve calls responded, but without progress. A 5xx status is no such response: the
/// replica is unavailable.
fn is_futile_response(error: &OperatorError) -> bool {
    match error {
        OperatorError::Rejected { .. } | OperatorError::VersionExpired | OperatorError::InvalidResponse(_) => true,
        OperatorError::File { .. }
        | OperatorError::Unreachable(_)
        | OperatorError::Timeout
        | OperatorError::Status(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use http::StatusCode;

    use super::*;

    /// Returns the changes of the readiness.
    fn changes(attempts: impl FnOnce(&mut SyncProgress<&dyn Fn(bool)>)) -> Vec<bool> {
        let changes = RefCell::new(Vec::new());
        let set_ready = |is_ready| changes.borrow_mut().push(is_ready);
        attempts(&mut SyncProgress::new(&set_ready));
        changes.into_inner()
    }

    fn invalid() -> Result<(), OperatorError> {
        Err(OperatorError::InvalidResponse("not a list".to_owned()))
    }

    #[test]
    fn only_responses_of_an_available_operator_make_the_agent_not_ready() {
        let rejected =
            || OperatorError::Rejected { status: StatusCode::FORBIDDEN, message: "no".to_owned(), leader: None };
        let file = || OperatorError::File { path: "/none".into(), reason: "missing".to_owned() };
        type MakeError = fn() -> OperatorError;
        let failures: [(MakeError, bool); 7] = [
            (rejected, true),
            (|| OperatorError::VersionExpired, true),
            (|| OperatorError::InvalidResponse("not a list".to_owned()), true),
            (file, false),
            (|| OperatorError::Unreachable("no route".to_owned()), false),
            (|| OperatorError::Timeout, false),
            (|| OperatorError::Status(StatusCode::SERVICE_UNAVAILABLE), false),
        ];
        for (failure, counts) in failures {
            let changes = changes(|progress| {
                (0..MAX_FUTILE_ATTEMPTS).for_each(|_| progress.end_attempt(&Err(failure())));
            });
            assert_eq!(changes, [false; 1][..usize::from(counts)], "{}", failure());
        }
    }

    #[test]
    fn attempt_with_an_event_is_not_counted() {
        let changes_after = |futile: u32| {
            changes(|progress| {
                progress.record_watch();
                progress.record_advance();
                progress.end_attempt(&Ok(()));
                (0..futile).for_each(|_| progress.end_attempt(&invalid()));
            })
        };
        assert_eq!(changes_after(MAX_FUTILE_ATTEMPTS - 1), [true]);
        assert_eq!(changes_after(MAX_FUTILE_ATTEMPTS), [true, false]);
    }

    #[test]
    fn agent_that_is_not_ready_becomes_ready_by_an_event_and_not_by_a_watch() {
        let changes_after = |is_event: bool| {
            changes(|progress| {
                (0..MAX_FUTILE_ATTEMPTS).for_each(|_| progress.end_attempt(&invalid()));
                if is_event {
                    progress.record_advance();
                } else {
                    progress.record_watch();
                }
            })
        };
        assert_eq!(changes_after(false), [false]);
        assert_eq!(changes_after(true), [false, true]);
    }
}
