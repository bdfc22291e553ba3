//! Policies that restrict a profile.

use crate::dialect::Dialect;
use crate::finding::FindingReason;
use crate::fixture::{Case, aliyun_oidc, profile, secret_role, string_map, web_identity};
use crate::options::{HopLimit, HttpEndpoint, HttpTokens, MetadataOptions};
use crate::policy::{Glob, Policy};
use crate::profile::{KeyRef, UserDataSource};
use crate::role::ProviderKind;
use crate::selector::{Requirement, Selector};
use crate::workload::UserData;

const ARN: &str = "arn:aws:iam::123456789012:role/web";
const OIDC_ARN: &str = "acs:ram::1234567890123456:role/app";

fn hops(limit: i64) -> HopLimit {
    HopLimit::try_from(limit).unwrap()
}

fn named(name: &str) -> Policy {
    Policy { name: name.to_owned(), ..Policy::default() }
}

fn globs(patterns: &[&str]) -> Option<Vec<Glob>> {
    Some(patterns.iter().map(|pattern| Glob::try_from(*pattern).unwrap()).collect())
}

/// Returns a pod with a permissive profile and these policies.
fn with_policies(policies: Vec<Policy>) -> Case {
    let mut case = Case { policies, ..Case::new() };
    let options = MetadataOptions {
        http_tokens: HttpTokens::Optional,
        http_put_response_hop_limit: hops(8),
        ..MetadataOptions::default()
    };
    case.profile_mut().options = options;
    case.profile_mut().roles = [(Dialect::Ec2, web_identity("web", ARN)), (Dialect::Ecs, secret_role("app"))].into();
    case
}

fn finding(field: &str, reason: FindingReason) -> (String, FindingReason) {
    (field.to_owned(), reason)
}

#[test]
fn profile_without_a_policy_is_unchanged() {
    let case = with_policies(vec![]);
    let workload = case.workload();
    assert_eq!(workload.options, case.profiles[0].options);
    assert_eq!(workload.ec2().role.unwrap().name.as_str(), "web");
    assert_eq!(workload.ecs().role.unwrap().name.as_str(), "app");
    assert_eq!(case.findings(), []);
}

#[test]
fn policy_requires_tokens() {
    let case = with_policies(vec![named("a"), Policy { http_tokens: Some(HttpTokens::Required), ..named("strict") }]);
    assert_eq!(case.workload().options.http_tokens, HttpTokens::Required);
    assert_eq!(case.findings(), [finding("spec.metadataOptions.httpTokens", FindingReason::PolicyTightened)]);
    assert_eq!(case.compile().findings[0].message, "MetadataPolicy strict requires tokens");
}

#[test]
fn lowest_maximum_of_the_hop_limit_applies() {
    let limit = |limit, name| Policy { max_hop_limit: Some(hops(limit)), ..named(name) };
    let case = with_policies(vec![limit(4, "a"), limit(2, "b"), limit(3, "c")]);
    assert_eq!(case.workload().options.http_put_response_hop_limit, hops(2));
    assert_eq!(
        case.findings(),
        [finding("spec.metadataOptions.httpPutResponseHopLimit", FindingReason::PolicyTightened)]
    );
    assert_eq!(case.compile().findings[0].message, "MetadataPolicy b allows 2 at most");
}

#[test]
fn profile_as_strict_as_the_policy_is_unchanged() {
    let mut case = with_policies(vec![Policy {
        http_tokens: Some(HttpTokens::Required),
        max_hop_limit: Some(hops(2)),
        allowed_dialects: Some(Dialect::ALL.into()),
        allowed_role_names: globs(&["web", "app"]),
        allowed_role_arns: globs(&[ARN, OIDC_ARN]),
        allowed_account_ids: Some(["222222222222".try_into().unwrap()].into()),
        allowed_regions: Some(["eu-west-1".try_into().unwrap()].into()),
        ..named("strict")
    }]);
    let own = case.profile_mut();
    own.roles.insert(Dialect::Ecs, aliyun_oidc("app", OIDC_ARN));
    own.instance.account_id = Some("222222222222".try_into().unwrap());
    own.instance.region = Some("eu-west-1".try_into().unwrap());
    for limit in [1, 2] {
        let options = &mut case.profile_mut().options;
        (options.http_tokens, options.http_put_response_hop_limit) = (HttpTokens::Required, hops(limit));
        assert_eq!(case.workload().options, case.profiles[0].options);
        assert_eq!(case.findings(), []);
    }
}

