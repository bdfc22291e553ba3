//! What is known of one profile: what its status is made of.

use jiff::Timestamp;
use podmeta_agent_api::calls::Reported;
use podmeta_crds::field::FieldError;
use podmeta_crds::metadataprofile::MetadataProfileStatus;
use podmeta_metadata::compile::Outcome;
use podmeta_metadata::credentials::from_secret;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::finding::{Finding, FindingReason};
use podmeta_metadata::profile::{ProfileRef, UserDataSource};
use podmeta_metadata::role::Provider;

use super::World;
use super::known::Known;
use crate::index::{Entry, ProfileKey};
use crate::status::{Credentials, Observed, ObservedPod};

/// How many findings of one kind about a profile are looked at: far more than its status can say.
const MAX_FINDINGS: usize = 64;

impl World {
    /// What is known of a profile, and what was said of it last; none if it is gone.
    #[must_use]
    pub fn observe(
        &self,
        key: &ProfileKey,
        now: Timestamp,
    ) -> Option<(ProfileRef, Option<MetadataProfileStatus>, Observed)> {
        let known = self.profiles.get(key)?;
        let mut observed = Observed {
            generation: known.reference.generation,
            invalid: known.errors.clone(),
            last_valid: known.last_valid(),
            held: known.valid.is_some(),
            has_roles: known.profile().is_some_and(|profile| !profile.roles.is_empty()),
            bad_secrets: self.bad_secrets(key, known, now),
            ..Observed::default()
        };
        for (uid, node, entry) in self.index.concerned(key) {
            let about = entry
                .findings
                .iter()
                .filter(|finding| finding.profile.as_ref().is_some_and(|profile| ProfileKey::of(profile) == *key));
            // Pods of one profile mostly have the same findings.
            for finding in about {
                let alike = observed.findings.iter().filter(|known| known.reason == finding.reason);
                if alike.count() < MAX_FINDINGS && !observed.findings.contains(finding) {
                    observed.findings.push(finding.clone());
                }
            }
            if let Some(profile) = entry.profile().filter(|profile| ProfileKey::of(profile) == *key) {
                let report = self.reports.get(node);
                observed.unreported |= report.is_none();
                let reported = report.and_then(|report| report.pods.get(uid));
                observed.pods.push(observed_pod(entry, profile, reported));
            }
        }
        if let Some(finding) = self.missing_user_data(key, known) {
            observed.findings.push(finding);
        }
        Some((known.reference.clone(), known.status.clone(), observed))
    }

    /// The Secrets of roles that are known not to be there, or not to hold credentials.
    fn bad_secrets(&self, key: &ProfileKey, known: &Known, now: Timestamp) -> Vec<FieldError> {
        let roles = known.profile().into_iter().flat_map(|profile| &profile.roles);
        let bad = roles.filter_map(|(dialect, role)| {
            let Provider::Secret { name } = &role.provider else { return None };
            let message = match self.secrets.get(&(key.namespace.clone(), name.clone()))? {
                None => format!("there is no Secret {}/{name}", key.namespace),
                Some(data) => format!("Secret {}/{name}: {}", key.namespace, from_secret(data, now).err()?),
            };
            Some(FieldError { field: format!("spec.roles[dialect={dialect}].secret.name"), message })
        });
        bad.collect()
    }

    fn missing_user_data(&self, key: &ProfileKey, known: &Known) -> Option<Finding> {
        let Some(UserDataSource::Secret(data)) = &known.profile()?.user_data else { return None };
        let there = self.secrets.get(&(key.namespace.clone(), data.name.clone()))?;
        let message = match there {
            None => format!("there is no Secret {}/{}", key.namespace, data.name),
            Some(there) if !there.contains_key(&data.key) => {
                format!("Secret {}/{} has no key {}", key.namespace, data.name, data.key)
            }
            Some(_) => return None,
        };
        let (profile, field) = (Some(known.reference.clone()), "spec.userData.secretKeyRef".to_owned());
        Some(Finding { profile, field, reason: FindingReason::UserDataUnavailable, message })
    }
}

fn observed_pod(entry: &Entry, profile: &ProfileRef, reported: Option<&Reported>) -> ObservedPod {
    let name = match &entry.item.outcome {
        Outcome::Served(workload) => workload.pod.name.clone(),
        Outcome::Denied(denied) => denied.pod.name.clone(),
        Outcome::Node(pod) => pod.name.clone(),
    };
    let has = |reported: &Reported| {
        let acknowledged = reported.profile.as_ref();
        acknowledged.is_some_and(|has| has.uid == profile.uid && has.generation >= profile.generation)
    };
    let outcomes = reported.into_iter().flat_map(|reported| &reported.credentials);
    // Whether a Secret gives credentials is known here, and now; the pod may have asked long ago.
    let from_secret = |dialect: Dialect| match &entry.item.outcome {
        Outcome::Served(workload) => {
            let role = workload.part(dialect).and_then(|part| part.role.as_ref());
            role.is_some_and(|role| matches!(role.provider, Provider::Secret { .. }))
        }
        Outcome::Denied(_) | Outcome::Node(_) => false,
    };
    let mut credentials = Credentials::NotAsked;
    for (dialect, failed) in outcomes {
        match failed {
            Some(_) if from_secret(*dialect) => {}
            Some(why) => {
                let field = format!("spec.roles[dialect={dialect}]");
                credentials = Credentials::Failed(FieldError { field, message: why.clone() });
                break;
            }
            None => credentials = Credentials::Given,
        }
    }
    ObservedPod {
        name,
        programmed: reported.is_some_and(has),
        credentials,
        tokenless: reported.is_some_and(|reported| reported.tokenless),
    }
}
