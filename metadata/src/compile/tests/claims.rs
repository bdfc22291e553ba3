//! Account, region, zone and ServiceAccount of the signed identity document.

use crate::compile::UnlistedClaims;
use crate::dialect::Dialect;
use crate::finding::FindingReason;
use crate::fixture::{Case, web_identity};
use crate::names::AccountId;
use crate::policy::Policy;

fn account(id: &str) -> AccountId {
    AccountId::try_from(id).unwrap()
}

/// Returns a policy with these lists. An empty list stands for an absent one.
fn listing(accounts: &[&str], regions: &[&str]) -> Policy {
    let accounts = accounts.iter().map(|id| account(id)).collect::<std::collections::BTreeSet<_>>();
    let regions = regions.iter().map(|region| (*region).try_into().unwrap()).collect::<std::collections::BTreeSet<_>>();
    Policy {
        name: "p".to_owned(),
        allowed_account_ids: (!accounts.is_empty()).then_some(accounts),
        allowed_regions: (!regions.is_empty()).then_some(regions),
        ..Policy::default()
    }
}

/// Returns a pod on a node in eu-west-1a. Its profile claims account 222222222222 and us-east-1b.
fn claiming(policies: Vec<Policy>) -> Case {
    let mut case = Case { policies, ..Case::new() };
    case.on_node(&[("topology.kubernetes.io/region", "eu-west-1"), ("topology.kubernetes.io/zone", "eu-west-1a")]);
    let instance = &mut case.profile_mut().instance;
    instance.account_id = Some(account("222222222222"));
    instance.region = Some("us-east-1".try_into().unwrap());
    instance.availability_zone = Some("us-east-1b".try_into().unwrap());
    case
}

/// Returns the account that the identity document has.
fn signed_account(case: &Case) -> Option<String> {
    case.workload().ec2().signed_account.as_ref().map(ToString::to_string)
}

/// Returns region and zone that the identity document has.
fn signed_place(case: &Case) -> [Option<String>; 2] {
    let signed = case.workload().instance.signed;
    [signed.region, signed.zone]
}

/// Returns the expected region and zone.
fn place(region: &str, zone: &str) -> [Option<String>; 2] {
    [region, zone].map(|text| Some(text.to_owned()))
}

#[test]
fn claim_without_a_policy_is_served_but_not_signed() {
    let mut case = claiming(vec![]);
    case.profile_mut().roles = [(Dialect::Ec2, web_identity("web", "arn:aws:iam::333333333333:role/web"))].into();
    let workload = case.workload();
    assert_eq!(workload.ec2().account.unwrap().as_str(), "333333333333");
    assert_eq!(workload.ecs().account.unwrap().as_str(), "222222222222");
    assert_eq!(workload.instance.region.as_deref(), Some("us-east-1"));
    assert_eq!(signed_account(&case), None);
    assert_eq!(signed_place(&case), place("eu-west-1", "eu-west-1a"));
    assert_eq!(case.findings(), []);
}

#[test]
fn settings_are_signed_instead_of_a_claim() {
    let mut case = claiming(vec![]);
    case.settings.account = Some(account("111111111111"));
    case.settings.region = Some("eu-central-1".to_owned());
    assert_eq!(signed_account(&case).as_deref(), Some("111111111111"));
    assert_eq!(signed_place(&case), place("eu-central-1", "eu-west-1a"));
}

#[test]
fn listed_claim_is_signed() {
    let mut case = claiming(vec![listing(&["222222222222"], &["us-east-1"])]);
    case.settings.account = Some(account("111111111111"));
    case.settings.region = Some("eu-central-1".to_owned());
    assert_eq!(signed_account(&case).as_deref(), Some("222222222222"));
    assert_eq!(signed_place(&case), place("us-east-1", "us-east-1b"));
    assert_eq!(case.findings(), []);
}

#[test]
fn account_of_a_role_is_signed_only_if_listed() {
    let mut case = claiming(vec![listing(&["222222222222"], &[])]);
    case.profile_mut().roles = [(Dialect::Ec2, web_identity("web", "arn:aws:iam::333333333333:role/web"))].into();
    assert_eq!(signed_account(&case).as_deref(), Some("222222222222"));
    assert!(case.workload().ec2().role.is_some());
    case.policies = vec![listing(&["222222222222", "333333333333"], &[])];
    assert_eq!(signed_account(&case).as_deref(), Some("333333333333"));
}

#[test]
fn lists_of_accounts_and_of_regions_are_independent() {
    let case = claiming(vec![listing(&["222222222222"], &[])]);
    assert_eq!(signed_account(&case).as_deref(), Some("222222222222"));
    assert_eq!(signed_place(&case), place("eu-west-1", "eu-west-1a"));
    let case = claiming(vec![listing(&[], &["us-east-1"])]);
    assert_eq!(signed_account(&case), None);
    assert_eq!(signed_place(&case), place("us-east-1", "us-east-1b"));
}