#[test]
fn tightened_options_of_a_disabled_endpoint_give_no_finding() {
    let strict = Policy { http_tokens: Some(HttpTokens::Required), max_hop_limit: Some(hops(1)), ..named("strict") };
    let mut case = with_policies(vec![strict]);
    case.profile_mut().options.http_endpoint = HttpEndpoint::Disabled;
    let options = case.workload().options;
    assert_eq!((options.http_tokens, options.http_put_response_hop_limit), (HttpTokens::Required, hops(1)));
    assert_eq!(case.findings(), []);
}

#[test]
fn forbidden_dialect_is_left_out() {
    let case = with_policies(vec![Policy { allowed_dialects: Some([Dialect::Ecs].into()), ..named("ecs-only") }]);
    let workload = case.workload();
    assert_eq!(workload.part(Dialect::Ec2), None);
    assert!(workload.part(Dialect::Ecs).is_some());
    assert_eq!(case.findings(), [finding("spec.dialects", FindingReason::PolicyForbids)]);
    assert_eq!(case.compile().findings[0].message, "MetadataPolicy ecs-only does not allow ec2");
}

#[test]
fn forbidden_secret_is_left_out_of_roles_and_user_data() {
    let mut case = with_policies(vec![Policy { allowed_secrets: globs(&["web-*"]), ..named("p") }]);
    let key = KeyRef { name: "web-boot".to_owned(), key: "script".to_owned() };
    case.profile_mut().user_data = Some(UserDataSource::Secret(key.clone()));
    let workload = case.workload();
    assert_eq!((&workload.ecs().role, workload.ec2().role.is_some()), (&None, true));
    assert_eq!(workload.instance.user_data, Some(UserData::Secret(key.clone())));
    assert_eq!(case.findings(), [finding("spec.roles", FindingReason::PolicyForbids)]);
    let message = "MetadataPolicy p does not allow the Secret app-keys";
    assert_eq!(case.compile().findings[0].message, format!("role app: {message}"));

    case.profile_mut().user_data = Some(UserDataSource::Secret(KeyRef { name: "app-keys".to_owned(), ..key }));
    assert_eq!(case.workload().instance.user_data, None);
    let forbidden = |field| finding(field, FindingReason::PolicyForbids);
    assert_eq!(case.findings(), [forbidden("spec.roles"), forbidden("spec.userData.secretKeyRef")]);
    assert_eq!(case.compile().findings[1].message, message);
}

#[test]
fn forbidden_role_is_left_out() {
    for (policy, message) in [
        (
            Policy { allowed_providers: Some([ProviderKind::AliyunOidc].into()), ..named("p") },
            "role web: MetadataPolicy p does not allow the provider awsWebIdentity",
        ),
        (
            Policy { allowed_role_names: globs(&["app", "web-*"]), ..named("p") },
            "role web: MetadataPolicy p does not allow the role name web",
        ),
        (
            Policy { allowed_role_arns: globs(&["arn:aws:iam::999999999999:role/*", "acs:*"]), ..named("p") },
            "role web: MetadataPolicy p does not allow the role ARN arn:aws:iam::123456789012:role/web",
        ),
    ] {
        let mut case = with_policies(vec![policy]);
        case.profile_mut().roles.insert(Dialect::Ecs, aliyun_oidc("app", OIDC_ARN));
        let workload = case.workload();
        assert_eq!(workload.ec2().role, None, "{message}");
        assert!(workload.ecs().role.is_some(), "{message}");
        assert_eq!(case.findings(), [finding("spec.roles", FindingReason::PolicyForbids)]);
        assert_eq!(case.compile().findings[0].message, message);
    }
}

