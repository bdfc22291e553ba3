//! Selection of the profile of a pod.

use crate::compile::Outcome;
use crate::finding::FindingReason;
use crate::fixture::{Case, profile, string_map};
use crate::selector::{Requirement, Selector};

/// Returns the name of the selected profile.
fn winner(case: &Case) -> Option<String> {
    match case.compile().outcome {
        Outcome::Served(workload) => workload.profile.map(|profile| profile.name),
        Outcome::Denied(_) | Outcome::Node(_) => None,
    }
}

/// Returns the profile, field and reason of each finding.
fn findings(case: &Case) -> Vec<(String, String, FindingReason)> {
    let findings = case.compile().findings.into_iter();
    findings.map(|finding| (finding.profile.unwrap().name, finding.field, finding.reason)).collect()
}

fn with(priority: i32, created: &str, name: &str) -> crate::profile::Profile {
    crate::profile::Profile { priority, created: created.parse().unwrap(), ..profile(name) }
}

const OLD: &str = "2026-01-01T00:00:00Z";
const NEW: &str = "2026-01-02T00:00:00Z";

#[test]
fn highest_priority_is_selected_without_a_finding() {
    let case = Case { profiles: vec![with(0, OLD, "a"), with(7, NEW, "b"), with(-1, OLD, "c")], ..Case::new() };
    assert_eq!(winner(&case).unwrap(), "b");
    assert_eq!(findings(&case), []);
}

#[test]
fn oldest_profile_of_equal_priority_is_selected_and_others_get_a_finding() {
    let case = Case { profiles: vec![with(3, NEW, "a"), with(3, OLD, "b"), with(3, NEW, "c")], ..Case::new() };
    assert_eq!(winner(&case).unwrap(), "b");
    let loser = |name: &str| (name.to_owned(), "spec.priority".to_owned(), FindingReason::Conflicted);
    assert_eq!(findings(&case), [loser("a"), loser("c")]);
    assert!(case.compile().findings[0].message.contains("MetadataProfile b"));
}

#[test]
fn first_name_of_equal_age_is_selected() {
    let case = Case { profiles: vec![with(3, OLD, "b"), with(3, OLD, "a")], ..Case::new() };
    assert_eq!(winner(&case).unwrap(), "a");
    assert_eq!(findings(&case), [("b".to_owned(), "spec.priority".to_owned(), FindingReason::Conflicted)]);
}

#[test]
fn profiles_of_lower_priority_do_not_conflict() {
    let case = Case { profiles: vec![with(1, OLD, "a"), with(0, OLD, "b"), with(0, NEW, "c")], ..Case::new() };
    assert_eq!(winner(&case).unwrap(), "a");
    assert_eq!(findings(&case), []);
}

#[test]
fn profile_of_another_namespace_does_not_match() {
    let mut case = Case::new();
    case.profile_mut().object.namespace = "other".to_owned();
    assert_eq!(winner(&case), None);
}

#[test]
fn profile_matches_pods_of_its_selector() {
    let mut case = Case::new();
    case.profile_mut().pods =
        Selector { requirements: vec![Requirement::In("app".to_owned(), vec!["web".to_owned()])] };
    assert_eq!(winner(&case), None);
    case.facts.pod.metadata.labels = string_map(&[("app", "web")]);
    assert_eq!(winner(&case).unwrap(), "own");
}

#[test]
fn profile_with_service_accounts_matches_only_their_pods() {
    let mut case = Case::new();
    case.profile_mut().service_accounts = ["web".to_owned(), "worker".to_owned()].into();
    assert_eq!(winner(&case), None);
    case.facts.pod.spec.service_account_name = Some("worker".to_owned());
    assert_eq!(winner(&case).unwrap(), "own");
}

#[test]
fn workload_has_the_generation_of_its_profile() {
    let mut case = Case::new();
    case.profile_mut().object.generation = 12;
    let profile = case.workload().profile.unwrap();
    assert_eq!((profile.namespace.as_str(), profile.name.as_str()), ("shop", "own"));
    assert_eq!((profile.uid.as_str(), profile.generation), ("uid-of-own", 12));
}
