//! Makes a pod from the pod template of a Deployment, StatefulSet, DaemonSet or Job. The pod represents all pods of the
//! object.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::defaults;
use super::error::ManifestError;
use super::object::ManifestObject;

/// Returns the pod of a Deployment. Its owner is a ReplicaSet with the name of the Deployment.
pub(super) fn deployment_pod(object: &ManifestObject) -> Result<Pod, ManifestError> {
    let deployment: Deployment = object.deserialize()?;
    let uid = defaults::uid("ReplicaSet", object.namespace_or_default(), &object.name);
    Ok(pod(object, &object.name, ("apps/v1", "ReplicaSet", uid), deployment.spec.map(|spec| spec.template)))
}

/// Returns the pod with ordinal 0 of a StatefulSet.
pub(super) fn stateful_set_pod(object: &ManifestObject) -> Result<Pod, ManifestError> {
    let stateful_set: StatefulSet = object.deserialize()?;
    let (service, template) = stateful_set.spec.map(|spec| (spec.service_name, spec.template)).unzip();
    let name = format!("{}-0", object.name);
    let owner = ("apps/v1", "StatefulSet", owner_uid(object, stateful_set.metadata.uid));
    let mut pod = pod(object, &name, owner, template);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname.get_or_insert(name);
    spec.subdomain = spec.subdomain.take().or(service.flatten());
    Ok(pod)
}

/// Returns the pod of a DaemonSet.
pub(super) fn daemon_set_pod(object: &ManifestObject) -> Result<Pod, ManifestError> {
    let daemon_set: DaemonSet = object.deserialize()?;
    let owner = ("apps/v1", "DaemonSet", owner_uid(object, daemon_set.metadata.uid));
    Ok(pod(object, &object.name, owner, daemon_set.spec.map(|spec| spec.template)))
}

/// Returns the pod of a Job.
pub(super) fn job_pod(object: &ManifestObject) -> Result<Pod, ManifestError> {
    let job: Job = object.deserialize()?;
    let owner = ("batch/v1", "Job", owner_uid(object, job.metadata.uid));
    Ok(pod(object, &object.name, owner, job.spec.map(|spec| spec.template)))
}

fn owner_uid(object: &ManifestObject, uid: Option<String>) -> String {
    uid.unwrap_or_else(|| defaults::uid(&object.kind, object.namespace_or_default(), &object.name))
}

fn pod(
    object: &ManifestObject,
    name: &str,
    (api_version, kind, uid): (&str, &str, String),
    template: Option<PodTemplateSpec>,
) -> Pod {
    let template = template.unwrap_or_default();
    let mut pod = Pod { metadata: template.metadata.unwrap_or_default(), spec: template.spec, status: None };
    // Kubernetes ignores the name and UID of a template.
    pod.metadata.uid = None;
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some(object.namespace_or_default().to_owned());
    pod.metadata.owner_references = Some(vec![OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: object.name.clone(),
        uid,
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    pod
}
