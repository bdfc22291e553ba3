use podmeta_agent_api::calls::Report;
use serde_json::json;
use tokio::sync::oneshot;

use super::*;
use crate::model::update::StateUpdate;
use crate::reconcile::fixture;

fn agents() -> AgentAccount {
    AgentAccount { namespace: "podmeta-system".to_owned(), name: "podmeta-agent".to_owned() }
}

/// Returns a leader's state with the objects of the fixture. Nodes n1 and n2 have an agent's pod, and n3 has not.
fn new_state() -> OperatorState {
    let mut state = OperatorState::new(podmeta_metadata::compile::Settings::default(), "e1".parse().unwrap());
    fixture::updates().into_iter().for_each(|update| state.apply(update));
    state.apply(node("n3", None));
    state.apply(StateUpdate::Leadership(true));
    state
}

/// Returns the update of a node that has this condition.
fn node(name: &str, condition: Option<(&str, &str, &str)>) -> StateUpdate {
    let conditions = condition.into_iter().map(|(status, reason, message)| {
        let time = "2026-01-05T08:30:00Z";
        json!({"type": GUARDED, "status": status, "reason": reason, "message": message, "lastTransitionTime": time})
    });
    let conditions = conditions.chain([json!({"type": "Ready", "status": "True"})]).collect::<Vec<_>>();
    let node = json!({"metadata": {"name": name}, "status": {"conditions": conditions}});
    fixture::node_update(&serde_json::from_value(node).unwrap())
}

fn report(state: &mut OperatorState, node: &str, guard: NodeGuardState, received: Instant) {
    report_with(state, node, Report { guard, ..Report::default() }, received);
}

fn report_with(state: &mut OperatorState, node: &str, report: Report, received: Instant) {
    let (recorded, _) = oneshot::channel();
    state.apply(StateUpdate::Report { node: node.into(), report, received, recorded });
}

/// Returns name, status and reason of each node, sorted.
fn conditions(state: &OperatorState, now: Instant) -> Vec<(String, &'static str, &'static str)> {
    let nodes = state.guarded_nodes(&agents(), now).into_iter();
    let mut nodes =
        nodes.map(|node| (node.name, node.reason.status().as_str(), node.reason.as_str())).collect::<Vec<_>>();
    nodes.sort();
    nodes
}

fn expected(nodes: &[(&str, &'static str, &'static str)]) -> Vec<(String, &'static str, &'static str)> {
    nodes.iter().map(|(node, status, reason)| ((*node).to_owned(), *status, *reason)).collect()
}

#[test]
fn node_with_an_agent_and_no_report_is_unknown() {
    let state = new_state();
    let no_report = [("n1", "Unknown", "NoReport"), ("n2", "Unknown", "NoReport")];
    assert_eq!(conditions(&state, Instant::now()), expected(&no_report), "n3 has no agent");
    let other = AgentAccount { name: "other".to_owned(), ..agents() };
    assert_eq!(state.guarded_nodes(&other, Instant::now()), []);
}

#[test]
fn reported_state_is_the_condition_until_the_report_expires() {
    let (mut state, now) = (new_state(), Instant::now());
    let unlinked = NodeGuardState::LinksMissing { count: 7, pods: vec!["shop/a".to_owned(), "shop/b".to_owned()] };
    let missing = NodeGuardState::GuardsMissing { message: "not\npermitted".to_owned() };
    for (guard, status, reason, message) in [
        (NodeGuardState::InPlace, "True", "GuardsInPlace", "table and, if it is on, the uplink guard are in place"),
        (unlinked, "False", "LinksMissing", "without a link: 7 (shop/a, shop/b and 5 more)"),
        (missing, "False", "GuardsMissing", "not permitted"),
        (NodeGuardState::Starting, "Unknown", "LinkDaemonStarting", "first check"),
        (NodeGuardState::Unknown, "Unknown", "LinkDaemonUnavailable", "not reachable"),
    ] {
        report(&mut state, "n1", guard, now);
        let last = now + REPORT_EXPIRY;
        let reported = [("n1", status, reason), ("n2", "Unknown", "NoReport")];
        assert_eq!(conditions(&state, last - Duration::from_millis(1)), expected(&reported));
        let node = state.guarded_nodes(&agents(), now).into_iter().find(|node| node.name == "n1").unwrap();
        assert!(node.message.contains(message), "{}", node.message);
        let expired = [("n1", "Unknown", "NoReport"), ("n2", "Unknown", "NoReport")];
        assert_eq!(conditions(&state, last), expected(&expired));
    }
}

