//! Compiles a pod's facts, its profiles and policies into the workload that it is served, and reports parts that did not apply.
//! It uses no addresses, requests or time.

mod claims;
mod compilation;
mod instance;
mod items;
mod limits;
mod outcome;
mod size;
mod tags;
#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::compile::compilation::Compilation;
use crate::compile::instance::{instance, part};
use crate::dialect::Dialect;
use crate::facts::Facts;
use crate::finding::{Finding, FindingReason};
use crate::names::AccountId;
use crate::options::{Limits, MetadataOptions, ProcessUsers};
use crate::policy::{EffectivePolicy, Policy, StaticPods, UnmatchedPods};
use crate::profile::{InstanceSpec, KeyRef, Profile, ProfileRef};
use crate::workload::{IdentityDocuments, MAX_WORKLOAD_BYTES, PodRef, Workload};

pub use outcome::{DenialReason, Denied, Outcome, PodView};

/// Values of ConfigMaps in the pod's namespace, by object and key.
pub type ConfigMapValues = BTreeMap<KeyRef, Bytes>;

/// Settings of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The cluster's DNS domain, such as `cluster.local`.
    pub cluster_domain: String,
    /// The region of signed identity documents, and of nodes without a region label.
    pub region: Option<String>,
    /// The account of signed identity documents, and of pods whose role and profile have none.
    pub account: Option<AccountId>,
    /// The claims of a profile that are signed without a policy.
    pub unlisted_claims: UnlistedClaims,
    /// The domain of host names that are made from an address. The default is the cloud's own domain.
    pub hostname_suffix: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster_domain: "cluster.local".to_owned(),
            region: None,
            account: None,
            unlisted_claims: UnlistedClaims::NotSigned,
            hostname_suffix: None,
        }
    }
}

/// Treatment of account, region and zone of a profile in the signed identity document, if no policy has a list of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnlistedClaims {
    /// They are not signed. The operator's rule: an author of profiles must not get a signature for any account.
    NotSigned,
    /// They are signed. Dev mode's rule: files and key belong to one user.
    Signed,
}

/// Result of [`compile`] for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The workload, or the reason why the pod is not served.
    pub outcome: Outcome,
    /// The profile that applies to the pod, also if the pod is not served, or `None` if no profile matches it.
    pub profile: Option<ProfileRef>,
    /// Findings to report on its profiles.
    pub findings: Vec<Finding>,
}

/// Compiles one pod. `profiles` may include profiles of other namespaces, which do not match.
#[must_use]
pub fn compile<P: Borrow<Profile>>(
    facts: &Facts,
    profiles: &[P],
    policies: &[Policy],
    config_map_values: &ConfigMapValues,
    settings: &Settings,
) -> Compiled {
    let rules = EffectivePolicy::of_namespace(policies, &facts.namespace.metadata.labels);
    let mut findings = Vec::new();
    let Some(profile) = select_profile(facts, profiles, &mut findings) else {
        return Compiled { outcome: without_profile(facts, &rules, settings), profile: None, findings };
    };
    let outcome =
        Compilation { facts, profile, rules, config_map_values, settings, findings: &mut findings, scope: None }.run();
    let outcome = deny_if_too_large(facts, profile, outcome, &mut findings);
    Compiled { outcome, profile: Some(profile.object.clone()), findings }
}

/// Denies a pod whose workload is longer than [`MAX_WORKLOAD_BYTES`], with a finding.
fn deny_if_too_large(facts: &Facts, profile: &Profile, outcome: Outcome, findings: &mut Vec<Finding>) -> Outcome {
    let Some(field) = outcome.workload().and_then(size::largest_field_if_too_large) else { return outcome };
    let pod = &facts.pod.metadata.name;
    findings.push(Finding {
        profile: Some(profile.object.clone()),
        field: field.to_owned(),
        reason: FindingReason::WorkloadTooLarge,
        message: format!(
            "pod {pod} is denied: its data takes more than {MAX_WORKLOAD_BYTES} bytes, and most are of this field"
        ),
    });
    let message = format!("its data takes more than {MAX_WORKLOAD_BYTES} bytes, and most are of {field}");
    Outcome::Denied(Denied { pod: pod_ref(facts), reason: DenialReason::of_profile(profile.object.clone(), message) })
}

/// Returns the matching profile with the highest priority, then the oldest, then the first by name.
fn select_profile<'p, P: Borrow<Profile>>(
    facts: &Facts,
    profiles: &'p [P],
    findings: &mut Vec<Finding>,
) -> Option<&'p Profile> {
    let mut matching = profiles
        .iter()
        .map(Borrow::borrow)
        .filter(|profile: &&Profile| profile.matches(&facts.pod))
        .collect::<Vec<_>>();
    matching.sort_by(|a, b| {
        b.priority.cmp(&a.priority).then(a.created.cmp(&b.created)).then(a.object.name.cmp(&b.object.name))
    });
    let winner = *matching.first()?;
    for loser in matching.iter().skip(1).filter(|loser| loser.priority == winner.priority) {
        findings.push(Finding {
            profile: Some(loser.object.clone()),
            field: "spec.priority".to_owned(),
            reason: FindingReason::Conflicted,
            message: format!(
                "MetadataProfile {} matches pod {} at the same priority and wins: it is older or first by name",
                winner.object.name, facts.pod.metadata.name
            ),
        });
    }
    Some(winner)
}

fn pod_ref(facts: &Facts) -> PodRef {
    let metadata = &facts.pod.metadata;
    let uid = facts.pod.runtime_uid().clone();
    PodRef { namespace: metadata.namespace.clone(), name: metadata.name.clone(), uid }
}

/// Compiles a pod that no profile matches.
fn without_profile(facts: &Facts, rules: &EffectivePolicy<'_>, settings: &Settings) -> Outcome {
    let denied = |message: &str| Outcome::Denied(Denied { pod: pod_ref(facts), reason: DenialReason::new(message) });
    let documents = if facts.pod.is_mirror() {
        match rules.static_pods() {
            StaticPods::Deny => {
                return denied("it is a static pod, and no MetadataPolicy with staticPods Facts applies");
            }
            StaticPods::Facts => IdentityDocuments::Absent,
        }
    } else {
        match rules.without_profile() {
            UnmatchedPods::Deny => return denied("no MetadataProfile matches it"),
            UnmatchedPods::Facts => IdentityDocuments::Signed,
        }
    };
    if facts.pod.spec.host_network {
        return denied("no MetadataProfile matches this hostNetwork pod");
    }
    let spec = InstanceSpec::default();
    let dialects = Dialect::ALL.into_iter().filter(|dialect| rules.forbids_dialect(*dialect).is_none());
    Outcome::Served(Box::new(Workload {
        pod: pod_ref(facts),
        profile: None,
        options: MetadataOptions::default(),
        limits: limits::reduce(Limits::default(), rules).0,
        users: ProcessUsers::default(),
        documents,
        instance: instance(facts, &spec, rules, settings),
        dialects: dialects.map(|dialect| (dialect, part(facts, &spec, dialect, None, rules, settings))).collect(),
    }))
}
