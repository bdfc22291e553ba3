//! The findings and the guard state of a node as its agent reports them: those of the link daemon, and of the agent itself
//! while the daemon is unavailable. Pure: time is an argument.

use std::time::Duration;

use anyhow::Error;
use podmeta_link::protocol::LinkNodeStatus;
use podmeta_link::requirements::check_kernel;
use podmeta_metadata::node_finding::{NodeFindingKind, NodeFindings};
use podmeta_metadata::node_guard::NodeGuardState;
use tokio::time::Instant;

/// If calls of the link daemon fail for this time, the failure is a finding and the guard state is unknown. An update of the
/// daemon takes less time. The guards stay in place without the daemon.
const OUTAGE_GRACE: Duration = Duration::from_secs(60);

/// The findings and the guard state of a node.
#[derive(Debug, Default)]
pub(super) struct LinkFindings {
    /// The last findings of the daemon.
    of_daemon: NodeFindings,
    /// The last guard state of the daemon.
    guard: NodeGuardState,
    /// The time of the daemon's last report that the guards are in place. `None` if it reported another state after it. The
    /// state of a daemon that starts does not count.
    in_place: Option<Instant>,
    /// Time of the first failed call after the last successful one.
    failing_since: Option<Instant>,
}

impl LinkFindings {
    /// Records the findings and the guard state of the daemon.
    pub(super) fn record_status(&mut self, status: LinkNodeStatus, now: Instant) {
        (self.of_daemon, self.guard) = (status.findings, status.guard);
        match self.guard {
            NodeGuardState::InPlace => self.in_place = Some(now),
            NodeGuardState::Starting => {}
            _ => self.in_place = None,
        }
    }

    /// Returns the guard state: the last one of the daemon, or unknown if calls have failed for too long. A daemon that starts
    /// again does not change guards in place, so that state is kept for a minute.
    pub(super) fn guard(&self, now: Instant) -> NodeGuardState {
        let has_failed = self.failing_since.is_some_and(|since| now.duration_since(since) >= OUTAGE_GRACE);
        let was_in_place = self.in_place.is_some_and(|time| now.duration_since(time) < OUTAGE_GRACE);
        match &self.guard {
            _ if has_failed => NodeGuardState::Unknown,
            NodeGuardState::Starting if was_in_place => NodeGuardState::InPlace,
            guard => guard.clone(),
        }
    }

    /// Records the result of a check and returns the current findings. On a kernel that is too old the daemon does not start,
    /// so the agent reports the kernel itself.
    pub(super) fn record_check(&mut self, error: Option<&Error>, kernel_release: &str, now: Instant) -> NodeFindings {
        let mut findings = self.of_daemon.clone();
        let Some(error) = error else {
            self.failing_since = None;
            return findings;
        };
        let failing_since = *self.failing_since.get_or_insert(now);
        if now.duration_since(failing_since) >= OUTAGE_GRACE {
            let message = format!("{error:#}; read the log of the link daemon on this node");
            findings.insert(NodeFindingKind::LinkDaemon, message);
            findings.extend(check_kernel(kernel_release).map(|message| (NodeFindingKind::Kernel, message)));
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use podmeta_link::counters::CounterSnapshot;
    use podmeta_link::netns::Netns;

    use podmeta_link::protocol::HostPodsMode;

    use super::*;

    const KERNEL: &str = "6.1.0";

    fn error() -> Error {
        Error::msg("connection refused").context("cannot call the link daemon")
    }

    fn status(findings: NodeFindings, guard: NodeGuardState) -> LinkNodeStatus {
        let namespace = Netns::current().unwrap().id().unwrap();
        LinkNodeStatus {
            namespace,
            counters: CounterSnapshot::default(),
            findings,
            guard,
            host_pods: HostPodsMode::NotServed,
        }
    }

    #[test]
    fn guard_state_is_kept_for_a_minute_of_failures() {
        let (mut findings, start) = (LinkFindings::default(), Instant::now());
        assert_eq!(findings.guard(start), NodeGuardState::Unknown, "the daemon was not called");
        findings.record_status(status(NodeFindings::new(), NodeGuardState::InPlace), start);
        findings.record_check(Some(&error()), KERNEL, start);
        assert_eq!(findings.guard(start + Duration::from_secs(59)), NodeGuardState::InPlace);
        assert_eq!(findings.guard(start + OUTAGE_GRACE), NodeGuardState::Unknown);
        findings.record_check(None, KERNEL, start + OUTAGE_GRACE);
        assert_eq!(findings.guard(start + OUTAGE_GRACE), NodeGuardState::InPlace);
    }

    #[test]
    fn guards_in_place_are_kept_for_a_minute_while_the_daemon_starts_again() {
        let (mut findings, start) = (LinkFindings::default(), Instant::now());
        let mut guard = |guard: NodeGuardState, second| {
            let now = start + Duration::from_secs(second);
            findings.record_status(status(NodeFindings::new(), guard), now);
            findings.guard(now)
        };
        assert_eq!(guard(NodeGuardState::Starting, 0), NodeGuardState::Starting, "the first start");
        assert_eq!(guard(NodeGuardState::InPlace, 10), NodeGuardState::InPlace);
        assert_eq!(guard(NodeGuardState::Starting, 69), NodeGuardState::InPlace);
        assert_eq!(guard(NodeGuardState::Starting, 70), NodeGuardState::Starting);
        let missing = NodeGuardState::GuardsMissing { message: "m".to_owned() };
        assert_eq!(guard(NodeGuardState::InPlace, 80), NodeGuardState::InPlace);
        assert_eq!(guard(missing.clone(), 85), missing);
        assert_eq!(guard(NodeGuardState::Starting, 90), NodeGuardState::Starting, "a guard was missing");
    }

    #[test]
    fn daemon_that_fails_for_a_minute_is_a_finding_until_it_responds() {
        let (mut findings, start) = (LinkFindings::default(), Instant::now());
        let mut check =
            |error: Option<&Error>, second| findings.record_check(error, KERNEL, start + Duration::from_secs(second));
        assert_eq!(check(None, 0), NodeFindings::new());
        assert_eq!(check(Some(&error()), 100), NodeFindings::new());
        assert_eq!(check(Some(&error()), 159), NodeFindings::new());
        let found = check(Some(&error()), 160);
        let message = "cannot call the link daemon: connection refused; read the log of the link daemon on this node";
        assert_eq!(found, NodeFindings::from([(NodeFindingKind::LinkDaemon, message.to_owned())]));
        assert_eq!(check(None, 161), NodeFindings::new());
        assert_eq!(check(Some(&error()), 162), NodeFindings::new(), "the time starts again");
    }

    #[test]
    fn findings_of_the_daemon_are_kept_while_it_fails() {
        let (mut findings, now) = (LinkFindings::default(), Instant::now());
        let of_daemon = NodeFindings::from([(NodeFindingKind::CniOrder, "00-multus.conf".to_owned())]);
        findings.record_status(status(of_daemon.clone(), NodeGuardState::InPlace), now);
        assert_eq!(findings.record_check(None, KERNEL, now), of_daemon);
        assert_eq!(findings.record_check(Some(&error()), KERNEL, now), of_daemon);
    }

    #[test]
    fn old_kernel_is_a_finding_of_the_agent_if_the_daemon_does_not_start() {
        let (mut findings, start) = (LinkFindings::default(), Instant::now());
        findings.record_check(Some(&error()), "5.10.0", start);
        let found = findings.record_check(Some(&error()), "5.10.0", start + OUTAGE_GRACE);
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [NodeFindingKind::Kernel, NodeFindingKind::LinkDaemon]);
    }
}
