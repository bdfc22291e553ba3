//! How policies tighten what a profile sets.

use crate::dialect::Dialect;
use crate::finding::FindingReason;
use crate::fixture::{Case, profile, secret_role, string_map, web_identity};
use crate::options::{HopLimit, HttpEndpoint, HttpTokens, MetadataOptions};
use crate::policy::{Glob, Policy};
use crate::role::ProviderKind;
use crate::selector::{Requirement, Selector};

const ARN: &str = "arn:aws:iam::123456789012:role/web";

fn hops(limit: i64) -> HopLimit {
    HopLimit::try_from(limit).unwrap()
}

fn named(name: &str) -> Policy {
    Policy { name: name.to_owned(), ..Policy::default() }
}

fn globs(patterns: &[&str]) -> Option<Vec<Glob>> {
    Some(patterns.iter().map(|pattern| Glob::try_from(*pattern).unwrap()).collect())
}

/// A pod whose profile asks for much, under these policies.
fn under(policies: Vec<Policy>) -> Case {
    let mut case = Case { policies, ..Case::new() };
    let options = MetadataOptions {
        http_tokens: HttpTokens::Optional,
        http_put_response_hop_limit: hops(8),
        ..MetadataOptions::default()
    };
    case.own().options = options;
    case.own().roles = [(Dialect::Ec2, web_identity("web", ARN)), (Dialect::Ecs, secret_role("app"))].into();
    case
}

fn found(field: &str, reason: FindingReason) -> (String, FindingReason) {
    (field.to_owned(), reason)
}

#[test]
fn without_a_policy_a_profile_gets_what_it_asks_for() {
    let case = under(vec![]);
    let workload = case.workload();
    assert_eq!(workload.options, case.profiles[0].options);
    assert_eq!(workload.ec2().role.unwrap().name.as_str(), "web");
    assert_eq!(workload.ecs().role.unwrap().name.as_str(), "app");
    assert_eq!(case.findings(), []);
}

#[test]
fn a_policy_makes_tokens_required() {
    let case = under(vec![named("a"), Policy { http_tokens: Some(HttpTokens::Required), ..named("strict") }]);
    assert_eq!(case.workload().options.http_tokens, HttpTokens::Required);
    assert_eq!(case.findings(), [found("spec.metadataOptions.httpTokens", FindingReason::PolicyTightened)]);
    assert_eq!(case.compile().findings[0].message, "MetadataPolicy strict requires tokens");
}

#[test]
fn a_policy_cuts_a_higher_hop_limit_and_the_lowest_counts() {
    let limit = |limit, name| Policy { max_hop_limit: Some(hops(limit)), ..named(name) };
    let case = under(vec![limit(4, "a"), limit(2, "b"), limit(3, "c")]);
    assert_eq!(case.workload().options.http_put_response_hop_limit, hops(2));
    assert_eq!(
        case.findings(),
        [found("spec.metadataOptions.httpPutResponseHopLimit", FindingReason::PolicyTightened)]
    );
    assert_eq!(case.compile().findings[0].message, "MetadataPolicy b allows 2 at most");
}

#[test]
fn a_profile_that_is_as_strict_as_the_policy_stays_as_it_is() {
    let mut case = under(vec![Policy {
        http_tokens: Some(HttpTokens::Required),
        max_hop_limit: Some(hops(2)),
        allowed_dialects: Some(Dialect::ALL.into()),
        allowed_role_names: globs(&["web", "app"]),
        allowed_role_arns: globs(&[ARN]),
        ..named("strict")
    }]);
    for limit in [1, 2] {
        let options = &mut case.own().options;
        (options.http_tokens, options.http_put_response_hop_limit) = (HttpTokens::Required, hops(limit));
        assert_eq!(case.workload().options, case.profiles[0].options);
        assert_eq!(case.findings(), []);
    }
}

#[test]
fn a_disabled_endpoint_is_tightened_in_silence() {
    let strict = Policy { http_tokens: Some(HttpTokens::Required), max_hop_limit: Some(hops(1)), ..named("strict") };
    let mut case = under(vec![strict]);
    case.own().options.http_endpoint = HttpEndpoint::Disabled;
    let options = case.workload().options;
    assert_eq!((options.http_tokens, options.http_put_response_hop_limit), (HttpTokens::Required, hops(1)));
    assert_eq!(case.findings(), []);
}

