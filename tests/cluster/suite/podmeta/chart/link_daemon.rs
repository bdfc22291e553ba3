//! The DaemonSet of the link daemons.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{PodSpecs, fields};
use crate::kit::render_chart;

#[tokio::test]
async fn link_daemon_has_only_the_rights_that_it_uses() -> Result<()> {
    let objects = render_chart(&[]).await?;
    let link = PodSpecs::of(&objects)?.link;
    ensure!(link["hostNetwork"] == true && link["hostPID"] == true && link["hostIPC"].is_null(), "{link}");
    ensure!(link["automountServiceAccountToken"] == false && link["serviceAccountName"] == "podmeta-link", "{link}");
    let daemon = &link["containers"][0];
    let context = json!({
        "runAsUser": 0, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN", "NET_BIND_SERVICE", "BPF"]},
    });
    ensure!(daemon["securityContext"] == context && daemon["ports"].is_null(), "{daemon}");
    ensure!(!fields(&daemon["volumeMounts"], "/mountPath").contains(&&json!("/opt/cni/bin")), "{daemon}");
    let is_bidirectional =
        |container: &Value| fields(&container["volumeMounts"], "/mountPropagation").contains(&&json!("Bidirectional"));
    let install = &link["initContainers"][0];
    ensure!(is_bidirectional(install) && !is_bidirectional(daemon), "only install may mount on the node");
    ensure!(install["securityContext"]["privileged"] == true, "{install}");
    // No binding refers to the accounts of agent and link daemon.
    for object in &objects {
        let subjects = fields(&object["subjects"], "/name");
        ensure!(
            !subjects.contains(&&json!("podmeta-link")) && !subjects.contains(&&json!("podmeta-agent")),
            "{object}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn link_values_set_the_command_line_and_the_mounts() -> Result<()> {
    let values = "link.cniBinDir=/var/lib/cni/bin,link.cniConfigDir=/etc/cni/test.d,link.range=10.9.0.0/16,\
                  link.onFailure=start,link.runtimeSocket=/run/crio/crio.sock,link.log=debug";
    let objects = render_chart(&["--set", values]).await?;
    let link = PodSpecs::of(&objects)?.link;
    let (install, daemon) = (&link["initContainers"][0], &link["containers"][0]);
    let arguments =
        json!(["install", "--cni-bin-dir=/var/lib/cni/bin", "--plugin=/podmeta-cni", "--uplink-guard", "--log=debug"]);
    ensure!(install["args"] == arguments, "{}", install["args"]);
    let arguments = json!([
        "run",
        "--runtime-socket=/run/crio/crio.sock",
        "--uplink-guard",
        "--cgroup-root=/host/cgroup",
        "--node-metadata-namespaces=kube-system",
        "--link-range=10.9.0.0/16",
        "--on-failure=start",
        "--cni-config-dir=/etc/cni/test.d",
        "--release=podmeta",
        "--release-namespace=podmeta-system",
        "--log=debug",
    ]);
    ensure!(daemon["args"] == arguments, "{}", daemon["args"]);
    // The configuration names its source by the path on the node, so both paths are equal.
    let paths = fields(&daemon["volumeMounts"], "/mountPath");
    ensure!(paths.contains(&&json!("/etc/cni/test.d")), "{paths:?}");
    let runtime = json!({
        "name": "runtime", "mountPath": "/run/crio", "readOnly": true, "mountPropagation": "HostToContainer",
    });
    ensure!(daemon["volumeMounts"].as_array().is_some_and(|mounts| mounts.contains(&runtime)), "{daemon}");
    let host_paths = fields(&link["volumes"], "/hostPath/path");
    for path in ["/var/lib/cni/bin", "/etc/cni/test.d", "/run/crio"] {
        ensure!(host_paths.contains(&&json!(path)), "{host_paths:?}");
    }
    for value in ["onFailure=ignore", "range=169.254.0.0/8", "range=fd00::/64", "cniBinDir=bin", "askSocket=true"] {
        ensure!(render_chart(&["--set", &format!("link.{value}")]).await.is_err(), "{value} is accepted");
    }
    Ok(())
}

#[tokio::test]
async fn uplink_guard_is_on_by_default_and_redirection_off_and_each_has_its_flags_capability_and_mount_only_if_on()
-> Result<()> {
    let namespaces = "nodeMetadata.namespaces={kube-system,net}";
    for (values, flags) in [
        ("nodeMetadata.uplinkGuard=false", &[][..]),
        ("", &["--uplink-guard"]),
        ("nodeMetadata.uplinkGuard=false,nodeMetadata.redirectHostNetwork=true", &["--redirect-host-network"]),
        ("nodeMetadata.redirectHostNetwork=true", &["--uplink-guard", "--redirect-host-network"]),
    ] {
        let is_on = !flags.is_empty();
        let objects = render_chart(&["--set", namespaces, "--set", values]).await?;
        let link = PodSpecs::of(&objects)?.link;
        let (install, daemon) = (&link["initContainers"][0], &link["containers"][0]);
        let contains = |list: &Value, item: &str| list.as_array().is_some_and(|items| items.contains(&json!(item)));
        for container in [install, daemon] {
            for known in ["--uplink-guard", "--redirect-host-network"] {
                ensure!(contains(&container["args"], known) == flags.contains(&known), "{}", container["args"]);
            }
        }
        ensure!(contains(&daemon["args"], "--node-metadata-namespaces=kube-system,net") == is_on, "{}", daemon["args"]);
        ensure!(contains(&daemon["securityContext"]["capabilities"]["add"], "BPF") == is_on, "{daemon}");
        ensure!(fields(&link["volumes"], "/hostPath/path").contains(&&json!("/sys/fs/cgroup")) == is_on, "{link}");
    }
    Ok(())
}
