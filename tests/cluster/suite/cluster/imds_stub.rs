//! The stub of the cloud provider's metadata service. Pods reach it while podmeta is not installed.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use podmeta_cluster::layout::{METADATA_ADDRESSES, url_host};
use podmeta_cluster::network::imds_stub::RESPONSE_BODY;
use serde_json::json;

use crate::kit::{self, TestCluster};

/// Returns the URL of each metadata address.
pub(crate) fn urls() -> [String; 3] {
    METADATA_ADDRESSES.map(|address| format!("http://{}/", url_host(address)))
}

/// Returns how many requests the stub got from a pod. With masquerading, the source address is that of the pod's node.
async fn requests_from(cluster: &TestCluster, pod: &Pod) -> Result<u64> {
    let status = pod.status.clone().unwrap_or_default();
    let pod_ips = status.pod_ips.into_iter().flatten().map(|address| address.ip);
    let host_ips = status.host_ips.into_iter().flatten().map(|address| address.ip);
    let sources = pod_ips.chain(host_ips).map(|address| address.parse()).collect::<Result<Vec<IpAddr>, _>>()?;
    let counts = cluster.imds_stub_request_counts().await?;
    Ok(sources.iter().filter_map(|address| counts.get(address)).sum())
}

#[tokio::test]
async fn pod_reaches_imds_stub_and_is_counted() -> Result<()> {
    kit::bare_cluster_test(async |cluster, namespace| {
        let pod = namespace.start_client("client", json!({"nodeName": cluster.node("b")?.name})).await?;
        let before = requests_from(cluster, &pod).await?;
        for url in urls() {
            ensure!(namespace.curl("client", &url).await? == RESPONSE_BODY, "{url}");
        }
        let after = requests_from(cluster, &pod).await?;
        ensure!(after == before + 3, "{before} requests before, {after} after");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn node_and_host_network_pod_reach_imds_stub() -> Result<()> {
    kit::bare_cluster_test(async |cluster, namespace| {
        let node = cluster.node("a")?;
        namespace.start_client("host", json!({"nodeName": node.name, "hostNetwork": true})).await?;
        for url in urls() {
            let from_node = node.sh(&format!("curl -gsSf --max-time 5 '{url}'")).await?;
            ensure!(from_node == RESPONSE_BODY, "from the node: {url}");
            ensure!(namespace.curl("host", &url).await? == RESPONSE_BODY, "from a hostNetwork pod: {url}");
        }
        Ok(())
    })
    .await
}
