//! The change of the link DaemonSet that makes its pods uninstall podmeta from their nodes. Pure.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, ExecAction, HostPathVolumeSource, PodSpec, Probe, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The command of pods that uninstall, their first argument. Pods of the DaemonSet's earlier template have another one.
pub(super) const UNINSTALL: &str = "uninstall";

/// Name of the container and its volume with the directory of CNI configurations. The chart sets both.
const CONTAINER: &str = "link";
const CNI_CONFIG_VOLUME: &str = "cni-config";

/// Path at which the node's `/run` is mounted. A mount of `/run/podmeta` alone would create again the directory that is
/// removed. A mount at `/run` of the container could get files of the container runtime, which would be left on the node.
const HOST_RUN: &str = "/host/run";

/// Path of the directory whose file `ready` exists once the node is clean. It is not a directory of the node.
const RESULT_DIR: &str = "/result";

/// Removes the init container, and replaces the container's arguments and volumes. The pods of all nodes are replaced at
/// once. Idempotent.
///
/// # Errors
/// If the DaemonSet has no container `link` with a volume `cni-config`.
pub(super) fn switch_to_uninstalling(links: &mut DaemonSet) -> Result<()> {
    let spec = links.spec.as_mut().context("it has no spec")?;
    let pod = spec.template.spec.as_mut().context("it has no pod spec")?;
    switch_pod(pod)?;
    let all = RollingUpdateDaemonSet {
        max_unavailable: Some(IntOrString::String("100%".to_owned())),
        max_surge: Some(IntOrString::Int(0)),
    };
    spec.update_strategy =
        Some(DaemonSetUpdateStrategy { type_: Some("RollingUpdate".to_owned()), rolling_update: Some(all) });
    Ok(())
}

fn switch_pod(pod: &mut PodSpec) -> Result<()> {
    let container = pod.containers.iter_mut().find(|container| container.name == CONTAINER);
    let container = container.with_context(|| format!("it has no container {CONTAINER}"))?;
    let mounts = container.volume_mounts.iter().flatten();
    let cni_config = mounts.into_iter().find(|mount| mount.name == CNI_CONFIG_VOLUME).cloned();
    let cni_config = cni_config.with_context(|| format!("its container does not mount {CNI_CONFIG_VOLUME}"))?;
    let ready_file = format!("{RESULT_DIR}/ready");
    container.args = Some(vec![
        UNINSTALL.to_owned(),
        format!("--cni-config-dir={}", cni_config.mount_path),
        format!("--agent-namespace={HOST_RUN}/netns/podmeta"),
        format!("--state-dir={HOST_RUN}/podmeta"),
        format!("--stay={ready_file}"),
    ]);
    let ready = ["/podmeta-link", "ready", &format!("--ready-file={ready_file}")].map(str::to_owned).to_vec();
    container.readiness_probe =
        Some(Probe { exec: Some(ExecAction { command: Some(ready) }), period_seconds: Some(1), ..Probe::default() });
    let run = VolumeMount {
        name: "run".to_owned(),
        mount_path: HOST_RUN.to_owned(),
        mount_propagation: Some("HostToContainer".to_owned()),
        ..VolumeMount::default()
    };
    let result = VolumeMount { name: "result".to_owned(), mount_path: RESULT_DIR.to_owned(), ..VolumeMount::default() };
    container.volume_mounts = Some(vec![cni_config, run, result]);
    pod.init_containers = None;
    let volumes = pod.volumes.get_or_insert_default();
    volumes.retain(|volume| volume.name == CNI_CONFIG_VOLUME);
    let run = HostPathVolumeSource { path: "/run".to_owned(), type_: Some("Directory".to_owned()) };
    volumes.push(Volume { name: "run".to_owned(), host_path: Some(run), ..Volume::default() });
    let result = EmptyDirVolumeSource::default();
    volumes.push(Volume { name: "result".to_owned(), empty_dir: Some(result), ..Volume::default() });
    Ok(())
}
