//! Pods in the host network.

use crate::compile::Outcome;
use crate::finding::FindingReason;
use crate::fixture::Case;
use crate::policy::Policy;
use crate::profile::HostNetwork;

fn on_the_host(mode: HostNetwork, allowed: &[&[HostNetwork]]) -> Case {
    let mut case = Case::new();
    case.facts.pod.spec.host_network = true;
    case.profile_mut().host_network = mode;
    let allow = |modes: &&[HostNetwork]| Policy {
        name: "p".to_owned(),
        allowed_host_network: Some(modes.iter().copied().collect()),
        ..Policy::default()
    };
    case.policies = allowed.iter().map(allow).collect();
    case
}

fn forbidden() -> [(String, FindingReason); 1] {
    [("spec.hostNetwork".to_owned(), FindingReason::PolicyForbids)]
}

fn is_denied(case: &Case) -> bool {
    matches!(case.compile().outcome, Outcome::Denied(denied) if denied.pod.name == "web")
}

#[test]
fn mode_deny_denies_without_a_finding() {
    let others: &[_] = &[HostNetwork::Pod, HostNetwork::Node];
    for allowed in [vec![], vec![others]] {
        let case = on_the_host(HostNetwork::Deny, &allowed);
        assert!(is_denied(&case));
        assert_eq!(case.findings(), []);
    }
}

#[test]
fn mode_pod_serves_the_pod() {
    let case = on_the_host(HostNetwork::Pod, &[]);
    assert_eq!(case.workload().pod.name, "web");
    assert_eq!(case.findings(), []);
}

#[test]
fn mode_pod_is_denied_if_a_policy_forbids_it() {
    let case = on_the_host(HostNetwork::Pod, &[&[HostNetwork::Node]]);
    assert!(is_denied(&case));
    assert_eq!(case.findings(), forbidden());
}

#[test]
fn mode_node_is_denied_unless_a_policy_lists_it() {
    let (node, pod): (&[_], &[_]) = (&[HostNetwork::Node], &[HostNetwork::Pod]);
    for allowed in [vec![], vec![pod], vec![node, pod]] {
        let case = on_the_host(HostNetwork::Node, &allowed);
        assert!(is_denied(&case), "{allowed:?}");
        assert_eq!(case.findings(), forbidden(), "{allowed:?}");
    }
    let case = on_the_host(HostNetwork::Node, &[&[HostNetwork::Node]]);
    assert!(matches!(case.compile().outcome, Outcome::Node(pod) if pod.name == "web"));
    assert_eq!(case.findings(), []);
}

#[test]
fn mode_does_not_affect_other_pods() {
    let mut case = on_the_host(HostNetwork::Node, &[]);
    case.facts.pod.spec.host_network = false;
    assert_eq!(case.workload().pod.name, "web");
    assert_eq!(case.findings(), []);
}
