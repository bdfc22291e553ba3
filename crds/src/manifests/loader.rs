//! The loader: adds objects one by one, then builds the facts of the pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret};
use kube::CustomResourceExt;
use podmeta_metadata::credentials::{SecretData, is_usable};
use podmeta_metadata::facts::Facts;
use serde::de::DeserializeOwned;

use super::error::ObjectSource;
use super::object::{self, DEFAULT_NAMESPACE, ManifestObject};
use super::{LoadedObjects, LoadedPod, ManifestError, ManifestFile};
use super::{defaults, list_check, references, workload, yaml};
use crate::convert::field::{FieldError, REQUIRED};
use crate::convert::{facts, json, policy, profile};
use crate::crd::API_VERSION;
use crate::metadatapolicy::MetadataPolicy;
use crate::metadataprofile::MetadataProfile;

/// The objects that were added so far. Pods are converted last: their namespaces and nodes can follow them.
#[derive(Default)]
pub(super) struct Loader {
    objects: LoadedObjects,
    errors: Vec<ManifestError>,
    pods: Vec<(Pod, ObjectSource)>,
    namespaces: BTreeMap<String, Namespace>,
    nodes: BTreeMap<String, Node>,
}

impl Loader {
    /// Adds all objects of a file.
    pub(super) fn add_file(&mut self, file: &ManifestFile) {
        let name: Arc<str> = file.name.as_str().into();
        let (documents, errors) = yaml::parse(&file.text);
        self.errors.extend(errors.into_iter().map(|error| ManifestError {
            file: Arc::clone(&name),
            line: error.line,
            object: String::new(),
            field: String::new(),
            message: error.message,
        }));
        for document in documents {
            let source = ObjectSource { file: Arc::clone(&name), lines: Arc::new(document.lines), base: String::new() };
            for object in object::split(document.value, source, &mut self.errors) {
                self.add(object);
            }
        }
    }

    fn add(&mut self, mut object: ManifestObject) {
        let namespaced = match (object.api_version.as_str(), object.kind.as_str()) {
            ("v1", "Namespace" | "Node") | (_, "MetadataPolicy") => false,
            ("v1", "Pod" | "Secret" | "ConfigMap")
            | ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet")
            | ("batch/v1", "Job")
            | (_, "MetadataProfile") => true,
            (group, _) if group.starts_with("podmeta.dev/") => {
                self.errors.push(object.error("kind", "must be MetadataProfile or MetadataPolicy"));
                return;
            }
            _ => {
                let location = object.source.locate("");
                let message = format!("{location}: skipping {}: podmeta does not use this kind", object.label());
                self.objects.skipped.push(message.replace(char::is_control, " "));
                return;
            }
        };
        object.namespace = namespaced.then(|| object.namespace_or_default().to_owned());
        if let Err(error) = self.add_known_kind(&object) {
            self.errors.push(error);
        }
    }

    fn add_known_kind(&mut self, object: &ManifestObject) -> Result<(), ManifestError> {
        let (namespace, name) = (object.namespace.clone().unwrap_or_default(), object.name.clone());
        if name.is_empty() {
            return Err(object.error("metadata.name", REQUIRED));
        }
        self.record_source(object, &object.kind, &name, object.source.clone())?;
        match object.kind.as_str() {
            "Namespace" => drop(self.namespaces.insert(name, object.deserialize()?)),
            "Node" => drop(self.nodes.insert(name, object.deserialize()?)),
            "Secret" => {
                if let Some(data) = usable_secret(object)? {
                    self.objects.secrets.insert((namespace, name), data);
                }
            }
            "ConfigMap" => drop(self.objects.config_maps.insert((namespace, name), config_map_data(object)?)),
            "Pod" => self.pods.push((object.deserialize()?, object.source.clone())),
            "Deployment" => self.add_pod_of_workload(object, workload::deployment_pod(object)?)?,
            "StatefulSet" => self.add_pod_of_workload(object, workload::stateful_set_pod(object)?)?,
            "DaemonSet" => self.add_pod_of_workload(object, workload::daemon_set_pod(object)?)?,
            "Job" => self.add_pod_of_workload(object, workload::job_pod(object)?)?,
            "MetadataProfile" => self.add_profile(object),
            "MetadataPolicy" => self.add_policy(object),
            _ => {}
        }
        Ok(())
    }

    /// Records the source of an object. Returns an error if there is an object of the same kind and name.
    fn record_source(
        &mut self,
        object: &ManifestObject,
        kind: &str,
        name: &str,
        source: ObjectSource,
    ) -> Result<(), ManifestError> {
        let key = (kind.to_owned(), object.namespace.clone().unwrap_or_default(), name.to_owned());
        if let Some(first) = self.objects.sources.get(&key) {
            let first = first.locate("metadata.name");
            return Err(object.error("metadata.name", format_args!("{kind} {name} is already defined at {first}")));
        }
        self.objects.sources.insert(key, source);
        Ok(())
    }

    fn add_pod_of_workload(&mut self, object: &ManifestObject, pod: Pod) -> Result<(), ManifestError> {
        let source = object.source.nested("spec.template");
        self.record_source(object, "Pod", pod.metadata.name.as_deref().unwrap_or_default(), source.clone())?;
        self.pods.push((pod, source));
        Ok(())
    }