#[test]
fn a_dialect_that_is_not_allowed_is_left_out() {
    let case = under(vec![Policy { allowed_dialects: Some([Dialect::Ecs].into()), ..named("ecs-only") }]);
    let workload = case.workload();
    assert_eq!(workload.part(Dialect::Ec2), None);
    assert!(workload.part(Dialect::Ecs).is_some());
    assert_eq!(case.findings(), [found("spec.dialects", FindingReason::PolicyForbids)]);
    assert_eq!(case.compile().findings[0].message, "MetadataPolicy ecs-only does not allow ec2");
}

#[test]
fn a_role_that_is_not_allowed_is_left_out_whatever_forbids_it() {
    for (policy, why) in [
        (
            Policy { allowed_providers: Some([ProviderKind::Secret].into()), ..named("p") },
            "role web: MetadataPolicy p does not allow the provider awsWebIdentity",
        ),
        (
            Policy { allowed_role_names: globs(&["app", "web-*"]), ..named("p") },
            "role web: MetadataPolicy p does not allow the role name web",
        ),
        (
            Policy { allowed_role_arns: globs(&["arn:aws:iam::999999999999:role/*"]), ..named("p") },
            "role web: MetadataPolicy p does not allow the role ARN arn:aws:iam::123456789012:role/web",
        ),
    ] {
        let case = under(vec![policy]);
        let workload = case.workload();
        assert_eq!(workload.ec2().role, None, "{why}");
        assert!(workload.ecs().role.is_some(), "{why}");
        assert_eq!(case.findings(), [found("spec.roles", FindingReason::PolicyForbids)]);
        assert_eq!(case.compile().findings[0].message, why);
    }
}

#[test]
fn a_role_that_is_not_allowed_lends_the_pod_no_account() {
    let case = under(vec![]);
    assert_eq!(case.workload().ec2().account.unwrap().as_str(), "123456789012");
    let case = under(vec![Policy { allowed_role_names: globs(&["app"]), ..named("p") }]);
    assert_eq!(case.workload().ec2().account, None);
}

#[test]
fn a_pod_never_falls_through_to_another_profile() {
    let mut case = under(vec![Policy {
        allowed_dialects: Some([Dialect::Ecs].into()),
        allowed_role_names: globs(&["spare"]),
        ..named("p")
    }]);
    case.own().priority = 1;
    let mut spare = profile("spare");
    spare.roles = [(Dialect::Ecs, secret_role("spare"))].into();
    case.profiles.push(spare);
    let workload = case.workload();
    assert_eq!(workload.profile.as_ref().unwrap().name, "own");
    assert_eq!(workload.ecs().role, None);
    assert!(case.compile().findings.iter().all(|finding| finding.profile.as_ref().unwrap().name == "own"));
}

#[test]
fn a_policy_holds_for_the_namespaces_that_it_selects() {
    let production = Selector { requirements: vec![Requirement::In("stage".to_owned(), vec!["prod".to_owned()])] };
    let mut case =
        under(vec![Policy { namespaces: production, http_tokens: Some(HttpTokens::Required), ..named("p") }]);
    assert_eq!(case.workload().options.http_tokens, HttpTokens::Optional);
    case.facts.namespace.metadata.labels = string_map(&[("stage", "prod")]);
    assert_eq!(case.workload().options.http_tokens, HttpTokens::Required);
}

#[test]
fn a_policy_that_asks_for_less_changes_nothing() {
    let loose = Policy { max_hop_limit: Some(hops(64)), http_tokens: Some(HttpTokens::Optional), ..named("loose") };
    let secure = Case { policies: vec![loose.clone()], ..Case::new() };
    assert_eq!(secure.workload().options, MetadataOptions::default());
    let case = under(vec![loose]);
    assert_eq!(case.workload().options, case.profiles[0].options);
    assert_eq!((secure.findings(), case.findings()), (vec![], vec![]));
}
