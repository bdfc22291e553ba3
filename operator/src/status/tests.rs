use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_600_000 + second).unwrap()
}

fn pod(name: &str, programmed: bool, credentials: Credentials) -> ObservedPod {
    ObservedPod { name: name.into(), programmed, credentials, tokenless: false }
}

fn field(field: &str, message: &str) -> FieldError {
    FieldError { field: field.into(), message: message.into() }
}

fn finding(field: &str, reason: FindingReason, message: &str) -> Finding {
    Finding { profile: None, field: field.into(), reason, message: message.into() }
}

/// Status, reason and message of a condition.
fn said<'s>(status: &'s MetadataProfileStatus, kind: &str) -> (&'s str, &'s str, &'s str) {
    let condition = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    (&condition.status, &condition.reason, &condition.message)
}

#[test]
fn a_profile_that_serves_all_its_pods_says_so() {
    let pods = vec![pod("a", true, Credentials::Given), pod("b", true, Credentials::NotAsked)];
    let observed = Observed { generation: 3, pods, has_roles: true, ..Observed::default() };
    let status = next(None, &observed, at(0));
    assert_eq!((status.observed_generation, status.matched_pods, status.programmed_pods), (Some(3), Some(2), Some(2)));
    assert_eq!(said(&status, ACCEPTED).0, "True");
    assert_eq!(said(&status, PROGRAMMED), ("True", "Programmed", "the agents of all 2 pods have it"));
    assert_eq!(said(&status, CREDENTIALS_READY).1, "Given");
    assert_eq!(said(&status, CONFLICTED).0, "False");
    assert!(
        status.pods.is_empty() && status.conditions.iter().all(|condition| condition.observed_generation == Some(3))
    );
}

#[test]
fn each_way_to_be_refused_has_its_own_reason_and_names_the_field() {
    let invalid = Observed { invalid: vec![field("spec.roles[0].name", "is missing")], ..Observed::default() };
    let shut = "spec.roles[0].name: is missing; it gives its pods nothing meanwhile";
    assert_eq!(said(&next(None, &invalid, at(0)), ACCEPTED), ("False", "Invalid", shut));
    let last_valid = Some(LastValid { generation: 2, spec: "{}".into() });
    let status = next(None, &Observed { last_valid, held: true, ..invalid }, at(0));
    let held = "spec.roles[0].name: is missing; its pods are served by generation 2 meanwhile";
    assert_eq!(said(&status, ACCEPTED), ("False", "Invalid", held));
    assert_eq!(status.last_valid.unwrap().generation, 2);
    for (reason, name) in [
        (FindingReason::PolicyTightened, "PolicyTightened"),
        (FindingReason::PolicyForbids, "PolicyForbids"),
        (FindingReason::UserDataUnavailable, "UserDataUnavailable"),
        (FindingReason::ItemUnavailable, "ItemUnavailable"),
        (FindingReason::ItemMisplaced, "ItemMisplaced"),
    ] {
        let observed = Observed { findings: vec![finding("spec.x", reason, "why")], ..Observed::default() };
        assert_eq!(said(&next(None, &observed, at(0)), ACCEPTED), ("False", name, "spec.x: why"));
    }
    let dropped =
        Observed { findings: vec![finding("spec.tags", FindingReason::TagDropped, "why")], ..Observed::default() };
    assert_eq!(said(&next(None, &dropped, at(0)), ACCEPTED).0, "True");
}

#[test]
fn a_conflict_is_a_condition_of_its_own_and_no_refusal() {
    let observed =
        Observed { findings: vec![finding("spec.priority", FindingReason::Conflicted, "why")], ..Observed::default() };
    let status = next(None, &observed, at(0));
    assert_eq!(said(&status, CONFLICTED), ("True", "Conflicted", "spec.priority: why"));
    assert_eq!(said(&status, ACCEPTED).0, "True");
}

#[test]
fn credentials_are_unknown_until_a_pod_asks_and_fail_with_the_first_that_has_none() {
    let with = |credentials: Vec<Credentials>| {
        let pods = credentials.into_iter().map(|credentials| pod("a", true, credentials)).collect();
        next(None, &Observed { pods, has_roles: true, ..Observed::default() }, at(0))
    };
    assert_eq!(said(&with(vec![Credentials::NotAsked]), CREDENTIALS_READY).0, "Unknown");
    let failed = Credentials::Failed(field("spec.roles[0].secret", "there is no Secret keys"));
    let status = with(vec![Credentials::Given, failed]);
    let message = "pod a: spec.roles[0].secret: there is no Secret keys";
    assert_eq!(said(&status, CREDENTIALS_READY), ("False", "ProviderFailed", message));
    assert_eq!(status.pods, ["a"]);
    let none = next(None, &Observed::default(), at(0));
    assert_eq!(said(&none, CREDENTIALS_READY), ("True", "NoRoles", "the profile has no role"));
}