#[test]
fn findings_about_ways_past_the_guards_are_the_condition_of_a_node_with_guards() {
    use NodeFindingKind::{CniOrder, Nat64, PodDevices};
    let (mut state, now) = (new_state(), Instant::now());
    let unlinked = NodeGuardState::LinksMissing { count: 1, pods: vec!["shop/a".to_owned()] };
    let missing = NodeGuardState::GuardsMissing { message: "not permitted".to_owned() };
    for (guard, kinds, expected) in [
        (NodeGuardState::InPlace, vec![CniOrder], ("True", "GuardsInPlace", "are in place")),
        (NodeGuardState::InPlace, vec![Nat64], ("True", "AddressTranslation", "lack a link; text of nat64")),
        (NodeGuardState::InPlace, vec![Nat64, PodDevices], ("False", "DevicesInPods", "text of pod-devices")),
        (unlinked.clone(), vec![PodDevices], ("False", "DevicesInPods", "text of pod-devices")),
        (unlinked, vec![Nat64], ("False", "LinksMissing", "shop/a")),
        (missing, vec![Nat64, PodDevices], ("False", "GuardsMissing", "not permitted")),
        (NodeGuardState::Starting, vec![PodDevices], ("Unknown", "LinkDaemonStarting", "first check")),
        (NodeGuardState::InPlace, vec![], ("True", "GuardsInPlace", "are in place")),
    ] {
        let findings = kinds.iter().map(|kind| (*kind, format!("text of {}", kind.as_str()))).collect();
        report_with(&mut state, "n1", Report { guard, findings, ..Report::default() }, now);
        let node = state.guarded_node("n1", &agents(), now).unwrap();
        assert_eq!((node.reason.status().as_str(), node.reason.as_str()), (expected.0, expected.1), "{kinds:?}");
        assert!(node.message.contains(expected.2), "{}", node.message);
    }
}

#[test]
fn condition_of_a_node_without_an_agent_becomes_unknown() {
    let mut state = new_state();
    state.apply(node("n3", Some(("True", "GuardsInPlace", "m"))));
    assert_eq!(conditions(&state, Instant::now())[2], ("n3".to_owned(), "Unknown", "NoReport"));
    state.apply(StateUpdate::NodeDeleted("n3".to_owned()));
    assert_eq!(conditions(&state, Instant::now()).len(), 2);
}

#[test]
fn report_of_a_deleted_node_does_not_count_for_a_new_node_with_its_name() {
    let (mut state, now) = (new_state(), Instant::now());
    report(&mut state, "n1", NodeGuardState::InPlace, now);
    state.apply(StateUpdate::NodeDeleted("n1".to_owned()));
    state.apply(node("n1", None));
    assert_eq!(conditions(&state, now)[0], ("n1".to_owned(), "Unknown", "NoReport"));
}

/// Returns the update of node n1 with this UID and boot ID.
fn incarnation(uid: &str, boot_id: &str) -> StateUpdate {
    let info = json!({"architecture": "", "bootID": boot_id, "containerRuntimeVersion": "", "kernelVersion": "",
        "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "",
        "systemUUID": ""});
    let node = json!({"metadata": {"name": "n1", "uid": uid}, "status": {"nodeInfo": info}});
    fixture::node_update(&serde_json::from_value(node).unwrap())
}

#[test]
fn report_does_not_count_for_a_node_that_replaces_another_without_a_deletion() {
    let (mut state, now) = (new_state(), Instant::now());
    state.apply(incarnation("uid-1", "boot-1"));
    report(&mut state, "n1", NodeGuardState::InPlace, now);
    state.apply(incarnation("uid-1", "boot-1"));
    assert_eq!(conditions(&state, now)[0], ("n1".to_owned(), "True", "GuardsInPlace"));
    assert!(state.reports.contains_key("n1"));
    state.apply(incarnation("uid-2", "boot-1"));
    assert_eq!(conditions(&state, now)[0], ("n1".to_owned(), "Unknown", "NoReport"));
    assert!(!state.reports.contains_key("n1"));
}

