use std::collections::BTreeMap;

use super::*;
use crate::fixture::web_identity;
use crate::names::{RoleArn, RoleName};
use crate::role::{Provider, Role, SessionDuration};

fn glob(pattern: &str) -> Glob {
    Glob::try_from(pattern).unwrap()
}

fn assume_role(arn: &str) -> Role {
    Role {
        name: RoleName::try_from("web").unwrap(),
        provider: Provider::AwsAssumeRole {
            role_arn: RoleArn::try_from(arn).unwrap(),
            external_id: None,
            is_external_id_allowed: false,
            duration: SessionDuration::HOUR,
        },
    }
}

#[test]
fn glob_matches_whole_text() {
    for (pattern, text, fits) in [
        ("team-*", "team-a", true),
        ("team-*", "my-team-a", false),
        ("*-ro", "a-ro", true),
        ("*-ro", "a-ro-admin", false),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c-b", false),
        ("?", "a", true),
        ("?", "", false),
        ("*", "", true),
        ("a|b", "a", false),
        ("a.c", "abc", false),
        ("arn:aws:iam::123456789012:role/team/*", "arn:aws:iam::123456789012:role/admin", false),
    ] {
        assert_eq!(glob(pattern).matches(text), fits, "{pattern} on {text}");
    }
}

#[test]
fn strictest_policy_applies_field_by_field() {
    let hops = |limit| Policy { max_hop_limit: Some(HopLimit::try_from(limit).unwrap()), ..Policy::default() };
    let policies = [hops(4), hops(2), Policy { http_tokens: Some(HttpTokens::Required), ..hops(3) }];
    let rules = EffectivePolicy::of_namespace(&policies, &BTreeMap::new());
    assert_eq!(rules.max_hop_limit().unwrap().0.get(), 2);
    assert!(rules.requires_tokens().is_some());
}

#[test]
fn assume_role_is_forbidden_unless_provider_and_arn_are_listed() {
    let role = assume_role("arn:aws:iam::123456789012:role/web");
    let forbids =
        |policies: &[Policy]| EffectivePolicy::of_namespace(policies, &BTreeMap::new()).role_denial(&role).is_some();
    let listing = |kinds: &[ProviderKind]| Policy {
        allowed_providers: Some(kinds.iter().copied().collect()),
        ..Policy::default()
    };
    let arns = Policy { allowed_role_arns: Some(vec![glob("arn:aws:iam::*:role/web")]), ..Policy::default() };
    let assume = listing(&[ProviderKind::AwsAssumeRole]);
    assert!(forbids(&[]));
    assert!(forbids(&[Policy::default()]));
    assert!(forbids(std::slice::from_ref(&assume)));
    assert!(forbids(std::slice::from_ref(&arns)));
    assert!(!forbids(&[assume.clone(), arns.clone()]));
    assert!(forbids(&[assume, arns, listing(&[ProviderKind::Secret])]));
}

#[test]
fn role_without_an_arn_is_forbidden_if_any_policy_lists_arns() {
    let role =
        Role { name: RoleName::try_from("web").unwrap(), provider: Provider::Secret { name: "keys".to_owned() } };
    let forbids = |policies: &[Policy]| EffectivePolicy::of_namespace(policies, &BTreeMap::new()).role_denial(&role);
    let arns = |arns: &[&str]| Policy {
        name: "arns".to_owned(),
        allowed_role_arns: Some(arns.iter().map(|arn| glob(arn)).collect()),
        ..Policy::default()
    };
    assert_eq!(forbids(&[Policy::default()]), None);
    let message = "MetadataPolicy arns allows roles with an ARN only, not secret";
    assert_eq!(forbids(&[arns(&["*"])]).as_deref(), Some(message));
    assert_eq!(forbids(&[Policy::default(), arns(&[])]).as_deref(), Some(message));
}

#[test]
fn claim_is_allowed_if_every_list_has_it() {
    let account = AccountId::try_from("111111111111").unwrap();
    let with = |accounts: &[&str], regions: &[&str]| Policy {
        allowed_account_ids: Some(accounts.iter().map(|id| AccountId::try_from(*id).unwrap()).collect()),
        allowed_regions: Some(regions.iter().map(|region| Line::try_from(*region).unwrap()).collect()),
        ..Policy::default()
    };
    let both = with(&["111111111111", "222222222222"], &["eu-west-1"]);
    let other = with(&["222222222222"], &["eu-west-1", "us-east-1"]);
    let policies = [Policy::default(), both, other];
    let claims = |policies: &[Policy]| {
        let rules = EffectivePolicy::of_namespace(policies, &BTreeMap::new());
        let describe = |claim| match claim {
            Claim::Unlisted => "unlisted",
            Claim::Allowed => "allowed",
            Claim::Forbidden(_) => "forbidden",
        };
        [rules.account_claim(&account), rules.region_claim("eu-west-1"), rules.region_claim("us-east-1")].map(describe)
    };
    assert_eq!(claims(&policies[..1]), ["unlisted"; 3]);
    assert_eq!(claims(&policies[..2]), ["allowed", "allowed", "forbidden"]);
    assert_eq!(claims(&policies), ["forbidden", "allowed", "forbidden"]);
}

