//! The hook that removes podmeta from the nodes.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{PodSpecs, fields, object};
use crate::kit::render_chart;

#[tokio::test]
async fn uninstall_objects_are_hooks_that_may_change_only_the_daemon_sets_of_the_release() -> Result<()> {
    let objects = render_chart(&[]).await?;
    let kinds = ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"].map(|kind| (kind, "-1"));
    for (kind, weight) in kinds.into_iter().chain([("Job", "0")]) {
        let annotations = &object(&objects, kind, "podmeta-uninstall")?["metadata"]["annotations"];
        ensure!(annotations["helm.sh/hook"] == "pre-delete", "{kind}: {annotations}");
        ensure!(annotations["helm.sh/hook-weight"] == weight, "{kind}: {annotations}");
        let policy = &annotations["helm.sh/hook-delete-policy"];
        ensure!(policy == "before-hook-creation,hook-succeeded", "{kind}: {policy}");
        let log_policy = &annotations["helm.sh/hook-output-log-policy"];
        ensure!(log_policy == "hook-failed,hook-succeeded", "{kind}: {log_policy}");
    }
    let rules = json!([
        {"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": ["podmeta-agent"], "verbs": ["delete"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["podmeta-operator"], "verbs": ["delete"]},
        {"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": ["podmeta-link"], "verbs": ["get", "update"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    ]);
    ensure!(object(&objects, "Role", "podmeta-uninstall")?["rules"] == rules);
    let rules = json!([
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
    ]);
    ensure!(object(&objects, "ClusterRole", "podmeta-uninstall")?["rules"] == rules);
    let job = &object(&objects, "Job", "podmeta-uninstall")?["spec"];
    ensure!(job["backoffLimit"] == 0 && job["activeDeadlineSeconds"] == 180, "{job}");
    let arguments = json!(["--release=podmeta", "--namespace=podmeta-system", "--timeout=2m"]);
    ensure!(PodSpecs::of(&objects)?.uninstall["containers"][0]["args"] == arguments, "{job}");
    ensure!(PodSpecs::of(&objects)?.uninstall["hostNetwork"] == true, "the hook needs a link: {job}");
    let without = render_chart(&["--set", "link.uninstallHook=false"]).await?;
    ensure!(object(&without, "Job", "podmeta-uninstall").is_err(), "the hook is rendered");
    // The hook finds the pods by these labels, and changes this container and these volumes.
    for component in ["agent", "link"] {
        let labels = &object(&objects, "DaemonSet", &format!("podmeta-{component}"))?["spec"]["template"]["metadata"];
        ensure!(labels["labels"]["app.kubernetes.io/component"] == component, "{labels}");
        ensure!(labels["labels"]["app.kubernetes.io/instance"] == "podmeta", "{labels}");
    }
    let link = PodSpecs::of(&objects)?.link;
    ensure!(link["containers"][0]["name"] == "link", "{link}");
    for volume in ["cni-config", "cni-bin"] {
        ensure!(fields(&link["volumes"], "/name").contains(&&json!(volume)), "{volume}: {link}");
    }
    Ok(())
}
