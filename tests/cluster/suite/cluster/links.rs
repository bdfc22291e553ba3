//! Links and guards on a node with a real container runtime. The chart does not deploy the link daemon yet, so the test
//! runs it on the node.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use podmeta_cluster::network::imds_stub::RESPONSE_BODY;
use serde_json::json;

use super::imds_stub::urls;
use crate::kit::{self, TestNamespace, TestNode, eventually};

/// Timeout of what the daemon does in each of its passes, every 5 seconds.
const PASS_TIMEOUT: Duration = Duration::from_secs(10);

/// File that exists while the daemon has completed a pass.
const READY_FILE: &str = "/run/podmeta-link-test/ready";

/// Returns the path of a program that was built with this test.
fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    Ok(test.parent().and_then(|deps| deps.parent()).context("the test is in no directory")?.join(name))
}

/// Returns what the daemon changes on a node, without the namespaces of pods.
async fn state(node: &TestNode) -> Result<String> {
    node.sh("ip rule; ip -6 rule; nft list tables; ls /etc/cni/net.d; ls /run/netns | grep -v ^cni- || true").await
}

#[tokio::test]
async fn pods_get_links_and_cannot_reach_imds_stub_until_the_daemon_is_uninstalled() -> Result<()> {
    kit::exclusive_cluster_test(async |cluster, namespace| {
        let node = cluster.node("a")?;
        let old = namespace.start_client("old", json!({"nodeName": node.name})).await?;
        let (link, plugin) = (program("podmeta-link")?, program("podmeta-cni")?);
        let before = state(&node).await?;
        let start = format!(
            "{link} install --plugin {plugin}
            {link} run --ready-file {READY_FILE} >/run/podmeta-link-test.log 2>&1 </dev/null &
            echo $!",
            link = link.display(),
            plugin = plugin.display(),
        );
        let daemon = node.sh(&start).await?;
        let checked = check(&node, namespace, &old).await;
        let log = node.sh("cat /run/podmeta-link-test.log").await?;
        node.sh(&format!(
            "kill {daemon}\n{} uninstall\nrm -r /opt/cni/bin/podmeta-cni /run/podmeta-link-test*",
            link.display()
        ))
        .await?;
        checked.context(log)?;
        let after = state(&node).await?;
        ensure!(after == before, "before: {before}\nafter: {after}");
        for url in urls() {
            ensure!(namespace.curl("old", &url).await? == RESPONSE_BODY, "{url}");
        }
        Ok(())
    })
    .await
}

async fn check(node: &TestNode, namespace: &TestNamespace, old: &Pod) -> Result<()> {
    let ready = format!("test -e {READY_FILE}");
    eventually(PASS_TIMEOUT, "the daemon is ready", async || node.sh(&ready).await).await?;
    // The first instruction of the pod is refused, and the pod goes on.
    let first = "curl -sm2 -o /dev/null -w '%{http_code}' http://169.254.169.254/ || true";
    let command = json!(["sh", "-c", first]);
    let init = json!({"name": "first", "image": image(old)?, "imagePullPolicy": "Never", "command": command});
    let new = namespace.start_client("new", json!({"nodeName": node.name, "initContainers": [init]})).await?;
    let log = namespace.logs("new", "first").await?;
    ensure!(log == "000", "the first request of the pod got {log}");
    let links = node.sh("ip netns exec podmeta ip -o link show type veth").await?;
    for pod in [old, &new] {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        ensure!(links.contains(&format!("uid={uid} ")), "no link of {:?}: {links}", pod.metadata.name);
    }
    // No agent listens, so connections are refused.
    for pod in ["old", "new"] {
        for url in urls() {
            let output = namespace.exec(pod, &["curl", "-gsS", "--max-time", "5", &url]).await?;
            ensure!(!output.succeeded && output.stderr.contains("connect to server"), "{pod}, {url}: {output:?}");
        }
    }
    for url in urls() {
        let from_node = node.sh(&format!("curl -gsSf --max-time 5 '{url}'")).await?;
        ensure!(from_node == RESPONSE_BODY, "from the node: {url}");
    }
    node.sh("nft delete table inet podmeta; ip rule del pref 91").await?;
    let repaired = "nft list table inet podmeta >/dev/null && [ $(ip rule | grep -c prohibit) = 2 ]";
    eventually(PASS_TIMEOUT, "the guards are repaired", async || node.sh(repaired).await).await?;
    Ok(())
}

/// Returns the image of a pod's first container.
fn image(pod: &Pod) -> Result<&str> {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first()).context("the pod has no container")?;
    container.image.as_deref().context("the container has no image")
}
