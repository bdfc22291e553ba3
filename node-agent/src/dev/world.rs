//! What the files say: every pod compiled into what it is served, and what the person who wrote them should know.

use std::collections::BTreeMap;

use jiff::Timestamp;
use podmeta_crds::manifests::{self, LoadedObjects, ManifestError};
use podmeta_metadata::compile::{Outcome, Settings, Sources, compile};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::finding::{Finding, FindingReason};
use podmeta_metadata::names::PodUid;
use podmeta_metadata::profile::{KeyRef, Profile, ProfileRef};
use zeroize::Zeroizing;

use crate::broker::Secrets;
use crate::dev::address::link;
use crate::dev::files::Text;
use crate::dev::print;
use crate::edge::PodView;

/// Everything that some files say.
#[derive(Debug, Default)]
pub struct World {
    /// The pods, as `NAMESPACE/NAME`.
    pub pods: BTreeMap<String, DevPod>,
    /// The Secrets.
    pub secrets: Secrets,
    /// What a person should know, a line each.
    pub notes: Vec<String>,
    /// How many of the notes are about something that is wrong.
    pub warnings: usize,
}

/// One pod of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevPod {
    /// Its UID.
    pub uid: PodUid,
    /// What it gets.
    pub view: PodView,
}

impl World {
    /// Reads the files.
    ///
    /// # Errors
    /// If anything in them is wrong: every problem, a line each.
    pub fn read(texts: &[Text], seen: Timestamp, settings: &Settings) -> Result<Self, Vec<ManifestError>> {
        let files =
            texts.iter().map(|text| manifests::ManifestFile { name: text.name.clone(), text: text.text.clone() });
        let (objects, mut problems) = manifests::load(&files.collect::<Vec<_>>(), seen);
        problems.extend(manifests::check_references(&objects));
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut world = Self { secrets: secrets(&objects), ..Self::default() };
        world.notes.extend(objects.skipped.iter().cloned());
        let mut findings = Vec::new();
        for pod in &objects.pods {
            world.compile(&objects, pod, settings, &mut findings);
        }
        for profile in &objects.profiles {
            if !objects.pods.iter().any(|pod| profile.matches(&pod.facts.pod)) {
                world.warnings += 1;
                world.notes.push(selects_nothing(&objects, &profile.object));
            }
        }
        for finding in &findings {
            if finding.reason != FindingReason::TagDropped {
                world.warnings += 1;
            }
            world.notes.push(line(&objects, finding));
        }
        Ok(world)
    }

    fn compile(
        &mut self,
        objects: &LoadedObjects,
        pod: &manifests::LoadedPod,
        settings: &Settings,
        findings: &mut Vec<Finding>,
    ) {
        let facts = &pod.facts;
        let metadata = &facts.pod.metadata;
        let name = format!("{}/{}", metadata.namespace, metadata.name);
        let compiled =
            compile(facts, &objects.profiles, &objects.policies, &sources(objects, &metadata.namespace), settings);
        // Pods of one profile mostly have the same findings.
        findings
            .extend(compiled.findings.into_iter().filter(|finding| !findings.contains(finding)).collect::<Vec<_>>());
        match &compiled.outcome {
            Outcome::Served(workload) if workload.instance.region.is_none() => self.notes.push(format!(
                "{name} has no region: no Node with a topology.kubernetes.io/region label, no spec.instance.region \
                 in its profile and no --region"
            )),
            Outcome::Served(_) => {}
            Outcome::Denied(denied) => self.notes.push(print::denied(denied)),
            Outcome::Node(pod) => {
                self.notes.push(format!("{pod} is left to its node's own metadata service, and is not served here"));
            }
        }
        let Some(view) = compiled.outcome.into_view(|| link(&metadata.uid, &pod.addresses)) else { return };
        self.pods.insert(name, DevPod { uid: metadata.uid.clone(), view });
    }
}

impl DevPod {
    /// The dialects that the pod has a socket for: its own, or both if it is denied in both.
    pub fn dialects(&self) -> impl Iterator<Item = Dialect> {
        Dialect::ALL.into_iter().filter(|dialect| match &self.view {
            PodView::Served(workload, _) => workload.part(*dialect).is_some(),
            PodView::Denied(_) => true,
        })
    }
}

/// A finding as a line, with the place that it is about.
fn line(objects: &LoadedObjects, finding: &Finding) -> String {
    let what = format!("{}: {}", finding.reason, finding.message);
    let Some(profile) = &finding.profile else { return what };
    let (namespace, name) = (&profile.namespace, &profile.name);
    let object = format!("MetadataProfile {namespace}/{name}: {}: {what}", finding.field);
    match objects.locate("MetadataProfile", namespace, name, &finding.field) {
        Some(place) => format!("{place}: {object}"),
        None => object,
    }
}

fn selects_nothing(objects: &LoadedObjects, profile: &ProfileRef) -> String {
    let (namespace, name) = (&profile.namespace, &profile.name);
    let what = format!(
        "MetadataProfile {namespace}/{name}: spec.podSelector: selects no pod of namespace {namespace} in these files"
    );
    match objects.locate("MetadataProfile", namespace, name, "spec.podSelector") {
        Some(place) => format!("{place}: {what}"),
        None => what,
    }
}

/// The values of ConfigMaps that the profiles of a namespace name.
fn sources(objects: &LoadedObjects, namespace: &str) -> Sources {
    let named = objects.profiles.iter().filter(|profile| profile.object.namespace == namespace);
    let keys = named.filter_map(Profile::config_map_key);
    let value =
        |key: &KeyRef| objects.config_map(namespace, &key.name)?.get(&key.key).map(|bytes| bytes.clone().into());
    keys.filter_map(|key| Some((key.clone(), value(key)?))).collect()
}

/// The Secrets that profiles name.
fn secrets(objects: &LoadedObjects) -> Secrets {
    let mut secrets = Secrets::new();
    for profile in &objects.profiles {
        for name in profile.secret_names() {
            let namespace = &profile.object.namespace;
            if let Some(data) = objects.secret(namespace, name) {
                let data = data.iter().map(|(key, bytes)| (key.clone(), Zeroizing::new(bytes.expose().to_vec())));
                secrets.insert((namespace.clone(), name.to_owned()), data.collect());
            }
        }
    }
    secrets
}