    fn add_profile(&mut self, object: &ManifestObject) {
        let Some(mut resource) = self.custom_resource::<MetadataProfile>(object) else { return };
        let namespace = object.namespace_or_default();
        defaults::complete_metadata(&mut resource.metadata, &object.kind, namespace, &object.name);
        if let Some(profile) = self.valid_or_report(object, profile::validate(&resource)) {
            self.objects.references.extend(references::of_profile(namespace, &object.name, &resource.spec));
            self.objects.profiles.push(profile);
        }
    }

    fn add_policy(&mut self, object: &ManifestObject) {
        let Some(resource) = self.custom_resource::<MetadataPolicy>(object) else { return };
        if let Some(policy) = self.valid_or_report(object, policy::validate(&resource)) {
            self.objects.policies.push(policy);
        }
    }

    /// Deserializes a custom resource. One with an unknown field is returned, so that its other errors are reported too.
    fn custom_resource<T: DeserializeOwned + CustomResourceExt>(&mut self, object: &ManifestObject) -> Option<T> {
        if object.api_version != API_VERSION {
            let message = format!("must be {API_VERSION}, not {}", object.api_version);
            self.errors.push(object.error("apiVersion", message));
            return None;
        }
        let (resource, unknown_fields) = json::deserialize_strict(&object.value);
        self.errors.extend(unknown_fields.iter().map(|field| object.error(field, "unknown field")));
        let resource = self.valid_or_none(object, resource.map_err(|error| vec![error]));
        let definition = T::crd();
        let versions = definition.spec.versions.iter().filter_map(|version| version.schema.as_ref());
        let schemas = versions.filter_map(|schema| schema.open_api_v3_schema.as_ref());
        let lists = schemas.flat_map(|schema| list_check::check(schema, &object.value)).collect::<Vec<_>>();
        self.errors.extend(lists.iter().map(|error| object.error(&error.field, &error.message)));
        if lists.is_empty() { resource } else { None }
    }

    /// Returns the result, or reports its errors. Returns `None` also if the object has errors that were reported
    /// before: an unknown field may be a misspelled one that restricts access.
    fn valid_or_report<T>(&mut self, object: &ManifestObject, result: Result<T, Vec<FieldError>>) -> Option<T> {
        let valid = self.valid_or_none(object, result)?;
        let has_errors = self.errors.iter().any(|error| error.object == object.label());
        (!has_errors).then_some(valid)
    }

    fn valid_or_none<T>(&mut self, object: &ManifestObject, result: Result<T, Vec<FieldError>>) -> Option<T> {
        let report = |errors: Vec<FieldError>| {
            self.errors.extend(errors.iter().map(|error| object.error(&error.field, &error.message)));
        };
        result.map_err(report).ok()
    }

    /// Converts the pods. `now` is the time of taints that have no time.
    pub(super) fn finish(mut self, now: Timestamp) -> (LoadedObjects, Vec<ManifestError>) {
        for (mut pod, source) in std::mem::take(&mut self.pods) {
            let namespace = pod.metadata.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
            let name = pod.metadata.name.clone().unwrap_or_default();
            defaults::complete_metadata(&mut pod.metadata, "Pod", &namespace, &name);
            let node = self.assign_node(&mut pod);
            defaults::complete_pod_spec(&mut pod);
            match facts::pod(&pod) {
                Ok(pod_facts) => {
                    let namespace = defaults::namespace(&namespace, self.namespaces.get(&namespace).cloned());
                    self.objects.pods.push(LoadedPod {
                        facts: Facts {
                            pod: pod_facts,
                            namespace: facts::namespace(&namespace),
                            node: node.map(|node| facts::node(&node, now)),
                        },
                        addresses: facts::pod_addresses(&pod),
                        location: source.locate(""),
                    });
                }
                Err(errors) => {
                    let object = format!("Pod {namespace}/{name}");
                    let errors = errors.iter().map(|error| source.error(&object, &error.field, &error.message));
                    self.errors.extend(errors);
                }
            }
        }
        (self.objects, self.errors)
    }

    /// Returns the node of a pod. A pod without a node is assigned to the node, if the files have exactly one.
    fn assign_node(&self, pod: &mut Pod) -> Option<Node> {
        let spec = pod.spec.get_or_insert_default();
        let only_node = if self.nodes.len() == 1 { self.nodes.keys().next() } else { None };
        let name = spec.node_name.clone().filter(|name| !name.is_empty()).or_else(|| only_node.cloned())?;
        spec.node_name = Some(name.clone());
        self.nodes.get(&name).cloned()
    }
}

/// Returns the data of a Secret, or `None` if profiles cannot use it.
fn usable_secret(object: &ManifestObject) -> Result<Option<SecretData>, ManifestError> {
    let secret: Secret = object.deserialize().map_err(|error| ManifestError {
        // The message of the parser contains the value.
        message: "is not valid in a Secret: data contains base64, stringData contains text".to_owned(),
        ..error
    })?;
    let labels = secret.metadata.labels.unwrap_or_default();
    let data = secret.data.into_iter().flatten().map(|(key, value)| (key, value.0));
    let text = secret.string_data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
    let data = data.chain(text).collect();
    Ok(is_usable(&labels, &data).then_some(data))
}

fn config_map_data(object: &ManifestObject) -> Result<BTreeMap<String, Vec<u8>>, ManifestError> {
    let map: ConfigMap = object.deserialize()?;
    let text = map.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
    let binary = map.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0));
    Ok(text.chain(binary).collect())
}
