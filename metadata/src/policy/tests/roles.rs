//! Limits of roles and their credentials.

use super::*;

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
