//! What a pod in the node's network namespace gets.

use crate::compile::Outcome;
use crate::finding::FindingReason;
use crate::fixture::Case;
use crate::policy::Policy;
use crate::profile::HostNetwork;

fn on_the_host(mode: HostNetwork, allowed: &[&[HostNetwork]]) -> Case {
    let mut case = Case::new();
    case.facts.pod.spec.host_network = true;
    case.own().host_network = mode;
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
fn deny_denies_and_is_no_finding_whatever_is_allowed() {
    let others: &[_] = &[HostNetwork::Pod, HostNetwork::Node];
    for allowed in [vec![], vec![others]] {
        let case = on_the_host(HostNetwork::Deny, &allowed);
        assert!(is_denied(&case));
        assert_eq!(case.findings(), []);
    }
}

#[test]
fn pod_gives_it_its_own_identity() {
    let case = on_the_host(HostNetwork::Pod, &[]);
    assert_eq!(case.workload().pod.name, "web");
    assert_eq!(case.findings(), []);
}

#[test]
fn pod_is_denied_where_a_policy_forbids_it() {
    let case = on_the_host(HostNetwork::Pod, &[&[HostNetwork::Node]]);
    assert!(is_denied(&case));
    assert_eq!(case.findings(), forbidden());
}

#[test]
fn node_is_denied_until_a_policy_allows_it_by_name() {
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
fn a_pod_of_its_own_network_does_not_care() {
    let mut case = on_the_host(HostNetwork::Node, &[]);
    case.facts.pod.spec.host_network = false;
    assert_eq!(case.workload().pod.name, "web");
    assert_eq!(case.findings(), []);
}
