//! Static pods, which the API server knows as mirror pods, and pods without a ServiceAccount.

use crate::compile::Outcome;
use crate::dialect::Dialect;
use crate::facts::PodOrigin;
use crate::finding::FindingReason;
use crate::fixture::{Case, aliyun_oidc, link, listing, secret_role, string_map, web_identity};
use crate::options::MetadataOptions;
use crate::policy::{Policy, StaticPods, UnmatchedPods};
use crate::tree::SinceVersion;

/// Returns a mirror pod that the profile `own` would match if it were another pod, with a role, user data and tags.
fn mirror(policies: &[Policy]) -> Case {
    let mut case = Case { policies: policies.to_vec(), ..Case::full() };
    case.facts.pod.origin = PodOrigin::Mirror { static_uid: Some("static-uid".try_into().unwrap()) };
    case
}

fn policy(static_pods: StaticPods) -> Policy {
    Policy { static_pods: Some(static_pods), ..Policy::default() }
}

fn is_denied(case: &Case) -> bool {
    matches!(case.compile().outcome, Outcome::Denied(denied) if denied.pod.uid.as_str() == "static-uid")
}

#[test]
fn static_pod_is_denied_without_a_finding_unless_all_policies_allow_facts() {
    let unmatched = Policy { without_profile: Some(UnmatchedPods::Facts), ..Policy::default() };
    for policies in [
        vec![],
        vec![unmatched],
        vec![policy(StaticPods::Deny)],
        vec![policy(StaticPods::Facts), policy(StaticPods::Deny)],
    ] {
        let case = mirror(&policies);
        assert!(is_denied(&case), "{policies:?}");
        assert_eq!(case.findings(), []);
    }
}

#[test]
fn static_pod_with_facts_has_nothing_of_a_profile_and_no_document() {
    let mut case = mirror(&[policy(StaticPods::Facts)]);
    case.facts.pod.metadata.labels = string_map(&[("team", "a")]);
    let workload = case.workload();
    assert_eq!((workload.pod.uid.as_str(), workload.profile.as_ref()), ("static-uid", None));
    assert_eq!(workload.options, MetadataOptions::default());
    assert_eq!(workload.instance.region.as_deref(), Some("eu-west-1"));
    assert_eq!((workload.instance.user_data.as_ref(), workload.instance.public_keys.len()), (None, 0));
    for dialect in Dialect::ALL {
        let part = workload.part(dialect).unwrap();
        assert_eq!((part.role.as_ref(), part.tags.len(), part.items.len()), (None, 0, 0));
        let protocol = dialect.protocol();
        assert_eq!(protocol.document(&workload, &link(), None), None);
        let tree = protocol.render(&workload, &link()).unwrap();
        assert_eq!(listing(&tree, "dynamic/instance-identity", SinceVersion(u8::MAX)), None);
    }
    assert_eq!(case.findings(), []);
}

#[test]
fn static_pod_in_the_host_network_is_denied_despite_facts() {
    let mut case = mirror(&[policy(StaticPods::Facts)]);
    case.facts.pod.spec.host_network = true;
    assert!(is_denied(&case));
}

#[test]
fn pod_without_service_account_matches_no_profile_that_names_one() {
    let mut case = Case::new();
    case.profile_mut().service_accounts = ["default".to_owned()].into();
    assert!(case.compile().outcome.workload().is_some());
    case.facts.pod.spec.service_account_name = None;
    assert!(case.compile().outcome.workload().is_none());
}

#[test]
fn pod_without_service_account_gets_no_role_that_needs_its_token() {
    let mut case = Case::new();
    case.facts.pod.spec.service_account_name = None;
    let (ec2, ecs) = ("arn:aws:iam::123456789012:role/web", "acs:ram::1234567890123456:role/web");
    case.profile_mut().roles =
        [(Dialect::Ec2, web_identity("web", ec2)), (Dialect::Ecs, aliyun_oidc("web", ecs))].into();
    let workload = case.workload();
    assert_eq!((workload.ec2().role, workload.ecs().role), (None, None));
    let finding = ("spec.roles".to_owned(), FindingReason::RoleUnavailable);
    assert_eq!(case.findings(), [finding.clone(), finding]);
    case.profile_mut().roles = [(Dialect::Ec2, secret_role("web"))].into();
    assert!(case.workload().ec2().role.is_some());
}
