//! Limits of a profile, and their maxima.

use std::num::NonZeroU32;

use crate::finding::FindingReason;
use crate::fixture::Case;
use crate::options::Limits;
use crate::policy::{Policy, UnmatchedPods};

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn limits(rate: u32, burst: u32, connections: u32) -> Limits {
    Limits { requests_per_second: number(rate), burst: number(burst), connections: number(connections) }
}

/// Returns a pod whose profile has these limits.
fn limited(limits: Limits, policies: Vec<Policy>) -> Case {
    let mut case = Case { policies, ..Case::new() };
    case.profile_mut().limits = limits;
    case
}

fn maxima(name: &str, rate: u32, connections: u32) -> Policy {
    Policy {
        name: name.to_owned(),
        max_requests_per_second: Some(number(rate)),
        max_connections: Some(number(connections)),
        ..Policy::default()
    }
}

fn findings(case: &Case) -> Vec<(String, String)> {
    let findings = case.compile().findings;
    assert!(findings.iter().all(|finding| finding.reason == FindingReason::PolicyTightened), "{findings:?}");
    findings.into_iter().map(|finding| (finding.field, finding.message)).collect()
}

fn finding(field: &str, message: &str) -> (String, String) {
    (field.to_owned(), message.to_owned())
}

#[test]
fn limit_over_the_default_maximum_is_reduced_without_a_policy() {
    for policies in [vec![], vec![Policy::default()]] {
        let case = limited(limits(100_000, 200_000, 16_384), policies);
        assert_eq!(case.workload().limits, limits(2_000, 4_000, 1_024));
        assert_eq!(
            findings(&case),
            [
                finding(
                    "spec.limits.requestsPerSecond",
                    "2000 is the maximum unless a MetadataPolicy sets maxRequestsPerSecond"
                ),
                finding("spec.limits.burst", "4000 is the maximum unless a MetadataPolicy sets maxRequestsPerSecond"),
                finding("spec.limits.connections", "1024 is the maximum unless a MetadataPolicy sets maxConnections"),
            ]
        );
    }
}

#[test]
fn limit_up_to_the_maximum_is_unchanged() {
    for (own, policies) in [
        (Limits::default(), vec![]),
        (limits(2_000, 4_000, 1_024), vec![]),
        (limits(100_000, 200_000, 16_384), vec![maxima("high", 100_000, 16_384)]),
        (limits(1, 2, 1), vec![maxima("low", 1, 1)]),
    ] {
        let case = limited(own, policies);
        assert_eq!(case.workload().limits, own);
        assert_eq!(findings(&case), []);
    }
}

#[test]
fn lowest_maximum_of_each_limit_applies() {
    let case = limited(limits(500, 1_000, 256), vec![maxima("a", 100, 200), maxima("b", 300, 50)]);
    assert_eq!(case.workload().limits, limits(100, 200, 50));
    assert_eq!(
        findings(&case),
        [
            finding("spec.limits.requestsPerSecond", "MetadataPolicy a allows 100 at most"),
            finding("spec.limits.burst", "MetadataPolicy a allows 200 at most"),
            finding("spec.limits.connections", "MetadataPolicy b allows 50 at most"),
        ]
    );
}

#[test]
fn burst_over_two_seconds_of_the_maximum_rate_is_reduced() {
    let case = limited(limits(100, 200_000, 256), vec![]);
    assert_eq!(case.workload().limits, limits(100, 4_000, 256));
    assert_eq!(findings(&case).len(), 1);
}

#[test]
fn limits_of_a_pod_without_a_profile_are_reduced() {
    let facts = Policy { without_profile: Some(UnmatchedPods::Facts), ..maxima("low", 10, 5) };
    let mut case = Case { policies: vec![facts], ..Case::new() };
    case.profiles.clear();
    assert_eq!(case.workload().limits, limits(10, 20, 5));
}
