//! Which of several profiles a pod is given.

use crate::finding::FindingReason;
use crate::fixture::{Case, profile, string_map};
use crate::selector::{Requirement, Selector};

/// The name of the profile that won, if one did.
fn winner(case: &Case) -> Option<String> {
    match case.compile().outcome {
        crate::compile::Outcome::Served(workload) => workload.profile.map(|profile| profile.name),
        crate::compile::Outcome::Denied(_) | crate::compile::Outcome::Node(_) => None,
    }
}

/// Which profile was told what.
fn told(case: &Case) -> Vec<(String, String, FindingReason)> {
    let findings = case.compile().findings.into_iter();
    findings.map(|finding| (finding.profile.unwrap().name, finding.field, finding.reason)).collect()
}

fn with(priority: i32, created: &str, name: &str) -> crate::profile::Profile {
    crate::profile::Profile { priority, created: created.parse().unwrap(), ..profile(name) }
}

const OLD: &str = "2026-01-01T00:00:00Z";
const NEW: &str = "2026-01-02T00:00:00Z";

#[test]
fn the_highest_priority_wins_and_that_is_no_conflict() {
    let case = Case { profiles: vec![with(0, OLD, "a"), with(7, NEW, "b"), with(-1, OLD, "c")], ..Case::new() };
    assert_eq!(winner(&case).unwrap(), "b");
    assert_eq!(told(&case), []);
}

#[test]
fn at_equal_priority_the_older_profile_wins_and_each_other_is_told() {
    let case = Case { profiles: vec![with(3, NEW, "a"), with(3, OLD, "b"), with(3, NEW, "c")], ..Case::new() };
    assert_eq!(winner(&case).unwrap(), "b");
    let loser = |name: &str| (name.to_owned(), "spec.priority".to_owned(), FindingReason::Conflicted);
    assert_eq!(told(&case), [loser("a"), loser("c")]);
    assert!(case.compile().findings[0].message.contains("MetadataProfile b"));
}

#[test]
fn of_two_profiles_of_one_age_the_first_by_name_wins() {
    let case = Case { profiles: vec![with(3, OLD, "b"), with(3, OLD, "a")], ..Case::new() };
    assert_eq!(winner(&case).unwrap(), "a");
    assert_eq!(told(&case), [("b".to_owned(), "spec.priority".to_owned(), FindingReason::Conflicted)]);
}

#[test]
fn a_profile_that_lost_by_priority_has_no_conflict_with_its_equals() {
    let case = Case { profiles: vec![with(1, OLD, "a"), with(0, OLD, "b"), with(0, NEW, "c")], ..Case::new() };
    assert_eq!(winner(&case).unwrap(), "a");
    assert_eq!(told(&case), []);
}

#[test]
fn a_profile_of_another_namespace_is_for_nobody_here() {
    let mut case = Case::new();
    case.own().object.namespace = "other".to_owned();
    assert_eq!(winner(&case), None);
}

#[test]
fn a_profile_is_for_the_pods_that_its_selector_selects() {
    let mut case = Case::new();
    case.own().pods = Selector { requirements: vec![Requirement::In("app".to_owned(), vec!["web".to_owned()])] };
    assert_eq!(winner(&case), None);
    case.facts.pod.metadata.labels = string_map(&[("app", "web")]);
    assert_eq!(winner(&case).unwrap(), "own");
}

#[test]
fn a_profile_that_names_service_accounts_is_for_their_pods_alone() {
    let mut case = Case::new();
    case.own().service_accounts = ["web".to_owned(), "worker".to_owned()].into();
    assert_eq!(winner(&case), None);
    case.facts.pod.spec.service_account_name = "worker".to_owned();
    assert_eq!(winner(&case).unwrap(), "own");
}

#[test]
fn a_workload_says_which_generation_of_which_profile_it_was_made_from() {
    let mut case = Case::new();
    case.own().object.generation = 12;
    let profile = case.workload().profile.unwrap();
    assert_eq!((profile.namespace.as_str(), profile.name.as_str()), ("shop", "own"));
    assert_eq!((profile.uid.as_str(), profile.generation), ("uid-of-own", 12));
}
