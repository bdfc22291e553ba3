//! Pods that no profile matches.

use crate::compile::Outcome;
use crate::dialect::Dialect;
use crate::fixture::{Case, string_map};
use crate::options::MetadataOptions;
use crate::policy::{Policy, UnmatchedPods};

fn under(policies: Vec<Policy>) -> Case {
    Case { profiles: Vec::new(), policies, ..Case::new() }
}

fn facts_for_all() -> Policy {
    Policy { without_profile: Some(UnmatchedPods::Facts), ..Policy::default() }
}

fn is_denied(case: &Case) -> bool {
    matches!(case.compile().outcome, Outcome::Denied(_))
}

#[test]
fn unmatched_pod_is_denied_by_default() {
    let case = under(vec![]);
    assert!(is_denied(&case));
    assert!(is_denied(&under(vec![Policy { without_profile: Some(UnmatchedPods::Deny), ..Policy::default() }])));
    assert_eq!(case.findings(), []);
}

#[test]
fn facts_contain_nothing_of_a_profile() {
    let mut case = under(vec![facts_for_all()]);
    case.facts.pod.metadata.labels = string_map(&[("team", "a")]);
    case.on_node(&[("topology.kubernetes.io/region", "eu-west-1")]);
    case.settings.account = Some("123456789012".try_into().unwrap());
    let workload = case.workload();
    assert_eq!(workload.profile, None);
    assert_eq!(workload.options, MetadataOptions::default());
    assert_eq!(workload.instance.region.as_deref(), Some("eu-west-1"));
    assert_eq!(workload.instance.user_data, None);
    for part in [workload.ec2(), workload.ecs()] {
        assert_eq!(part.account.unwrap().as_str(), "123456789012");
        assert_eq!((part.role, part.tags, part.items), (None, vec![], vec![]));
    }
}

#[test]
fn instance_id_is_the_same_with_and_without_a_profile() {
    let bare = under(vec![facts_for_all()]).workload();
    let profiled = Case::new().workload();
    assert_eq!(bare.ec2().instance_id, profiled.ec2().instance_id);
    assert_eq!(bare.ecs().instance_id, profiled.ecs().instance_id);
}

#[test]
fn facts_are_served_in_allowed_dialects_only() {
    let ecs = Policy { allowed_dialects: Some([Dialect::Ecs].into()), ..facts_for_all() };
    let workload = under(vec![ecs]).workload();
    assert_eq!(workload.part(Dialect::Ec2), None);
    assert!(workload.part(Dialect::Ecs).is_some());
}

#[test]
fn unmatched_host_network_pod_is_denied_despite_facts() {
    let mut case = under(vec![facts_for_all()]);
    case.facts.pod.spec.host_network = true;
    assert!(is_denied(&case));
}
