//! The uplink guard on nodes: which processes reach the node's own metadata service, and what is left of it.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use podmeta_cluster::network::imds_stub::RESPONSE_BODY;
use serde_json::json;

use crate::cluster::imds_stub::urls;
use crate::kit::{self, Podmeta, TestNamespace, TestNode, eventually};

const ON: [&str; 2] = ["--set", "nodeMetadata.uplinkGuard=true"];
const OFF: [&str; 2] = ["--set", "nodeMetadata.uplinkGuard=false"];

/// Name of the pod in the exempt namespace.
const EXEMPT_POD: &str = "uplink-guard-exempt";

/// Removes the other two guards. The link daemon adds them again.
const REMOVE_OTHER_GUARDS: &str = "nft delete table inet podmeta
for priority in 90 91 92; do while ip rule del pref $priority; do :; done; done 2>/dev/null
for priority in 90 91 92; do while ip -6 rule del pref $priority; do :; done; done 2>/dev/null";

/// Prints mounts and pins of the guard.
const LEFTOVERS: &str = "grep /run/podmeta/bpf /proc/self/mountinfo || true
ls -d /run/podmeta/bpf 2>/dev/null || true";

/// Checks who reaches the service on a node while the guard is on.
async fn check_access(node: &TestNode, ordinary: &TestNamespace, exempt: &TestNamespace) -> Result<()> {
    for url in urls() {
        let pod = ordinary.curl("host", &url).await;
        ensure!(pod.is_err(), "a pod on the host network reaches {url}: {pod:?}");
        let process = node.sh(&format!("curl -gsSf --max-time 5 '{url}'")).await?;
        ensure!(process == RESPONSE_BODY, "a process of the node: {url}: {process}");
        let exempt = exempt.curl(EXEMPT_POD, &url).await?;
        ensure!(exempt == RESPONSE_BODY, "an exempt pod: {url}: {exempt}");
    }
    Ok(())
}

/// Waits until a pod on the host network does not reach the service.
async fn wait_until_closed(namespace: &TestNamespace) -> Result<()> {
    eventually(Duration::from_secs(30), "the pod does not reach the service", async || {
        for url in urls() {
            ensure!(namespace.curl("host", &url).await.is_err(), "{url}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn only_exempt_pods_on_the_host_network_and_the_node_reach_its_service() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let node = podmeta.cluster.node("a")?;
        let system = TestNamespace { client: podmeta.cluster.client.clone(), name: "kube-system".to_owned() };
        let on_host = json!({"nodeName": node.name, "hostNetwork": true});
        podmeta.upgrade(&ON).await?;
        let result = async {
            namespace.start_client("host", on_host.clone()).await?;
            system.start_client(EXEMPT_POD, on_host).await?;
            wait_until_closed(namespace).await?;
            check_access(&node, namespace, &system).await?;
            node.sh(REMOVE_OTHER_GUARDS).await?;
            check_access(&node, namespace, &system).await
        };
        let result = result.await;
        let deleted = system.api::<Pod>().delete(EXEMPT_POD, &DeleteParams::default().grace_period(0)).await;
        podmeta.upgrade(&OFF).await?;
        result?;
        deleted?;
        for url in urls() {
            ensure!(namespace.curl("host", &url).await? == RESPONSE_BODY, "the guard is off: {url}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn uninstall_leaves_no_program_pin_or_mount_of_the_uplink_guard() -> Result<()> {
    kit::bare_cluster_test(async |cluster, namespace| {
        let node = cluster.node("a")?;
        namespace.start_client("host", json!({"nodeName": node.name, "hostNetwork": true})).await?;
        let podmeta = Podmeta::install(cluster).await?;
        podmeta.upgrade(&ON).await?;
        wait_until_closed(namespace).await?;
        ensure!(!node.sh(LEFTOVERS).await?.is_empty(), "the guard has no mount");
        Podmeta::uninstall(cluster).await?;
        eventually(Duration::from_secs(30), "nothing of the guard is left", async || {
            let left = node.sh(LEFTOVERS).await?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })
        .await?;
        for url in urls() {
            ensure!(namespace.curl("host", &url).await? == RESPONSE_BODY, "a program is left: {url}");
        }
        Ok(())
    })
    .await
}
