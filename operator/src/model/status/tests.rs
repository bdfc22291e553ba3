use podmeta_metadata::finding::FindingReason;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_600_000 + second).unwrap()
}

fn pod(name: &str, programmed: bool, credentials: CredentialsState) -> ObservedPod {
    ObservedPod { name: name.into(), is_programmed: programmed, credentials, is_tokenless: false }
}

fn field(field: &str, message: &str) -> FieldError {
    FieldError { field: field.into(), message: message.into() }
}

fn finding(field: &str, reason: FindingReason, message: &str) -> Finding {
    Finding { profile: None, field: field.into(), reason, message: message.into() }
}

/// Returns status, reason and message of a condition.
fn condition<'s>(status: &'s MetadataProfileStatus, kind: &str) -> (&'s str, &'s str, &'s str) {
    let found = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    (&found.status, &found.reason, &found.message)
}

#[test]
fn programmed_profile_has_good_conditions() {
    let pods = vec![pod("a", true, CredentialsState::Issued), pod("b", true, CredentialsState::NotRequested)];
    let observed = ObservedProfile { generation: 3, pods, has_roles: true, ..ObservedProfile::default() };
    let status = next(None, &observed, at(0));
    assert_eq!((status.observed_generation, status.matched_pods, status.programmed_pods), (Some(3), Some(2), Some(2)));
    assert_eq!(condition(&status, ACCEPTED).0, "True");
    assert_eq!(
        condition(&status, PROGRAMMED),
        ("True", "Programmed", "node agents have the data of all 2 pods, and each pod has a link")
    );
    assert_eq!(condition(&status, CREDENTIALS_READY).1, "Issued");
    assert_eq!(condition(&status, CONFLICTED).0, "False");
    let message = "this profile applies to no pod on the host network of a node without redirection";
    assert_eq!(condition(&status, PODS_EXCLUDED), ("False", "NoHostNetworkPods", message));
    assert!(
        status.pods.is_empty() && status.conditions.iter().all(|condition| condition.observed_generation == Some(3))
    );
}

#[test]
fn pods_on_the_host_network_without_redirection_are_excluded_with_number_and_first_names() {
    let with = |names: &[&str], pods| {
        let host_network_pods = names.iter().map(|name| (*name).to_owned()).collect();
        next(None, &ObservedProfile { host_network_pods, pods, ..ObservedProfile::default() }, at(0))
    };
    let status = with(&["b", "a"], vec![pod("web", true, CredentialsState::NotRequested)]);
    let message = "pods on the host network of nodes without redirection: 2 (a, b); podmeta does not serve them, and they reach \
                   the node's own metadata service unless the uplink guard drops their requests";
    assert_eq!(condition(&status, PODS_EXCLUDED), ("True", "HostNetwork", message));
    assert_eq!((status.matched_pods, status.programmed_pods), (Some(1), Some(1)));
    assert_eq!(condition(&status, PROGRAMMED).2, "node agents have the data of all 1 pods, and each pod has a link");
    assert!(status.pods.is_empty(), "{:?}", status.pods);

    let many = with(&["g", "f", "e", "d", "c", "b", "a"], vec![]);
    let message = condition(&many, PODS_EXCLUDED).2;
    assert!(message.contains(": 7 (a, b, c, d, e and 2 more);"), "{message}");
    let message = "no pod uses this profile, except pods on the host network of nodes without redirection";
    assert_eq!(condition(&many, PROGRAMMED), ("True", "NoPods", message));
    assert_eq!((many.matched_pods, many.programmed_pods), (Some(0), Some(0)));
}

#[test]
fn each_restriction_has_its_own_reason_and_names_the_field() {
    let invalid =
        ObservedProfile { errors: vec![field("spec.roles[0].name", "is missing")], ..ObservedProfile::default() };
    let denied =
        "spec.roles[0].name: is missing; there is no valid generation, so agents serve no metadata to its pods";
    assert_eq!(condition(&next(None, &invalid, at(0)), ACCEPTED), ("False", "Invalid", denied));
    let last_valid = Some(LastValid { generation: 2, spec: "{}".into() });
    let status = next(None, &ObservedProfile { last_valid, has_valid_generation: true, ..invalid }, at(0));
    let kept = "spec.roles[0].name: is missing; pods keep the last valid generation, 2";
    assert_eq!(condition(&status, ACCEPTED), ("False", "Invalid", kept));
    assert_eq!(status.last_valid.unwrap().generation, 2);
    for (reason, name) in [
        (FindingReason::PolicyTightened, "PolicyTightened"),
        (FindingReason::PolicyForbids, "PolicyForbids"),
        (FindingReason::UserDataUnavailable, "UserDataUnavailable"),
        (FindingReason::ItemUnavailable, "ItemUnavailable"),
        (FindingReason::ItemMisplaced, "ItemMisplaced"),
        (FindingReason::InternalError, "InternalError"),
    ] {
        let observed =
            ObservedProfile { findings: vec![finding("spec.x", reason, "message")], ..ObservedProfile::default() };
        assert_eq!(condition(&next(None, &observed, at(0)), ACCEPTED), ("False", name, "spec.x: message"));
    }
    let dropped = ObservedProfile {
        findings: vec![finding("spec.tags", FindingReason::TagDropped, "message")],
        ..ObservedProfile::default()
    };
    assert_eq!(condition(&next(None, &dropped, at(0)), ACCEPTED).0, "True");
}