#[test]
fn claim_that_one_of_two_policies_does_not_list_is_left_out() {
    for unlisted_claims in [UnlistedClaims::NotSigned, UnlistedClaims::Signed] {
        let allowed = listing(&["222222222222"], &["us-east-1"]);
        let mut case = claiming(vec![allowed, listing(&["111111111111"], &["eu-west-1", "eu-central-1"])]);
        case.settings.unlisted_claims = unlisted_claims;
        let workload = case.workload();
        assert_eq!((workload.ec2().account, signed_account(&case)), (None, None));
        assert_eq!(workload.instance.region.as_deref(), Some("eu-west-1"));
        assert_eq!(signed_place(&case), place("eu-west-1", "eu-west-1a"));
        let forbidden = |field: &str| (field.to_owned(), FindingReason::PolicyForbids);
        let fields = ["spec.instance.accountId", "spec.instance.region", "spec.instance.availabilityZone"];
        assert_eq!(case.findings(), fields.map(forbidden));
        let findings = case.compile().findings;
        assert_eq!(findings[0].message, "MetadataPolicy p does not allow the account 222222222222");
        assert_eq!(findings[1].message, "MetadataPolicy p does not allow the region us-east-1");
    }
}

#[test]
fn zone_of_a_forbidden_region_is_left_out_if_the_profile_has_no_region() {
    for region_of_node in [Some("eu-west-1"), None] {
        let mut case = claiming(vec![listing(&[], &["eu-west-1"])]);
        let labels = &mut case.facts.node.as_mut().unwrap().metadata.labels;
        labels.insert("topology.k8s.aws/zone-id".to_owned(), "euw1-az2".to_owned());
        if region_of_node.is_none() {
            labels.remove("topology.kubernetes.io/region");
        }
        let instance = &mut case.profile_mut().instance;
        instance.region = None;
        instance.availability_zone_id = Some("use1-az4".try_into().unwrap());
        let served = case.workload().instance;
        assert_eq!((served.region.as_deref(), served.zone.as_deref()), (region_of_node, Some("eu-west-1a")));
        assert_eq!(served.zone_id.as_deref(), Some("euw1-az2"));
        assert_eq!(signed_place(&case), [region_of_node, Some("eu-west-1a")].map(|text| text.map(str::to_owned)));
        let finding = ("spec.instance.availabilityZone".to_owned(), FindingReason::PolicyForbids);
        assert_eq!(case.findings(), [finding]);
        let message = "MetadataPolicy p does not allow the region of the zone us-east-1b";
        assert_eq!(case.compile().findings[0].message, message);
    }
}

#[test]
fn zone_id_without_a_zone_is_left_out_if_a_policy_lists_regions() {
    let with_zone = |zone: Option<&str>, policies| {
        let mut case = claiming(policies);
        let labels = &mut case.facts.node.as_mut().unwrap().metadata.labels;
        labels.insert("topology.k8s.aws/zone-id".to_owned(), "euw1-az2".to_owned());
        let instance = &mut case.profile_mut().instance;
        (instance.account_id, instance.region) = (None, None);
        instance.availability_zone = zone.map(|zone| zone.try_into().unwrap());
        instance.availability_zone_id = Some("euw1-az3".try_into().unwrap());
        case
    };
    let served = |case: &Case| case.workload().instance.zone_id.unwrap();
    let case = with_zone(None, vec![Policy::default(), listing(&[], &["eu-west-1"])]);
    assert_eq!(served(&case), "euw1-az2");
    assert_eq!(case.findings(), [("spec.instance.availabilityZoneId".to_owned(), FindingReason::PolicyForbids)]);
    let message = "MetadataPolicy p lists regions, so availabilityZoneId needs an availabilityZone";
    assert_eq!(case.compile().findings[0].message, message);
    for case in [
        with_zone(None, vec![listing(&["222222222222"], &[])]),
        with_zone(Some("eu-west-1c"), vec![listing(&[], &["eu-west-1"])]),
    ] {
        assert_eq!((served(&case).as_str(), case.findings()), ("euw1-az3", vec![]));
    }
}

#[test]
fn zone_of_a_listed_region_is_served_if_the_profile_has_no_region() {
    let mut case = claiming(vec![listing(&[], &["eu-west-1"])]);
    let instance = &mut case.profile_mut().instance;
    (instance.region, instance.availability_zone) = (None, Some("eu-west-1c".try_into().unwrap()));
    assert_eq!(case.workload().instance.zone.as_deref(), Some("eu-west-1c"));
    assert_eq!(case.findings(), []);
}

#[test]
fn zone_of_another_region_is_not_signed() {
    let mut case = claiming(vec![listing(&[], &["eu-west-1", "us-east-1"])]);
    case.profile_mut().instance.region = None;
    assert_eq!(signed_place(&case), place("eu-west-1", "eu-west-1a"));
    case.profile_mut().instance.availability_zone = Some("eu-west-1c".try_into().unwrap());
    assert_eq!(signed_place(&case), place("eu-west-1", "eu-west-1c"));
    case.policies.clear();
    assert_eq!(signed_place(&case), place("eu-west-1", "eu-west-1a"));
}

#[test]
fn dev_mode_signs_claims_that_no_policy_forbids() {
    let mut case = claiming(vec![]);
    case.settings.unlisted_claims = UnlistedClaims::Signed;
    case.settings.account = Some(account("111111111111"));
    assert_eq!(signed_account(&case).as_deref(), Some("222222222222"));
    assert_eq!(signed_place(&case), place("us-east-1", "us-east-1b"));
}

#[test]
fn workload_has_the_service_account_of_the_pod() {
    let mut case = Case::new();
    case.facts.pod.spec.service_account_name = Some("worker".to_owned());
    assert_eq!(case.workload().instance.service_account.as_deref(), Some("worker"));
    case.facts.pod.spec.service_account_name = None;
    assert_eq!(case.workload().instance.service_account, None);
}
