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
    uplink_guard: UplinkChecks,
    /// Namespace and name of each running pod whose link failed at least twice in a row.
    unlinked_pods: Option<TimedResult<Vec<String>>>,
    first_pass: FirstPass,
}

/// The checks of the uplink guard.
#[derive(Debug, Default)]
enum UplinkChecks {
    /// The node does not need it.
    #[default]
    Off,
    On {
        /// An error if an interface has no program.
        programs: Option<TimedResult<Result<(), String>>>,
        /// An error if the programs do not know the cgroups of pods.
        cgroups: Option<TimedResult<Result<(), String>>>,
    },
}

/// The result of a check, and the time of the check.
#[derive(Debug)]
struct TimedResult<T> {
    result: T,
    time: Instant,
}

/// Progress of the first pass: guards, CNI configuration, redirection and links.
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

impl UplinkChecks {
    /// Returns the results that the state of the node needs.
    fn required(&self) -> Vec<Option<&TimedResult<Result<(), String>>>> {
        match self {
            Self::Off => Vec::new(),
            Self::On { programs, cgroups } => vec![programs.as_ref(), cgroups.as_ref()],
        }
    }
}

impl SharedChecks {
    /// Records a check of the routing rules and the nftables table.
    pub(crate) fn record_guards(&self, result: Result<(), String>, time: Instant) {
        self.lock().guards = Some(TimedResult { result, time });
    }

    /// Records that the node needs the uplink guard.
    pub(crate) fn require_uplink_guard(&self) {
        self.lock().uplink_guard = UplinkChecks::On { programs: None, cgroups: None };
    }

    /// Records a check of the programs of the uplink guard.
    pub(crate) fn record_uplink_programs(&self, result: Result<(), String>, time: Instant) {
        if let UplinkChecks::On { programs, .. } = &mut self.lock().uplink_guard {
            *programs = Some(TimedResult { result, time });
        }
    }

    /// Records whether the programs of the uplink guard know the cgroups of pods.
    pub(crate) fn record_pod_cgroups(&self, result: Result<(), String>, time: Instant) {
        if let UplinkChecks::On { cgroups, .. } = &mut self.lock().uplink_guard {
            *cgroups = Some(TimedResult { result, time });
        }
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
        let required = std::iter::once(checks.guards.as_ref()).chain(checks.uplink_guard.required());
        let required = required.map(|timed| timed?.if_recent(now)).collect::<Vec<_>>();
        let missing = required.iter().find(|result| matches!(result, Some(Err(_))));
        let unknown = required.iter().find(|result| result.is_none());
        let guards = missing.or(unknown).copied().unwrap_or(Some(&Ok(())));
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
    fn node_without_a_required_uplink_guard_is_not_guarded() {
        let now = Instant::now();
        let checks = complete(now);
        checks.record_uplink_programs(Err("off".to_owned()), now);
        assert_eq!(checks.state(now), NodeGuardState::InPlace, "the guard is off");
        checks.require_uplink_guard();
        assert_eq!(checks.state(now), NodeGuardState::Unknown, "it was not checked");
        checks.record_uplink_programs(Ok(()), now);
        assert_eq!(checks.state(now), NodeGuardState::Unknown, "the cgroups were not checked");
        let missing = |message: &str| NodeGuardState::GuardsMissing { message: message.to_owned() };
        checks.record_pod_cgroups(Err("no cgroup".to_owned()), now);
        assert_eq!(checks.state(now), missing("no cgroup"));
        checks.record_pod_cgroups(Ok(()), now);
        assert_eq!(checks.state(now), NodeGuardState::InPlace);
        checks.record_uplink_programs(Err("no program".to_owned()), now);
        assert_eq!(checks.state(now), missing("no program"));
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