#[test]
fn longer_session_than_the_maximum_is_reduced() {
    let maximum = Policy { max_session_duration: Some(7200.try_into().unwrap()), ..named("p") };
    let mut case = with_policies(vec![maximum]);
    for (seconds, expected, findings) in [
        (3600, 3600, vec![]),
        (7200, 7200, vec![]),
        (7201, 7200, vec![finding("spec.roles", FindingReason::PolicyTightened)]),
    ] {
        let role = case.profile_mut().roles.get_mut(&Dialect::Ec2).unwrap();
        *role.provider.duration_mut().unwrap() = seconds.try_into().unwrap();
        let mut role = case.workload().ec2().role.unwrap();
        assert_eq!(role.provider.duration_mut().unwrap().seconds(), expected);
        assert_eq!(case.findings(), findings, "{seconds}");
    }
    let message = "role web: durationSeconds is reduced to 7200, the maximum of MetadataPolicy p";
    assert_eq!(case.compile().findings[0].message, message);
}

#[test]
fn role_without_an_arn_is_left_out_if_a_policy_lists_arns() {
    let case = with_policies(vec![Policy { allowed_role_arns: globs(&[ARN, "*"]), ..named("p") }]);
    let workload = case.workload();
    assert_eq!(workload.ec2().role.unwrap().name.as_str(), "web");
    assert_eq!(workload.ecs().role, None);
    assert_eq!(case.findings(), [finding("spec.roles", FindingReason::PolicyForbids)]);
    let message = "role app: MetadataPolicy p allows roles with an ARN only, not secret";
    assert_eq!(case.compile().findings[0].message, message);
}

#[test]
fn pod_under_the_strictest_policy_has_no_dialect() {
    let case = with_policies(vec![Policy::strictest("broken".to_owned())]);
    assert_eq!(case.workload().dialects, std::collections::BTreeMap::new());
    let mut unmatched = case;
    unmatched.profiles.clear();
    assert!(unmatched.compile().outcome.workload().is_none());
}

#[test]
fn forbidden_role_does_not_set_the_account() {
    let case = with_policies(vec![]);
    assert_eq!(case.workload().ec2().account.unwrap().as_str(), "123456789012");
    let case = with_policies(vec![Policy { allowed_role_names: globs(&["app"]), ..named("p") }]);
    assert_eq!(case.workload().ec2().account, None);
}

#[test]
fn restricted_profile_is_not_replaced_by_another_profile() {
    let mut case = with_policies(vec![Policy {
        allowed_dialects: Some([Dialect::Ecs].into()),
        allowed_role_names: globs(&["spare"]),
        ..named("p")
    }]);
    case.profile_mut().priority = 1;
    let mut spare = profile("spare");
    spare.roles = [(Dialect::Ecs, secret_role("spare"))].into();
    case.profiles.push(spare);
    let workload = case.workload();
    assert_eq!(workload.profile.as_ref().unwrap().name, "own");
    assert_eq!(workload.ecs().role, None);
    assert!(case.compile().findings.iter().all(|finding| finding.profile.as_ref().unwrap().name == "own"));
}

#[test]
fn policy_applies_to_selected_namespaces() {
    let production = Selector { requirements: vec![Requirement::In("stage".to_owned(), vec!["prod".to_owned()])] };
    let mut case =
        with_policies(vec![Policy { namespaces: production, http_tokens: Some(HttpTokens::Required), ..named("p") }]);
    assert_eq!(case.workload().options.http_tokens, HttpTokens::Optional);
    case.facts.namespace.metadata.labels = string_map(&[("stage", "prod")]);
    assert_eq!(case.workload().options.http_tokens, HttpTokens::Required);
}

#[test]
fn permissive_policy_changes_nothing() {
    let loose = Policy { max_hop_limit: Some(hops(64)), http_tokens: Some(HttpTokens::Optional), ..named("loose") };
    let secure = Case { policies: vec![loose.clone()], ..Case::new() };
    assert_eq!(secure.workload().options, MetadataOptions::default());
    let case = with_policies(vec![loose]);
    assert_eq!(case.workload().options, case.profiles[0].options);
    assert_eq!((secure.findings(), case.findings()), (vec![], vec![]));
}
