//! The compiled pods of the input files, and notes about them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use podmeta_crds::manifests::{self, LoadedObjects, ManifestError};
use podmeta_metadata::compile::{ConfigMapValues, Outcome, Settings, compile};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::finding::{Finding, FindingReason};
use podmeta_metadata::names::PodUid;
use podmeta_metadata::profile::{KeyRef, Profile, ProfileRef};

use crate::broker::Secrets;
use crate::dev::address::link;
use crate::dev::input::InputFile;
use crate::dev::print;
use crate::edge::PodView;

/// The compiled input files.
#[derive(Debug, Default)]
pub struct DevState {
    /// The pods, as `NAMESPACE/NAME`.
    pub pods: BTreeMap<String, DevPod>,
    /// The Secrets that profiles name.
    pub secrets: Secrets,
    /// Findings and other notes, one line each.
    pub notes: Vec<String>,
    /// The number of notes that are warnings.
    pub warnings: usize,
}

/// A pod of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevPod {
    /// The UID.
    pub uid: PodUid,
    /// Data that the pod is served.
    pub view: PodView,
}

impl DevState {
    /// Compiles files. `now` is the time of taints that have no time.
    ///
    /// # Errors
    /// All errors in the files, one line each.
    pub fn compile(files: &[InputFile], now: Timestamp, settings: &Settings) -> Result<Self, Vec<ManifestError>> {
        let files =
            files.iter().map(|file| manifests::ManifestFile { name: file.name.clone(), text: file.text.clone() });
        let (objects, mut errors) = manifests::load(&files.collect::<Vec<_>>(), now);
        errors.extend(manifests::check_references(&objects));
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut state = Self { secrets: named_secrets(&objects), ..Self::default() };
        state.notes.extend(objects.skipped.iter().cloned());
        let mut findings = Vec::new();
        for pod in &objects.pods {
            state.compile_pod(&objects, pod, settings, &mut findings);
        }
        for profile in &objects.profiles {
            if !objects.pods.iter().any(|pod| profile.matches(&pod.facts.pod)) {
                state.warnings += 1;
                state.notes.push(unmatched_profile_note(&objects, &profile.object));
            }
        }
        for finding in &findings {
            if finding.reason != FindingReason::TagDropped {
                state.warnings += 1;
            }
            state.notes.push(finding_note(&objects, finding));
        }
        Ok(state)
    }

    /// Compiles a pod and adds it with its notes. Adds its findings to `findings`.
    fn compile_pod(
        &mut self,
        objects: &LoadedObjects,
        pod: &manifests::LoadedPod,
        settings: &Settings,
        findings: &mut Vec<Finding>,
    ) {
        let facts = &pod.facts;
        let metadata = &facts.pod.metadata;
        let name = format!("{}/{}", metadata.namespace, metadata.name);
        let compiled = compile(
            facts,
            &objects.profiles,
            &objects.policies,
            &config_map_values(objects, &metadata.namespace),
            settings,
        );
        // Pods of one profile usually have the same findings.
        findings
            .extend(compiled.findings.into_iter().filter(|finding| !findings.contains(finding)).collect::<Vec<_>>());
        match &compiled.outcome {
            Outcome::Served(workload) if workload.instance.region.is_none() => self.notes.push(format!(
                "{name} has no region: no Node with a topology.kubernetes.io/region label, no spec.instance.region \
                 in its profile and no --region"
            )),
            Outcome::Served(_) => {}
            Outcome::Denied(denied) => self.notes.push(print::denied_note(denied)),
            Outcome::Node(pod) => {
                self.notes.push(format!("{pod} uses its node's own metadata service and is not served here"));
            }
        }
        let Some(view) = compiled.outcome.into_view(|| link(&metadata.uid, &pod.addresses)) else { return };
        self.pods.insert(name, DevPod { uid: metadata.uid.clone(), view });
    }
}

impl DevPod {
    /// Returns the dialects that the pod has a listener for: its own, or all if it is denied.
    pub fn dialects(&self) -> impl Iterator<Item = Dialect> {
        Dialect::ALL.into_iter().filter(|dialect| match &self.view {
            PodView::Served(workload, _) => workload.part(*dialect).is_some(),
            PodView::Denied(_) => true,
        })
    }
}

/// Formats a finding with its file and line.
fn finding_note(objects: &LoadedObjects, finding: &Finding) -> String {
    let message = format!("{}: {}", finding.reason, finding.message);
    let Some(profile) = &finding.profile else { return message };
    let (namespace, name) = (&profile.namespace, &profile.name);
    let object = format!("MetadataProfile {namespace}/{name}: {}: {message}", finding.field);
    match objects.locate("MetadataProfile", namespace, name, &finding.field) {
        Some(location) => format!("{location}: {object}"),
        None => object,
    }
}

/// Formats that a profile selects no pod, with its file and line.
fn unmatched_profile_note(objects: &LoadedObjects, profile: &ProfileRef) -> String {
    let (namespace, name) = (&profile.namespace, &profile.name);
    let message = format!(
        "MetadataProfile {namespace}/{name}: spec.podSelector: selects no pod of namespace {namespace} in the files"
    );
    match objects.locate("MetadataProfile", namespace, name, "spec.podSelector") {
        Some(location) => format!("{location}: {message}"),
        None => message,
    }
}

/// Returns the ConfigMap values that the profiles of a namespace name.
fn config_map_values(objects: &LoadedObjects, namespace: &str) -> ConfigMapValues {
    let named = objects.profiles.iter().filter(|profile| profile.object.namespace == namespace);
    let keys = named.filter_map(Profile::config_map_key);
    let value =
        |key: &KeyRef| objects.config_map(namespace, &key.name)?.get(&key.key).map(|bytes| bytes.clone().into());
    keys.filter_map(|key| Some((key.clone(), value(key)?))).collect()
}

/// Returns the Secrets that profiles name and can use.
fn named_secrets(objects: &LoadedObjects) -> Secrets {
    let mut secrets = Secrets::new();
    for profile in &objects.profiles {
        for name in profile.secret_names() {
            let namespace = &profile.object.namespace;
            if let Some(data) = objects.secret(namespace, name) {
                secrets.insert((namespace.clone(), name.to_owned()), data.clone());
            }
        }
    }
    secrets
}
