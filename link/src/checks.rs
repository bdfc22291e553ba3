//! The results of the checks of guards and links, which the tasks of the link daemon share.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use podmeta_metadata::node_guard::NodeGuardState;

/// Age from which a result is not used. Guards and links are checked at least every 5 s.
const MAX_RESULT_AGE: Duration = Duration::from_secs(30);

/// The last results.
#[derive(Debug, Default)]
pub struct SharedChecks(Mutex<CheckResults>);

#[derive(Debug, Default)]
struct CheckResults {
    /// The guards: an error if one is missing and cannot be added.
    guards: Option<TimedResult<Result<(), String>>>,
    /// Namespace and name of each running pod whose link failed at least twice in a row.
    unlinked_pods: Option<TimedResult<Vec<String>>>,
    first_pass: FirstPass,
}

/// The result of a check, and the time of the check.
#[derive(Debug)]
struct TimedResult<T> {
    result: T,
    time: Instant,
}

/// Progress of the first pass: guards, CNI configuration and links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum FirstPass {
    #[default]
    Pending,
    Complete,
}

impl<T> TimedResult<T> {
    fn if_recent(&self, now: Instant) -> Option<&T> {
        (now.duration_since(self.time) < MAX_RESULT_AGE).then_some(&self.result)
    }
}

impl SharedChecks {
    /// Records a check of the guards.
    pub(crate) fn record_guards(&self, result: Result<(), String>, time: Instant) {
        self.lock().guards = Some(TimedResult { result, time });
    }

    /// Records a check of the links. `unlinked` has namespace and name of each running pod whose link failed at
    /// least twice in a row.
    pub(crate) fn record_links(&self, unlinked: Vec<String>, time: Instant) {
        self.lock().unlinked_pods = Some(TimedResult { result: unlinked, time });
    }

    /// Records that guards, CNI configuration and links were checked once.
    pub(crate) fn record_first_pass(&self) {
        self.lock().first_pass = FirstPass::Complete;
    }

    /// Returns the state of the node. Results of checks that stopped 30 s ago or earlier are not used.
    #[must_use]
    pub fn state(&self, now: Instant) -> NodeGuardState {
        let checks = self.lock();
        let guards = checks.guards.as_ref().and_then(|timed| timed.if_recent(now));
        let unlinked = checks.unlinked_pods.as_ref().and_then(|timed| timed.if_recent(now));
        match (guards, checks.first_pass, unlinked) {
            (Some(Err(message)), _, _) => NodeGuardState::GuardsMissing { message: message.clone() },
            (_, FirstPass::Pending, _) => NodeGuardState::Starting,
            (Some(Ok(())), FirstPass::Complete, Some(unlinked)) => NodeGuardState::with_guards(unlinked.clone()),
            (None, FirstPass::Complete, _) | (_, FirstPass::Complete, None) => NodeGuardState::Unknown,
        }
    }

    fn lock(&self) -> MutexGuard<'_, CheckResults> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns checks that succeeded at `time`.
    fn complete(time: Instant) -> SharedChecks {
        let checks = SharedChecks::default();
        checks.record_guards(Ok(()), time);
        checks.record_links(Vec::new(), time);
        checks.record_first_pass();
        checks
    }

    #[test]
    fn node_is_starting_until_the_first_pass_is_complete() {
        let (checks, now) = (SharedChecks::default(), Instant::now());
        assert_eq!(checks.state(now), NodeGuardState::Starting);
        checks.record_guards(Ok(()), now);
        checks.record_links(Vec::new(), now);
        assert_eq!(checks.state(now), NodeGuardState::Starting);
        checks.record_first_pass();
        assert_eq!(checks.state(now), NodeGuardState::InPlace);
    }

    #[test]
    fn missing_guard_precedes_every_other_state() {
        let (checks, now) = (SharedChecks::default(), Instant::now());
        let missing = NodeGuardState::GuardsMissing { message: "m".to_owned() };
        checks.record_guards(Err("m".to_owned()), now);
        assert_eq!(checks.state(now), missing);
        checks.record_links(vec!["shop/web".to_owned()], now);
        checks.record_first_pass();
        assert_eq!(checks.state(now), missing);
        checks.record_guards(Ok(()), now);
        let unlinked = NodeGuardState::LinksMissing { count: 1, pods: vec!["shop/web".to_owned()] };
        assert_eq!(checks.state(now), unlinked);
    }

    #[test]
    fn state_is_unknown_when_a_check_stopped() {
        let start = Instant::now();
        let last = start + MAX_RESULT_AGE;
        assert_eq!(complete(start).state(last - Duration::from_millis(1)), NodeGuardState::InPlace);
        let checks = complete(start);
        checks.record_guards(Ok(()), last);
        assert_eq!(checks.state(last), NodeGuardState::Unknown, "the links are not checked");
        let checks = complete(start);
        checks.record_links(Vec::new(), last);
        assert_eq!(checks.state(last), NodeGuardState::Unknown, "the guards are not checked");
    }
}
