use podmeta_metadata::node_finding::{NodeFindingKind, NodeFindings};
use podmeta_metadata::node_guard::NodeGuardState;
use podmeta_metadata::workload::Link;
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::broker::operator::SavedBrokerState;
use crate::serve::SavedState;
use crate::serve::fixture::{denied_item, list, node_state, pod_uid, unreachable_broker};
use crate::serve::sync::mock::{MockOperator, MockResponse, TimedCall, not_leader, unavailable};

fn start(responses: impl IntoIterator<Item = MockResponse>) -> (Arc<NodeState>, UnboundedReceiver<TimedCall>) {
    let (api, calls) = MockOperator::new(responses);
    let (node, broker) = (node_state(SavedState::default()), unreachable_broker(SavedBrokerState::default()));
    node.set_guard(NodeGuardState::InPlace);
    tokio::spawn(report(api, Arc::clone(&node), broker));
    (node, calls)
}

async fn expect(calls: &mut UnboundedReceiver<TimedCall>, expected: &[&str]) -> Duration {
    let mut time = Duration::ZERO;
    for call in expected {
        let (name, at) = calls.recv().await.unwrap();
        assert_eq!(name, *call);
        time = at;
    }
    time
}

#[tokio::test(start_paused = true)]
async fn report_follows_the_redirect_to_the_leader_and_remembers_it() {
    let (_node, mut calls) =
        start([not_leader("10.0.0.2:8443"), MockResponse::ReportAccepted, MockResponse::ReportAccepted]);
    let first = expect(&mut calls, &["report service", "report 10.0.0.2:8443"]).await;
    let next = expect(&mut calls, &["report 10.0.0.2:8443"]).await;
    let interval = next - first;
    assert!(interval >= REPORT_INTERVAL / 2 && interval <= REPORT_INTERVAL + 2 * BATCH_DELAY, "{interval:?}");
}

#[tokio::test(start_paused = true)]
async fn report_goes_to_any_replica_if_the_last_leader_is_unavailable() {
    let (_node, mut calls) = start([
        not_leader("10.0.0.2:8443"),
        MockResponse::ReportAccepted,
        unavailable(),
        not_leader("10.0.0.3:8443"),
        MockResponse::ReportAccepted,
    ]);
    expect(&mut calls, &["report service", "report 10.0.0.2:8443"]).await;
    expect(&mut calls, &["report 10.0.0.2:8443", "report service", "report 10.0.0.3:8443"]).await;
}

#[tokio::test(start_paused = true)]
async fn failed_report_is_retried_after_a_short_delay() {
    let (_node, mut calls) = start([unavailable()]);
    let first = expect(&mut calls, &["report service"]).await;
    let delay = expect(&mut calls, &["report service"]).await - first;
    assert!(delay >= RETRY_DELAY / 2 && delay <= RETRY_DELAY + 2 * BATCH_DELAY, "{delay:?}");
}

#[tokio::test(start_paused = true)]
async fn change_is_reported_after_the_batch_delay() {
    let (node, mut calls) = start([MockResponse::ReportAccepted]);
    let first = expect(&mut calls, &["report service"]).await;
    node.apply_list(list(3, vec![denied_item("a", "one")]));
    let delay = expect(&mut calls, &["report service"]).await - first;
    assert!(delay <= 2 * BATCH_DELAY, "{delay:?}");
}

#[tokio::test(start_paused = true)]
async fn changed_finding_is_reported_after_the_batch_delay() {
    let (node, mut calls) = start([MockResponse::ReportAccepted, MockResponse::ReportAccepted]);
    let first = expect(&mut calls, &["report service"]).await;
    let findings = NodeFindings::from([(NodeFindingKind::CniOrder, "rename it".to_owned())]);
    node.set_findings(findings.clone());
    let second = expect(&mut calls, &["report service"]).await;
    assert!(second - first <= 2 * BATCH_DELAY, "{:?}", second - first);
    assert_eq!(node.report(0).findings, findings);
    node.set_findings(findings);
    let third = expect(&mut calls, &["report service"]).await;
    assert!(third - second >= REPORT_INTERVAL / 2, "an unchanged finding is not reported again");
}

#[tokio::test(start_paused = true)]
async fn changed_guard_and_new_link_are_reported_after_the_batch_delay() {
    let (node, mut calls) = start([MockResponse::ReportAccepted, MockResponse::ReportAccepted]);
    let first = expect(&mut calls, &["report service"]).await;
    let missing = NodeGuardState::GuardsMissing { message: "not permitted".to_owned() };
    node.set_guard(missing.clone());
    let second = expect(&mut calls, &["report service"]).await;
    assert!(second - first <= 2 * BATCH_DELAY, "{:?}", second - first);
    assert_eq!(node.report(0).guard, missing);
    node.set_link(&pod_uid("a"), "s1", Link::from_addresses(&pod_uid("a"), &[]));
    let third = expect(&mut calls, &["report service"]).await;
    assert!(third - second <= 2 * BATCH_DELAY, "{:?}", third - second);
}

#[tokio::test(start_paused = true)]
async fn first_report_waits_until_the_link_daemon_was_called() {
    let (api, mut calls) = MockOperator::new([MockResponse::ReportAccepted]);
    let (node, broker) = (node_state(SavedState::default()), unreachable_broker(SavedBrokerState::default()));
    tokio::spawn(report(api, Arc::clone(&node), broker));
    let before = FIRST_GUARD_TIMEOUT / 2;
    assert!(timeout(before, calls.recv()).await.is_err(), "reported before");
    node.set_guard(NodeGuardState::InPlace);
    timeout(Duration::from_millis(1), expect(&mut calls, &["report service"])).await.expect("no report");
}

#[tokio::test(start_paused = true)]
async fn guard_is_reported_as_unknown_if_the_link_daemon_was_not_called_for_15_seconds() {
    let (api, mut calls) = MockOperator::new([MockResponse::ReportAccepted]);
    let (node, broker) = (node_state(SavedState::default()), unreachable_broker(SavedBrokerState::default()));
    tokio::spawn(report(api, Arc::clone(&node), broker));
    timeout(REPORT_INTERVAL, expect(&mut calls, &["report service"])).await.expect("no report");
    assert_eq!(node.report(0).guard, NodeGuardState::Unknown);
}

#[tokio::test(start_paused = true)]
async fn report_without_a_response_times_out() {
    let (_node, mut calls) = start([]);
    let first = expect(&mut calls, &["report service"]).await;
    let delay = expect(&mut calls, &["report service"]).await - first;
    assert!(delay >= REPORT_TIMEOUT + RETRY_DELAY / 2, "{delay:?}");
}
