//! The one pod that stands for all pods of a Deployment, StatefulSet, DaemonSet or Job.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::item::{self, Item};
use super::made_up;
use super::source::Problem;

/// The pod of a Deployment. The ReplicaSet in between, which owns it, goes by the Deployment's name.
pub(super) fn deployment(item: &Item) -> Result<Pod, Problem> {
    let object: Deployment = item::known(item)?;
    let uid = made_up::uid("ReplicaSet", item.in_namespace(), &item.name);
    Ok(pod(item, &item.name, ("apps/v1", "ReplicaSet", uid), object.spec.map(|spec| spec.template)))
}

/// The first pod of a StatefulSet.
pub(super) fn stateful_set(item: &Item) -> Result<Pod, Problem> {
    let object: StatefulSet = item::known(item)?;
    let (service, template) = object.spec.map(|spec| (spec.service_name, spec.template)).unzip();
    let name = format!("{}-0", item.name);
    let mut pod = pod(item, &name, ("apps/v1", "StatefulSet", own_uid(item, object.metadata.uid)), template);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname.get_or_insert(name);
    spec.subdomain = spec.subdomain.take().or(service.flatten());
    Ok(pod)
}

/// The pod of a DaemonSet.
pub(super) fn daemon_set(item: &Item) -> Result<Pod, Problem> {
    let object: DaemonSet = item::known(item)?;
    let owner = ("apps/v1", "DaemonSet", own_uid(item, object.metadata.uid));
    Ok(pod(item, &item.name, owner, object.spec.map(|spec| spec.template)))
}

/// The pod of a Job.
pub(super) fn job(item: &Item) -> Result<Pod, Problem> {
    let object: Job = item::known(item)?;
    let owner = ("batch/v1", "Job", own_uid(item, object.metadata.uid));
    Ok(pod(item, &item.name, owner, object.spec.map(|spec| spec.template)))
}

fn own_uid(item: &Item, uid: Option<String>) -> String {
    uid.unwrap_or_else(|| made_up::uid(&item.kind, item.in_namespace(), &item.name))
}

fn pod(item: &Item, name: &str, owner: (&str, &str, String), template: Option<PodTemplateSpec>) -> Pod {
    let template = template.unwrap_or_default();
    let mut pod = Pod { metadata: template.metadata.unwrap_or_default(), spec: template.spec, status: None };
    let (api_version, kind, uid) = owner;
    // A template's own name and UID mean nothing.
    pod.metadata.uid = None;
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some(item.in_namespace().to_owned());
    pod.metadata.owner_references = Some(vec![OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: item.name.clone(),
        uid,
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    pod
}
