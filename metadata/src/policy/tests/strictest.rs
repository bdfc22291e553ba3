//! The policy that replaces one that was never valid.

use super::*;
use crate::fixture::web_identity;

#[test]
fn strictest_policy_opens_nothing() {
    let strictest = [Policy::strictest("broken".to_owned())];
    let rules = EffectivePolicy::of_namespace(&strictest, &BTreeMap::new());
    for dialect in Dialect::ALL {
        assert!(rules.forbids_dialect(dialect).is_some(), "{dialect}");
    }
    assert!(rules.role_denial(&assume_role("arn:aws:iam::123456789012:role/web")).is_some());
    assert!(rules.forbids_host_network(HostNetwork::Pod).is_some());
    assert!(matches!(rules.account_claim(&AccountId::try_from("111111111111").unwrap()), Claim::Forbidden(_)));
    assert!(matches!(rules.region_claim("eu-west-1"), Claim::Forbidden(_)));
    assert!(rules.forbids_secret("keys").is_some());
    let maxima = [rules.max_requests_per_second(), rules.max_connections()].map(|maximum| maximum.limit.get());
    assert_eq!(maxima, [1, 1]);
    assert_eq!((rules.max_hop_limit().unwrap().0, rules.requires_tokens().is_some()), (HopLimit::ONE, true));

    let facts = Policy {
        without_profile: Some(UnmatchedPods::Facts),
        static_pods: Some(StaticPods::Facts),
        ..Policy::default()
    };
    let with_facts = [facts, Policy::strictest("broken".to_owned())];
    let rules = EffectivePolicy::of_namespace(&with_facts, &BTreeMap::new());
    assert_eq!((rules.without_profile(), rules.static_pods()), (UnmatchedPods::Deny, StaticPods::Deny));
}

#[test]
fn each_field_of_the_strictest_policy_forbids_on_its_own() {
    // Names every field, so that a new one must be added here.
    let Policy {
        name: _,
        namespaces,
        http_tokens,
        max_hop_limit,
        max_requests_per_second,
        max_connections,
        allowed_dialects,
        allowed_providers,
        allowed_role_names,
        allowed_role_arns,
        allowed_external_ids,
        max_session_duration,
        allowed_secrets,
        allowed_account_ids,
        allowed_regions,
        allowed_host_network,
        without_profile,
        static_pods,
    } = Policy::strictest("broken".to_owned());
    assert_eq!(namespaces, Selector::default(), "all namespaces");
    let with = |policy: Policy, check: &dyn Fn(&EffectivePolicy<'_>) -> bool| {
        check(&EffectivePolicy::of_namespace(&[policy], &BTreeMap::new()))
    };
    let new = Policy::default;
    let role = web_identity("web", "arn:aws:iam::123456789012:role/web");
    let forbids_role = |rules: &EffectivePolicy<'_>| rules.role_denial(&role).is_some();
    assert!(!with(new(), &forbids_role), "the role is allowed without a policy");
    assert!(with(Policy { allowed_providers, ..new() }, &forbids_role), "providers");
    assert!(with(Policy { allowed_role_names, ..new() }, &forbids_role), "role names");
    assert!(with(Policy { allowed_role_arns, ..new() }, &forbids_role), "ARNs");
    assert!(with(Policy { allowed_external_ids, ..new() }, &|rules| !rules.allows_external_id("x")));
    assert_eq!(max_session_duration, Some(SessionDuration::HOUR));
    assert!(with(Policy { allowed_secrets, ..new() }, &|rules| rules.forbids_secret("keys").is_some()));
    let account = AccountId::try_from("111111111111").unwrap();
    let is_forbidden = |claim: Claim<'_>| matches!(claim, Claim::Forbidden(_));
    assert!(with(Policy { allowed_account_ids, ..new() }, &|rules| is_forbidden(rules.account_claim(&account))));
    let forbids_place = |rules: &EffectivePolicy<'_>| {
        is_forbidden(rules.region_claim("eu-west-1"))
            && is_forbidden(rules.zone_claim("eu-west-1a"))
            && rules.lists_regions().is_some()
    };
    assert!(with(Policy { allowed_regions, ..new() }, &forbids_place));
    assert!(
        with(Policy { max_requests_per_second, ..new() }, &|rules| rules.max_requests_per_second().limit.get() == 1)
    );
    assert!(with(Policy { max_connections, ..new() }, &|rules| rules.max_connections().limit.get() == 1));
    assert!(with(Policy { max_hop_limit, ..new() }, &|rules| {
        rules.max_hop_limit().is_some_and(|(limit, _)| limit == HopLimit::ONE)
    }));
    assert!(with(Policy { http_tokens, ..new() }, &|rules| rules.requires_tokens().is_some()));
    let forbids_dialects =
        |rules: &EffectivePolicy<'_>| Dialect::ALL.into_iter().all(|dialect| rules.forbids_dialect(dialect).is_some());
    assert!(with(Policy { allowed_dialects, ..new() }, &forbids_dialects));
    let forbids_pod_mode = |rules: &EffectivePolicy<'_>| rules.forbids_host_network(HostNetwork::Pod).is_some();
    assert!(with(Policy { allowed_host_network, ..new() }, &forbids_pod_mode));
    assert_eq!((without_profile, static_pods), (Some(UnmatchedPods::Deny), Some(StaticPods::Deny)));
}
