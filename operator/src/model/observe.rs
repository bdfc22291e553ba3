//! Collects the inputs of the status of one profile.

use jiff::Timestamp;
use podmeta_agent_api::calls::PodReport;
use podmeta_crds::field::FieldError;
use podmeta_crds::metadataprofile::MetadataProfileStatus;
use podmeta_metadata::credentials::{SecretData, from_role_secret};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::finding::{Finding, FindingReason};
use podmeta_metadata::profile::{Profile, ProfileRef};
use podmeta_metadata::user_data::{self, UserDataSource};

use super::compiled_pod::{CompiledPod, ProfileKey};
use super::index::SecretUnavailable;
use super::state::OperatorState;
use super::status::{CredentialsState, ObservedPod, ObservedProfile, SecretError};

/// The maximum number of findings with the same reason that are collected. It is far more than a status can hold.
const MAX_FINDINGS_PER_REASON: usize = 64;

/// The warning of a role whose credentials have no session token.
const NO_SESSION_TOKEN: &str =
    "its Secret has no sessionToken, so the token of its credentials is empty, which some SDKs cannot use";

impl OperatorState {
    /// Returns a profile, its last status and the inputs of its next status, or `None` if the profile was deleted.
    #[must_use]
    pub fn observe(
        &self,
        key: &ProfileKey,
        now: Timestamp,
    ) -> Option<(ProfileRef, Option<MetadataProfileStatus>, ObservedProfile)> {
        let state = self.index.profile(key)?;
        let profile = state.profile();
        let mut observed = ObservedProfile {
            generation: state.reference.generation,
            errors: state.errors.clone(),
            last_valid: state.last_valid(),
            has_valid_generation: state.valid.is_some(),
            has_roles: profile.is_some_and(|profile| !profile.roles.is_empty()),
            secret_errors: profile.map(|profile| self.secret_errors(profile, now)).unwrap_or_default(),
            secret_warnings: profile.map(|profile| self.secret_warnings(profile, now)).unwrap_or_default(),
            ..ObservedProfile::default()
        };
        for (uid, node, compiled) in self.index.pods_of_profile(key) {
            let findings = compiled
                .findings
                .iter()
                .filter(|finding| finding.profile.as_ref().is_some_and(|profile| ProfileKey::of(profile) == *key));
            // Most pods of a profile have the same findings.
            for finding in findings {
                let same_reason = observed.findings.iter().filter(|known| known.reason == finding.reason);
                if same_reason.count() < MAX_FINDINGS_PER_REASON && !observed.findings.contains(finding) {
                    observed.findings.push(finding.clone());
                }
            }
            let is_redirected = || self.reports.get(node).is_some_and(|report| report.host_pods);
            let is_on_host = compiled.host_network_profile.as_ref() == Some(key);
            if is_on_host && !is_redirected() {
                observed.host_network_pods.push(compiled.item.outcome.pod().name.clone());
            } else if let Some(profile) = compiled.profile().filter(|profile| ProfileKey::of(profile) == *key) {
                let report = self.reports.get(node);
                observed.has_unreported_nodes |= report.is_none();
                let report = report.and_then(|report| report.pods.get(uid));
                // A pod that waits for its compilation still has an older generation than the one in effect.
                let in_effect = state.profile().map_or(profile, |profile| &profile.object);
                observed.pods.push(observed_pod(compiled, in_effect, report, is_on_host));
            }
        }
        let user_data = profile.and_then(|profile| self.user_data_error(profile));
        observed.findings.extend(user_data.map(|message| Finding {
            profile: Some(state.reference.clone()),
            field: "spec.userData.secretKeyRef".to_owned(),
            reason: FindingReason::UserDataUnavailable,
            message,
        }));
        Some((state.reference.clone(), state.status.clone(), observed))
    }

