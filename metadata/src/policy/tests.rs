mod roles;
mod strictest;

use std::collections::BTreeMap;

use super::*;
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
fn strictest_value_of_each_field_applies() {
    let hops = |limit| Policy { max_hop_limit: Some(HopLimit::try_from(limit).unwrap()), ..Policy::default() };
    let policies = [hops(4), hops(2), Policy { http_tokens: Some(HttpTokens::Required), ..hops(3) }];
    let rules = EffectivePolicy::of_namespace(&policies, &BTreeMap::new());
    assert_eq!(rules.max_hop_limit().unwrap().0.get(), 2);
    assert!(rules.requires_tokens().is_some());
}

#[test]
fn claim_is_allowed_if_every_list_contains_it() {
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
fn zone_belongs_to_the_region_in_its_name() {
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
fn host_network_mode_node_is_forbidden_unless_listed() {
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
fn unmatched_pod_gets_facts_only_if_a_policy_allows_them_and_none_denies_them() {
    let policy = |pods| Policy { without_profile: Some(pods), ..Policy::default() };
    let combined = |policies: &[Policy]| EffectivePolicy::of_namespace(policies, &BTreeMap::new()).without_profile();
    assert_eq!(combined(&[]), UnmatchedPods::Deny);
    assert_eq!(combined(&[policy(UnmatchedPods::Facts), Policy::default()]), UnmatchedPods::Facts);
    assert_eq!(combined(&[policy(UnmatchedPods::Facts), policy(UnmatchedPods::Deny)]), UnmatchedPods::Deny);
}