#[test]
fn conflict_has_its_own_condition() {
    let observed = ObservedProfile {
        findings: vec![finding("spec.priority", FindingReason::Conflicted, "message")],
        ..ObservedProfile::default()
    };
    let status = next(None, &observed, at(0));
    assert_eq!(condition(&status, CONFLICTED), ("True", "Conflicted", "spec.priority: message"));
    assert_eq!(condition(&status, ACCEPTED).0, "True");
}

fn failed(cause: FailureCause, message: &str) -> CredentialsState {
    CredentialsState::Failed { cause, error: field("spec.roles[dialect=ec2]", message) }
}

#[test]
fn credentials_ready_is_unknown_without_requests_and_false_after_a_failure() {
    let with = |credentials: Vec<CredentialsState>| {
        let pods = credentials.into_iter().map(|credentials| pod("a", true, credentials)).collect();
        next(None, &ObservedProfile { pods, has_roles: true, ..ObservedProfile::default() }, at(0))
    };
    assert_eq!(condition(&with(vec![CredentialsState::NotRequested]), CREDENTIALS_READY).0, "Unknown");
    let error = field("spec.roles[0].secret", "Secret keys does not exist");
    let failed = CredentialsState::Failed { cause: FailureCause::ProviderFailed, error };
    let status = with(vec![CredentialsState::Issued, failed]);
    let message = "pod a: spec.roles[0].secret: Secret keys does not exist";
    assert_eq!(condition(&status, CREDENTIALS_READY), ("False", "ProviderFailed", message));
    assert_eq!(status.pods, ["a"]);
    let none = next(None, &ObservedProfile::default(), at(0));
    assert_eq!(condition(&none, CREDENTIALS_READY), ("True", "NoRoles", "the profile has no roles"));
}

#[test]
fn reason_of_several_failures_is_the_first_cause_and_the_message_has_all() {
    let pods = vec![
        pod("a", true, failed(FailureCause::Throttled, "slow")),
        pod("b", true, failed(FailureCause::AccessDenied, "no trust")),
    ];
    let status = next(None, &ObservedProfile { pods, has_roles: true, ..ObservedProfile::default() }, at(0));
    let message = "pod a: spec.roles[dialect=ec2]: slow; pod b: spec.roles[dialect=ec2]: no trust";
    assert_eq!(condition(&status, CREDENTIALS_READY), ("False", "AccessDenied", message));
}

#[test]
fn secret_that_is_not_opted_in_is_the_reason_before_one_with_invalid_data() {
    let error = |is_usable, message: &str| SecretError { is_usable, error: field("spec.roles[dialect=ec2]", message) };
    let with = |secret_errors| {
        next(None, &ObservedProfile { secret_errors, has_roles: true, ..ObservedProfile::default() }, at(0))
    };
    let invalid = error(true, "Secret b: no key");
    let status = with(vec![invalid.clone()]);
    let message = "spec.roles[dialect=ec2]: Secret b: no key";
    assert_eq!(condition(&status, CREDENTIALS_READY), ("False", "SecretUnusable", message));
    let status = with(vec![invalid, error(false, "Secret a: no label")]);
    let message = "spec.roles[dialect=ec2]: Secret a: no label; spec.roles[dialect=ec2]: Secret b: no key";
    assert_eq!(condition(&status, CREDENTIALS_READY), ("False", "SecretNotOptedIn", message));
}

#[test]
fn key_without_a_session_token_is_named_in_the_message_of_credentials_ready() {
    let of = |credentials: Vec<CredentialsState>, secret_errors: Vec<SecretError>| {
        let observed = ObservedProfile {
            has_roles: true,
            pods: credentials.into_iter().map(|credentials| pod("a", true, credentials)).collect(),
            secret_warnings: vec![field("spec.roles[dialect=ec2].secret.name", "its Secret has no sessionToken")],
            secret_errors,
            ..ObservedProfile::default()
        };
        let status = next(None, &observed, at(0));
        let (value, reason, message) = condition(&status, CREDENTIALS_READY);
        (value.to_owned(), reason.to_owned(), message.to_owned())
    };
    let warning = "spec.roles[dialect=ec2].secret.name: its Secret has no sessionToken";
    let given = format!("every pod that requested credentials got them; {warning}");
    assert_eq!(of(vec![CredentialsState::Issued], vec![]), ("True".to_owned(), "Issued".to_owned(), given));
    let not_asked = format!("no pod has requested credentials yet; {warning}");
    assert_eq!(of(vec![], vec![]), ("Unknown".to_owned(), "NotRequested".to_owned(), not_asked));
    let expired = SecretError { is_usable: true, error: field("spec.roles[dialect=ecs].secret.name", "expired") };
    let unusable = of(vec![], vec![expired]);
    assert_eq!(unusable.1, "SecretUnusable");
    assert!(!unusable.2.contains("sessionToken"));
}