#[test]
fn guard_state_does_not_count_after_a_reboot() {
    let (mut state, now) = (new_state(), Instant::now());
    state.apply(incarnation("uid-1", ""));
    report(&mut state, "n1", NodeGuardState::InPlace, now);
    state.apply(incarnation("uid-1", "boot-1"));
    assert_eq!(conditions(&state, now)[0], ("n1".to_owned(), "True", "GuardsInPlace"), "the first boot ID");
    state.apply(incarnation("uid-1", "boot-2"));
    assert_eq!(conditions(&state, now)[0], ("n1".to_owned(), "Unknown", "NoReport"));
    assert!(state.reports.contains_key("n1"), "the pods stay");
}

#[test]
fn report_of_a_node_that_does_not_exist_is_ignored() {
    let (mut state, now) = (new_state(), Instant::now());
    state.apply(StateUpdate::NodeDeleted("n1".to_owned()));
    report(&mut state, "n1", NodeGuardState::InPlace, now);
    state.apply(node("n1", None));
    assert_eq!(conditions(&state, now)[0], ("n1".to_owned(), "Unknown", "NoReport"));
}

#[test]
fn condition_that_was_written_to_a_replaced_node_is_not_recorded() {
    let (mut state, now) = (new_state(), Instant::now());
    state.apply(incarnation("uid-2", ""));
    let condition = state.guarded_nodes(&agents(), now)[0].next(Timestamp::UNIX_EPOCH);
    let written = |uid: &str| {
        let condition = condition.clone();
        StateUpdate::GuardedWritten { node: "n1".to_owned(), uid: uid.to_owned(), condition }
    };
    state.apply(written("uid-1"));
    assert!(!state.guarded_conditions.contains_key("n1"));
    state.apply(written("uid-2"));
    assert!(state.guarded_conditions.contains_key("n1"));
}

#[test]
fn former_leader_has_no_reports() {
    let (mut state, now) = (new_state(), Instant::now());
    report(&mut state, "n1", NodeGuardState::InPlace, now);
    state.apply(StateUpdate::Leadership(false));
    assert_eq!(conditions(&state, now)[0], ("n1".to_owned(), "Unknown", "NoReport"));
}

#[test]
fn condition_is_written_if_it_differs_and_keeps_the_time_of_an_unchanged_status() {
    let (mut state, now) = (new_state(), Instant::now());
    let (before, time) = ("2026-01-05T08:30:00Z".parse::<Timestamp>().unwrap(), Timestamp::UNIX_EPOCH);
    let message =
        "the leader has no report of the node agent from the last 75 seconds: check the agent's pod on this node";
    for (known, has_changed, needs_event, transition) in [
        (None, true, false, time),
        (Some(("Unknown", "NoReport", message)), false, false, before),
        (Some(("Unknown", "NoReport", "other")), true, false, before),
        (Some(("Unknown", "LinkDaemonUnavailable", message)), true, true, before),
        (Some(("True", "GuardsInPlace", "m")), true, true, time),
    ] {
        state.apply(node("n1", known));
        let node = state.guarded_nodes(&agents(), now).into_iter().find(|node| node.name == "n1").unwrap();
        assert_eq!((node.has_changed(), node.needs_event()), (has_changed, needs_event), "{known:?}");
        let next = node.next(time);
        assert_eq!((next.status.as_str(), next.last_transition), ("Unknown", transition), "{known:?}");
    }
    state.apply(node("n1", None));
    report(&mut state, "n1", NodeGuardState::InPlace, now);
    let node = state.guarded_nodes(&agents(), now).into_iter().find(|node| node.name == "n1").unwrap();
    assert!(node.needs_event(), "the first status that is not unknown is an event");
}

#[test]
fn texts_of_an_agent_are_cut() {
    let pods = vec!["x\n".repeat(1000); 100];
    let reported = ReportedGuard::new(NodeGuardState::LinksMissing { count: 100, pods }, Instant::now());
    let NodeGuardState::LinksMissing { pods, .. } = reported.state else { panic!("{reported:?}") };
    assert_eq!(pods.len(), MAX_NAMED_PODS);
    assert!(pods.iter().all(|pod| pod.len() == 512 && !pod.contains('\n')), "{pods:?}");
}