#[test]
fn zone_belongs_to_the_region_that_its_name_starts_with() {
    for (zone, region, belongs) in [
        ("us-east-1b", "us-east-1", true),
        ("us-west-2-lax-1a", "us-west-2", true),
        ("cn-hangzhou-b", "cn-hangzhou", true),
        ("us-east-10a", "us-east-1", false),
        ("us-east-1b", "eu-west-1", false),
        ("us", "us-east-1", false),
    ] {
        assert_eq!(is_zone_of(zone, region), belongs, "{zone} in {region}");
    }
}

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

#[test]
fn role_must_match_every_policy() {
    let role = assume_role("arn:aws:iam::123456789012:role/web");
    let with = |names: &[&str], arns: &[&str]| Policy {
        allowed_providers: Some([ProviderKind::AwsAssumeRole].into()),
        allowed_role_names: Some(names.iter().map(|name| glob(name)).collect()),
        allowed_role_arns: Some(arns.iter().map(|arn| glob(arn)).collect()),
        ..Policy::default()
    };
    let forbids =
        |policies: &[Policy]| EffectivePolicy::of_namespace(policies, &BTreeMap::new()).role_denial(&role).is_some();
    assert!(!forbids(&[with(&["w*"], &["arn:aws:iam::123456789012:role/*"])]));
    assert!(forbids(&[with(&["w*"], &["arn:aws:iam::999999999999:role/*"])]));
    assert!(forbids(&[with(&["w*"], &["*"]), with(&["x*"], &["*"])]));
}

#[test]
fn external_id_is_allowed_if_a_policy_lists_it_and_every_list_does() {
    let with = |ids: &[&str]| Policy {
        allowed_external_ids: Some(ids.iter().map(|id| glob(id)).collect()),
        ..Policy::default()
    };
    for (policies, allowed) in [
        (&[][..], false),
        (&[Policy::default()], false),
        (&[with(&["partner-*"])], true),
        (&[with(&["partner-*"]), Policy::default()], true),
        (&[with(&["partner-*"]), with(&["partner-2"])], false),
        (&[with(&[])], false),
    ] {
        let rules = EffectivePolicy::of_namespace(policies, &BTreeMap::new());
        assert_eq!(rules.allows_external_id("partner-1"), allowed, "{policies:?}");
    }
}

#[test]
fn lowest_maximum_of_the_session_duration_applies() {
    let with = |seconds: i64| Policy {
        max_session_duration: Some(SessionDuration::try_from(seconds).unwrap()),
        ..Policy::default()
    };
    let policies = [Policy::default(), with(7200), with(3600), with(43_200)];
    let rules = |policies| EffectivePolicy::of_namespace(policies, &BTreeMap::new()).max_session_duration();
    assert_eq!(rules(&policies).unwrap().0, SessionDuration::HOUR);
    assert!(rules(&policies[..1]).is_none());
}

#[test]
fn secret_must_match_every_policy() {
    let with = |secrets: &[&str]| Policy {
        allowed_secrets: Some(secrets.iter().map(|name| glob(name)).collect()),
        ..Policy::default()
    };
    let role =
        Role { name: RoleName::try_from("web").unwrap(), provider: Provider::Secret { name: "web-keys".to_owned() } };
    for (policies, forbidden) in [
        (&[][..], false),
        (&[Policy::default()], false),
        (&[with(&["web-*"])], false),
        (&[with(&["web-key?"])], false),
        (&[with(&["web"])], true),
        (&[with(&[])], true),
        (&[with(&["*"]), with(&["db-*"])], true),
    ] {
        let rules = EffectivePolicy::of_namespace(policies, &BTreeMap::new());
        assert_eq!(rules.forbids_secret("web-keys").is_some(), forbidden, "{policies:?}");
        assert_eq!(rules.role_denial(&role).is_some(), forbidden, "{policies:?}");
        assert!(
            rules
                .role_denial(&assume_role("arn:aws:iam::123456789012:role/web"))
                .is_some_and(|message| { message.starts_with("awsAssumeRole") })
        );
    }
}

#[test]
fn host_network_node_is_forbidden_unless_listed() {
    let forbids = |policies: &[Policy], mode| {
        EffectivePolicy::of_namespace(policies, &BTreeMap::new()).forbids_host_network(mode)
    };
    let allow = Policy { allowed_host_network: Some([HostNetwork::Node].into()), ..Policy::default() };
    assert!(forbids(&[], HostNetwork::Node).is_some());
    assert!(forbids(&[], HostNetwork::Pod).is_none());
    assert!(forbids(std::slice::from_ref(&allow), HostNetwork::Node).is_none());
    assert!(forbids(&[allow], HostNetwork::Pod).is_some());
}

#[test]
fn unmatched_pod_gets_facts_only_if_no_policy_denies() {
    let policy = |what| Policy { without_profile: Some(what), ..Policy::default() };
    let combined = |policies: &[Policy]| EffectivePolicy::of_namespace(policies, &BTreeMap::new()).without_profile();
    assert_eq!(combined(&[]), UnmatchedPods::Deny);
    assert_eq!(combined(&[policy(UnmatchedPods::Facts), Policy::default()]), UnmatchedPods::Facts);
    assert_eq!(combined(&[policy(UnmatchedPods::Facts), policy(UnmatchedPods::Deny)]), UnmatchedPods::Deny);
}