#[test]
fn only_conditions_that_flip_get_a_new_transition_time() {
    let pending = ObservedProfile {
        generation: 1,
        pods: vec![pod("a", false, CredentialsState::NotRequested)],
        ..ObservedProfile::default()
    };
    let first = next(None, &pending, at(0));
    assert_eq!(next(Some(&first), &pending, at(5)), first, "no change");

    let done = ObservedProfile {
        generation: 2,
        pods: vec![pod("a", true, CredentialsState::NotRequested)],
        ..ObservedProfile::default()
    };
    let second = next(Some(&first), &done, at(9));
    let time = |status: &MetadataProfileStatus, kind: &str| {
        status.conditions.iter().find(|condition| condition.type_ == kind).unwrap().last_transition_time.0
    };
    assert_eq!((time(&second, PROGRAMMED), time(&second, ACCEPTED)), (at(9), at(0)));
    assert_eq!(second.observed_generation, Some(2));
}

#[test]
fn order_of_pods_does_not_change_the_status_and_the_list_is_bounded() {
    let mut pods: Vec<_> =
        (0..40).map(|number| pod(&format!("pod-{number:02}"), false, CredentialsState::NotRequested)).collect();
    let findings = vec![
        finding("spec.b", FindingReason::ItemUnavailable, "two"),
        finding("spec.a", FindingReason::ItemUnavailable, "one"),
    ];
    let observed = ObservedProfile { pods: pods.clone(), findings: findings.clone(), ..ObservedProfile::default() };
    let first = next(None, &observed, at(0));
    pods.reverse();
    let reversed =
        ObservedProfile { pods, findings: findings.into_iter().rev().collect(), ..ObservedProfile::default() };
    assert_eq!(next(Some(&first), &reversed, at(1)), first);
    assert_eq!((first.pods.len(), first.pods[0].as_str()), (MAX_STATUS_PODS, "pod-00"));
}

#[test]
fn pending_pods_are_named_before_those_without_credentials() {
    let failed = || failed(FailureCause::ProviderFailed, "no");
    let pods = vec![pod("a", true, failed()), pod("b", false, failed()), pod("c", true, CredentialsState::Issued)];
    let finding = || finding("spec.a", FindingReason::ItemUnavailable, "one");
    let observed = ObservedProfile { pods, findings: vec![finding(), finding()], ..ObservedProfile::default() };
    let status = next(None, &observed, at(0));
    assert_eq!(status.pods, ["b", "a"]);
    assert_eq!(condition(&status, ACCEPTED).2, "spec.a: one");
}

#[test]
fn message_is_truncated_at_the_limit_of_the_api_only() {
    let of = |count: usize| {
        let errors =
            (0..count).map(|number| field(&format!("spec.metadata[{number}].path"), "is not one: …")).collect();
        let status = next(None, &ObservedProfile { errors, ..ObservedProfile::default() }, at(0));
        condition(&status, ACCEPTED).2.to_owned()
    };
    assert!(of(200).contains("spec.metadata[99].path: is not one"), "{}", of(200));
    let long = of(2000);
    assert!((32_768 - 3..=32_768).contains(&long.len()), "{}", long.len());
    assert!(long.ends_with('…') && long.starts_with("spec.metadata[0]"));
}

#[test]
fn new_pod_of_a_programmed_generation_is_only_pending() {
    let all = vec![pod("a", true, CredentialsState::NotRequested)];
    let some = vec![pod("a", true, CredentialsState::NotRequested), pod("b", false, CredentialsState::NotRequested)];
    let of = |generation, pods: &Vec<ObservedPod>| ObservedProfile {
        generation,
        pods: pods.clone(),
        ..ObservedProfile::default()
    };
    let programmed = next(None, &of(1, &all), at(0));
    assert!(is_only_pending(Some(&programmed), &next(Some(&programmed), &of(1, &some), at(1))));
    assert!(!is_only_pending(Some(&programmed), &next(Some(&programmed), &of(2, &some), at(1))), "an edit");
    assert!(!is_only_pending(None, &next(None, &of(1, &some), at(1))), "a new profile");
    let excluded = ObservedProfile { host_network_pods: vec!["c".into()], ..of(1, &some) };
    assert!(!is_only_pending(Some(&programmed), &next(Some(&programmed), &excluded, at(1))), "an excluded pod");
    let conflict = ObservedProfile {
        findings: vec![finding("spec.priority", FindingReason::Conflicted, "message")],
        ..of(1, &some)
    };
    assert!(
        !is_only_pending(Some(&programmed), &next(Some(&programmed), &conflict, at(1))),
        "another condition changed"
    );
}