#[test]
fn a_transition_has_its_time_and_what_stays_keeps_its_own() {
    let pending = Observed { generation: 1, pods: vec![pod("a", false, Credentials::NotAsked)], ..Observed::default() };
    let first = next(None, &pending, at(0));
    assert_eq!(next(Some(&first), &pending, at(5)), first, "nothing to write");

    let done = Observed { generation: 2, pods: vec![pod("a", true, Credentials::NotAsked)], ..Observed::default() };
    let second = next(Some(&first), &done, at(9));
    let time = |status: &MetadataProfileStatus, kind: &str| {
        status.conditions.iter().find(|condition| condition.type_ == kind).unwrap().last_transition_time.0
    };
    assert_eq!((time(&second, PROGRAMMED), time(&second, ACCEPTED)), (at(9), at(0)));
    assert_eq!(second.observed_generation, Some(2));
}

#[test]
fn pods_in_another_order_are_the_same_status_and_the_list_is_bounded() {
    let mut pods: Vec<_> =
        (0..40).map(|number| pod(&format!("pod-{number:02}"), false, Credentials::NotAsked)).collect();
    let findings = vec![
        finding("spec.b", FindingReason::ItemUnavailable, "two"),
        finding("spec.a", FindingReason::ItemUnavailable, "one"),
    ];
    let observed = Observed { pods: pods.clone(), findings: findings.clone(), ..Observed::default() };
    let first = next(None, &observed, at(0));
    pods.reverse();
    let reversed = Observed { pods, findings: findings.into_iter().rev().collect(), ..Observed::default() };
    assert_eq!(next(Some(&first), &reversed, at(1)), first);
    assert_eq!((first.pods.len(), first.pods[0].as_str()), (MAX_STATUS_PODS, "pod-00"));
}

#[test]
fn pods_that_wait_are_named_before_those_without_credentials_and_what_all_say_is_said_once() {
    let failed = || Credentials::Failed(field("spec.roles[dialect=ec2]", "no"));
    let pods = vec![pod("a", true, failed()), pod("b", false, failed()), pod("c", true, Credentials::Given)];
    let finding = || finding("spec.a", FindingReason::ItemUnavailable, "one");
    let observed = Observed { pods, findings: vec![finding(), finding()], ..Observed::default() };
    let status = next(None, &observed, at(0));
    assert_eq!(status.pods, ["b", "a"]);
    assert_eq!(said(&status, ACCEPTED).2, "spec.a: one");
}

#[test]
fn a_long_message_is_shortened_to_what_an_object_may_hold() {
    let many = (0..200).map(|number| field(&format!("spec.metadata[{number}].path"), "is not one: …")).collect();
    let status = next(None, &Observed { invalid: many, ..Observed::default() }, at(0));
    let message = said(&status, ACCEPTED).2;
    assert!(
        message.len() <= MAX_MESSAGE && message.ends_with('…') && message.starts_with("spec.metadata[0]"),
        "{message}"
    );
}

#[test]
fn a_new_pod_of_a_generation_that_all_agents_have_is_only_waited_for() {
    let all = vec![pod("a", true, Credentials::NotAsked)];
    let some = vec![pod("a", true, Credentials::NotAsked), pod("b", false, Credentials::NotAsked)];
    let of = |generation, pods: &Vec<ObservedPod>| Observed { generation, pods: pods.clone(), ..Observed::default() };
    let programmed = next(None, &of(1, &all), at(0));
    assert!(only_waits(Some(&programmed), &next(Some(&programmed), &of(1, &some), at(1))));
    assert!(!only_waits(Some(&programmed), &next(Some(&programmed), &of(2, &some), at(1))), "an edit");
    assert!(!only_waits(None, &next(None, &of(1, &some), at(1))), "a new profile");
    let conflict =
        Observed { findings: vec![finding("spec.priority", FindingReason::Conflicted, "why")], ..of(1, &some) };
    assert!(!only_waits(Some(&programmed), &next(Some(&programmed), &conflict, at(1))), "something else too");
}
