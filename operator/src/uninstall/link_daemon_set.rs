//! The change of the link DaemonSet that makes its pods uninstall podmeta from their nodes. Pure.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, ExecAction, HostPathVolumeSource, PodSpec, Probe, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The command of pods that uninstall, their first argument. Pods of the DaemonSet's earlier template have another one.
pub(super) const UNINSTALL: &str = "uninstall";

/// Names of the container and of the volumes with the directories of CNI configurations and plugins. The chart sets them.
const CONTAINER: &str = "link";
const CNI_CONFIG_VOLUME: &str = "cni-config";
const CNI_BIN_VOLUME: &str = "cni-bin";

/// Path at which the node's `/run` is mounted. A mount of `/run/podmeta` alone would create again the directory that is
/// removed. A mount at `/run` of the container could get files of the container runtime, which would be left on the node.
const HOST_RUN: &str = "/host/run";

/// Path at which the node's `/var/lib` is mounted, read-only. libcni's cache is in its directory `cni`. A mount of that
/// directory alone would create it on a node whose runtime has made no network yet, or would stop the pod there.
const HOST_VAR_LIB: &str = "/host/var/lib";

/// Path of the directory whose file `ready` exists once the node is clean. It is not a directory of the node.
const RESULT_DIR: &str = "/result";

/// Removes the init container, and replaces the container's arguments and volumes. The pods of all nodes are replaced at
/// once. Idempotent.
///
/// # Errors
/// If the DaemonSet has no container `link`, or no container mounts the volume `cni-config` or `cni-bin`.
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
    let (cni_config, cni_bin) = (find_mount(pod, CNI_CONFIG_VOLUME), find_mount(pod, CNI_BIN_VOLUME));
    let container = pod.containers.iter_mut().find(|container| container.name == CONTAINER);
    let container = container.with_context(|| format!("it has no container {CONTAINER}"))?;
    let (cni_config, cni_bin) = (cni_config?, cni_bin?);
    let ready_file = format!("{RESULT_DIR}/ready");
    container.args = Some(vec![
        UNINSTALL.to_owned(),
        format!("--cni-config-dir={}", cni_config.mount_path),
        format!("--cni-bin-dir={}", cni_bin.mount_path),
        format!("--cni-cache-dir={HOST_VAR_LIB}/cni"),
        format!("--agent-namespace={HOST_RUN}/netns/podmeta"),
        format!("--state-dir={HOST_RUN}/podmeta"),
        format!("--stay={ready_file}"),
    ]);
    let ready = ["/podmeta-link", "ready", &format!("--ready-file={ready_file}")].map(str::to_owned).to_vec();
    container.readiness_probe =
        Some(Probe { exec: Some(ExecAction { command: Some(ready) }), period_seconds: Some(1), ..Probe::default() });
    // Without HostToContainer, the container would keep mounts that the node removes.
    let host_mount = |name: &str, mount_path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: mount_path.to_owned(),
        mount_propagation: Some("HostToContainer".to_owned()),
        ..VolumeMount::default()
    };
    let run = host_mount("run", HOST_RUN);
    let var_lib = VolumeMount { read_only: Some(true), ..host_mount("var-lib", HOST_VAR_LIB) };
    let result = VolumeMount { name: "result".to_owned(), mount_path: RESULT_DIR.to_owned(), ..VolumeMount::default() };
    container.volume_mounts = Some(vec![cni_config, cni_bin, run, var_lib, result]);
    pod.init_containers = None;
    let volumes = pod.volumes.get_or_insert_default();
    volumes.retain(|volume| [CNI_CONFIG_VOLUME, CNI_BIN_VOLUME].contains(&volume.name.as_str()));
    for (name, path) in [("run", "/run"), ("var-lib", "/var/lib")] {
        let directory = HostPathVolumeSource { path: path.to_owned(), type_: Some("Directory".to_owned()) };
        volumes.push(Volume { name: name.to_owned(), host_path: Some(directory), ..Volume::default() });
    }
    let result = EmptyDirVolumeSource::default();
    volumes.push(Volume { name: "result".to_owned(), empty_dir: Some(result), ..Volume::default() });
    Ok(())
}

/// Returns the mount of a volume, also that of an init container.
fn find_mount(pod: &PodSpec, volume: &str) -> Result<VolumeMount> {
    let containers = pod.containers.iter().chain(pod.init_containers.iter().flatten());
    let mut mounts = containers.flat_map(|container| container.volume_mounts.iter().flatten());
    let mount = mounts.find(|mount| mount.name == volume).cloned();
    mount.with_context(|| format!("no container mounts the volume {volume}"))
}
