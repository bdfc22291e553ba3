//! Objects from files, for those who have no cluster: `node-agent dev`, and checks of manifests.
//!
//! What is good is kept and what is not is a [`Problem`] at its line: a profile with a problem is left out, and nothing
//! else is. What only a cluster knows is made up, the same each time.

mod item;
mod made_up;
mod references;
mod secret;
mod shape;
mod source;
mod workload;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret};
use kube::CustomResourceExt;
use podmeta_metadata::facts::Facts;
use podmeta_metadata::policy::Policy;
use podmeta_metadata::profile::Profile;

use self::item::Item;
use self::references::Reference;
use self::source::Source;
use crate::crd::API_VERSION;
use crate::field::FieldError;
use crate::metadatapolicy::MetadataPolicy;
use crate::metadataprofile::MetadataProfile;
use crate::{facts, policy, profile, yaml};

pub use self::item::read;
pub use self::references::check_references;
pub use self::secret::SecretBytes;
pub use self::source::{Location, Problem};

/// A file that was read.
#[derive(Clone, Debug)]
pub struct File {
    /// Its name, as problems show it.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// A pod, and what is known beyond its facts.
#[derive(Clone, Debug)]
pub struct KnownPod {
    /// Its facts.
    pub facts: Facts,
    /// The addresses in its status.
    pub addresses: Vec<IpAddr>,
    /// Where it stands.
    pub location: Location,
}

/// All objects of some files.
#[derive(Debug, Default)]
pub struct Objects {
    /// The pods, in the order of the files.
    pub pods: Vec<KnownPod>,
    /// The profiles that have no problem.
    pub profiles: Vec<Profile>,
    /// The policies that have no problem.
    pub policies: Vec<Policy>,
    /// A line for each object of a kind that does not matter here.
    pub passed_over: Vec<String>,
    secrets: BTreeMap<(String, String), BTreeMap<String, SecretBytes>>,
    config_maps: BTreeMap<(String, String), BTreeMap<String, Vec<u8>>>,
    references: Vec<(String, String, Vec<Reference>)>,
    sources: BTreeMap<Key, Source>,
}

/// Kind, namespace (empty if there is none) and name.
type Key = (String, String, String);

impl Objects {
    /// The values of a Secret.
    #[must_use]
    pub fn secret(&self, namespace: &str, name: &str) -> Option<&BTreeMap<String, SecretBytes>> {
        self.secrets.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// The values of a ConfigMap.
    #[must_use]
    pub fn config_map(&self, namespace: &str, name: &str) -> Option<&BTreeMap<String, Vec<u8>>> {
        self.config_maps.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Where a field of an object stands, or the nearest one above it that was written. `namespace` is empty for what
    /// is in none. `None` if there is no such object.
    #[must_use]
    pub fn locate(&self, kind: &str, namespace: &str, name: &str, field: &str) -> Option<Location> {
        Some(self.source(kind, namespace, name)?.locate(field))
    }

    fn source(&self, kind: &str, namespace: &str, name: &str) -> Option<&Source> {
        self.sources.get(&(kind.to_owned(), namespace.to_owned(), name.to_owned()))
    }
}

/// Reads files. `seen` is when: a taint that does not say since when it is there is there since then.
#[must_use]
pub fn load(files: &[File], seen: Timestamp) -> (Objects, Vec<Problem>) {
    let mut loader = Loader::default();
    for file in files {
        let name: Arc<str> = file.name.as_str().into();
        let (documents, faults) = yaml::documents(&file.text);
        loader.problems.extend(faults.into_iter().map(|fault| Problem {
            file: Arc::clone(&name),
            line: fault.line,
            object: String::new(),
            field: String::new(),
            message: fault.message,
        }));
        for document in documents {
            let source = Source { file: Arc::clone(&name), lines: Arc::new(document.lines), base: String::new() };
            for item in item::split(document.value, source, &mut loader.problems) {
                loader.take(item);
            }
        }
    }
    loader.finish(seen)
}

/// Objects that were read so far. Pods wait for their namespaces and nodes.
#[derive(Default)]
struct Loader {
    objects: Objects,
    problems: Vec<Problem>,
    pods: Vec<(Pod, Source)>,
    namespaces: BTreeMap<String, Namespace>,
    nodes: BTreeMap<String, Node>,
}

impl Loader {
    fn take(&mut self, mut item: Item) {
        let namespaced = match (item.api_version.as_str(), item.kind.as_str()) {
            ("v1", "Namespace" | "Node") | (_, "MetadataPolicy") => false,
            ("v1", "Pod" | "Secret" | "ConfigMap")
            | ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet")
            | ("batch/v1", "Job")
            | (_, "MetadataProfile") => true,
            (group, _) if group.starts_with("podmeta.dev/") => {
                self.problems.push(
                    item.problem("kind", "is no resource of podmeta.dev: there are MetadataProfile and MetadataPolicy"),
                );
                return;
            }
            _ => {
                let at = item.source.locate("");
                self.objects
                    .passed_over
                    .push(format!("{at}: {} is passed over", item.label()).replace(char::is_control, " "));
                return;
            }
        };
        item.namespace = namespaced.then(|| item.in_namespace().to_owned());
        if let Err(problem) = self.read(&item) {
            self.problems.push(problem);
        }
    }

    fn read(&mut self, item: &Item) -> Result<(), Problem> {
        let (namespace, name) = (item.namespace.clone().unwrap_or_default(), item.name.clone());
        if name.is_empty() {
            return Err(item.problem("metadata.name", "is missing"));
        }
        self.note(item, &item.kind, &name, item.source.clone())?;
        match item.kind.as_str() {
            "Namespace" => drop(self.namespaces.insert(name, item::known(item)?)),
            "Node" => drop(self.nodes.insert(name, item::known(item)?)),
            "Secret" => drop(self.objects.secrets.insert((namespace, name), secret_data(item)?)),
            "ConfigMap" => drop(self.objects.config_maps.insert((namespace, name), config_map_data(item)?)),
            "Pod" => self.pods.push((item::known(item)?, item.source.clone())),
            "Deployment" => self.template(item, workload::deployment(item)?)?,
            "StatefulSet" => self.template(item, workload::stateful_set(item)?)?,
            "DaemonSet" => self.template(item, workload::daemon_set(item)?)?,
            "Job" => self.template(item, workload::job(item)?)?,
            "MetadataProfile" => self.profile(item),
            "MetadataPolicy" => self.policy(item),
            _ => {}
        }
        Ok(())
    }

    /// Notes where an object stands, unless there is one of its name already.
    fn note(&mut self, item: &Item, kind: &str, name: &str, source: Source) -> Result<(), Problem> {
        let key = (kind.to_owned(), item.namespace.clone().unwrap_or_default(), name.to_owned());
        if let Some(first) = self.objects.sources.get(&key) {
            let first = first.locate("metadata.name");
            return Err(item.problem("metadata.name", format_args!("there is a {kind} {name} already, at {first}")));
        }
        self.objects.sources.insert(key, source);
        Ok(())
    }

    fn template(&mut self, item: &Item, pod: Pod) -> Result<(), Problem> {
        let source = item.source.below("spec.template");
        self.note(item, "Pod", pod.metadata.name.as_deref().unwrap_or_default(), source.clone())?;
        self.pods.push((pod, source));
        Ok(())
    }

    fn profile(&mut self, item: &Item) {
        let Some(mut object) = self.ours::<MetadataProfile>(item) else { return };
        made_up::complete(&mut object.metadata, &item.kind, item.in_namespace(), &item.name);
        let references = references::references(&object.spec);
        if let Some(profile) = self.valid(item, profile::validate(&object)) {
            self.objects.references.push((item.in_namespace().to_owned(), item.name.clone(), references));
            self.objects.profiles.push(profile);
        }
    }

    fn policy(&mut self, item: &Item) {
        let Some(object) = self.ours::<MetadataPolicy>(item) else { return };
        if let Some(policy) = self.valid(item, policy::validate(&object)) {
            self.objects.policies.push(policy);
        }
    }

    /// An object of ours. One with a field that we do not know is still looked at, for its other problems.
    fn ours<T: serde::de::DeserializeOwned + CustomResourceExt>(&mut self, item: &Item) -> Option<T> {
        if item.api_version != API_VERSION {
            let message = format!("must be {API_VERSION}, not {}", item.api_version);
            self.problems.push(item.problem("apiVersion", message));
            return None;
        }
        let (object, problems) = item::ours(item);
        self.problems.extend(problems);
        let definition = T::crd();
        let versions = definition.spec.versions.iter().filter_map(|version| version.schema.as_ref());
        let schemas = versions.filter_map(|schema| schema.open_api_v3_schema.as_ref());
        let lists = schemas.flat_map(|schema| shape::lists_for_maps(schema, &item.value)).collect::<Vec<_>>();
        self.problems.extend(lists.iter().map(|error| item.problem(&error.field, &error.message)));
        if lists.is_empty() { object } else { None }
    }

    fn valid<T>(&mut self, item: &Item, result: Result<T, Vec<FieldError>>) -> Option<T> {
        match result {
            // A field that is not known may be a misspelt one that makes the rest safe.
            Ok(object) => (!self.problems.iter().any(|problem| problem.object == item.label())).then_some(object),
            Err(errors) => {
                self.problems.extend(errors.iter().map(|error| item.problem(&error.field, &error.message)));
                None
            }
        }
    }

    fn finish(mut self, seen: Timestamp) -> (Objects, Vec<Problem>) {
        for (mut pod, source) in std::mem::take(&mut self.pods) {
            let namespace = pod.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
            let name = pod.metadata.name.clone().unwrap_or_default();
            made_up::complete(&mut pod.metadata, "Pod", &namespace, &name);
            let node = self.node_of(&mut pod);
            match facts::pod(&pod) {
                Ok(facts) => self.objects.pods.push(KnownPod {
                    facts: Facts {
                        pod: facts,
                        namespace: facts::namespace(&made_up::namespace(
                            &namespace,
                            self.namespaces.get(&namespace).cloned(),
                        )),
                        node: node.map(|node| facts::node(&node, seen)),
                    },
                    addresses: facts::pod_addresses(&pod),
                    location: source.locate(""),
                }),
                Err(errors) => {
                    let object = format!("Pod {namespace}/{name}");
                    let problems = errors.iter().map(|error| source.problem(&object, &error.field, &error.message));
                    self.problems.extend(problems);
                }
            }
        }
        (self.objects, self.problems)
    }

    /// The pod's node. A pod that is on none yet goes to the only one there is.
    fn node_of(&self, pod: &mut Pod) -> Option<Node> {
        let spec = pod.spec.get_or_insert_default();
        let only = if self.nodes.len() == 1 { self.nodes.keys().next() } else { None };
        let name = spec.node_name.clone().filter(|name| !name.is_empty()).or_else(|| only.cloned())?;
        spec.node_name = Some(name.clone());
        self.nodes.get(&name).cloned()
    }
}

fn secret_data(item: &Item) -> Result<BTreeMap<String, SecretBytes>, Problem> {
    let secret: Secret = item::known(item).map_err(|problem| Problem {
        // The parser's words would quote the value.
        message: "does not fit a Secret: data holds base64, stringData holds text".to_owned(),
        ..problem
    })?;
    let data = secret.data.into_iter().flatten().map(|(key, value)| (key, value.0));
    let text = secret.string_data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
    Ok(data.chain(text).map(|(key, value)| (key, SecretBytes::new(value))).collect())
}

fn config_map_data(item: &Item) -> Result<BTreeMap<String, Vec<u8>>, Problem> {
    let map: ConfigMap = item::known(item)?;
    let text = map.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
    let binary = map.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0));
    Ok(text.chain(binary).collect())
}

#[cfg(test)]
mod tests;