    /// Returns an error for each role whose Secret does not hold valid credentials, or cannot be used. A Secret that was not
    /// read yet is not an error. The data of a Secret that a policy forbids is not read, so the status does not depend on it.
    fn secret_errors(&self, profile: &Profile, now: Timestamp) -> Vec<SecretError> {
        let namespace = &profile.object.namespace;
        let Some(rules) = self.index.policies_of(namespace) else { return Vec::new() };
        let allowed = profile.roles.iter().filter(|(_, role)| rules.role_denial(role).is_none());
        let errors = allowed.filter_map(|(dialect, role)| {
            let name = role.provider.secret_name()?;
            let data = self.read_secret(namespace, name)?;
            let failure = from_role_secret(namespace, name, data, now).err()?;
            let field = format!("spec.roles[dialect={dialect}].secret.name");
            Some(SecretError { is_usable: data.is_some(), error: FieldError { field, message: failure.message } })
        });
        errors.collect()
    }

    /// Returns a warning for each role whose Secret holds a key without a session token. Ignores Secrets that a policy forbids.
    fn secret_warnings(&self, profile: &Profile, now: Timestamp) -> Vec<FieldError> {
        let namespace = &profile.object.namespace;
        let Some(rules) = self.index.policies_of(namespace) else { return Vec::new() };
        let allowed = profile.roles.iter().filter(|(_, role)| rules.role_denial(role).is_none());
        let warnings = allowed.filter_map(|(dialect, role)| {
            let name = role.provider.secret_name()?;
            let data = self.index.secret(namespace, name).ok()?;
            let credentials = from_role_secret(namespace, name, Some(data), now).ok()?;
            let is_static = credentials.session_token.expose().is_empty();
            is_static.then(|| FieldError {
                field: format!("spec.roles[dialect={dialect}].secret.name"),
                message: NO_SESSION_TOKEN.to_owned(),
            })
        });
        warnings.collect()
    }

    fn user_data_error(&self, profile: &Profile) -> Option<String> {
        let Some(UserDataSource::Secret(key)) = &profile.user_data else { return None };
        let namespace = &profile.object.namespace;
        if self.index.policies_of(namespace)?.forbids_secret(&key.name).is_some() {
            return None;
        }
        user_data::from_secret(namespace, key, self.read_secret(namespace, &key.name)?).err()
    }

    /// Returns the data of a Secret, or `Some(None)` if profiles cannot use it, or `None` if it was not read yet.
    fn read_secret(&self, namespace: &str, name: &str) -> Option<Option<&SecretData>> {
        match self.index.secret(namespace, name) {
            Ok(data) => Some(Some(data)),
            Err(SecretUnavailable::NotUsable) => Some(None),
            Err(SecretUnavailable::Unread) => None,
        }
    }
}

/// A pod on the host network uses the link of the node, and has none of its own.
fn observed_pod(
    compiled: &CompiledPod,
    profile: &ProfileRef,
    report: Option<&PodReport>,
    is_on_host: bool,
) -> ObservedPod {
    let outcome = &compiled.item.outcome;
    let is_programmed = |report: &PodReport| {
        let reported = report.profile.as_ref();
        let has_workload =
            reported.is_some_and(|reported| reported.uid == profile.uid && reported.generation >= profile.generation);
        // An agent of an older version is judged by the generation only.
        has_workload && (is_on_host || report.linked != Some(false))
    };
    // `secret_errors` checks the Secret as it is now. The result of the pod's last request may be outdated.
    let uses_secret = |dialect: Dialect| {
        let role = outcome.workload().and_then(|workload| workload.role(dialect));
        role.is_some_and(|role| role.provider.secret_name().is_some())
    };
    let mut credentials = CredentialsState::NotRequested;
    for (dialect, failure) in report.into_iter().flat_map(|report| &report.credentials) {
        match failure {
            Some(_) if uses_secret(*dialect) => {}
            Some(message) => {
                let field = format!("spec.roles[dialect={dialect}]");
                let cause = report.and_then(|report| report.causes.get(dialect)).copied().unwrap_or_default();
                let error = FieldError { field, message: message.clone() };
                credentials = CredentialsState::Failed { cause, error };
                break;
            }
            None => credentials = CredentialsState::Issued,
        }
    }
    ObservedPod {
        name: outcome.pod().name.clone(),
        is_programmed: report.is_some_and(is_programmed),
        credentials,
        is_tokenless: report.is_some_and(|report| report.tokenless),
    }
}
