//! Without podmeta everybody reaches the real metadata service. Later tests mean something because these pass.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use podmeta_cluster::layout::METADATA;
use podmeta_cluster::real_imds::ANSWER;
use serde_json::json;

use crate::kit::{self, Cluster};

fn urls() -> [String; 3] {
    METADATA.map(
        |address| if address.contains(':') { format!("http://[{address}]/") } else { format!("http://{address}/") },
    )
}

/// How often the service was asked by a pod: as itself, or where pods leave masqueraded, as its node.
async fn asked_by(cluster: &Cluster, pod: &Pod) -> Result<u64> {
    let status = pod.status.clone().unwrap_or_default();
    let pod = status.pod_ips.into_iter().flatten().map(|address| address.ip);
    let node = status.host_ips.into_iter().flatten().map(|address| address.ip);
    let own = pod.chain(node).map(|address| address.parse()).collect::<Result<Vec<IpAddr>, _>>()?;
    let asked = cluster.real_imds_asked().await?;
    Ok(own.iter().filter_map(|address| asked.get(address)).sum())
}

#[tokio::test]
async fn a_pod_reaches_the_real_metadata_service_and_is_counted() -> Result<()> {
    kit::test(async |cluster, namespace| {
        let pod = namespace.client("asker", json!({"nodeName": cluster.node("b")?.name})).await?;
        let before = asked_by(cluster, &pod).await?;
        for url in urls() {
            ensure!(namespace.curl("asker", &url).await? == ANSWER, "{url}");
        }
        let after = asked_by(cluster, &pod).await?;
        ensure!(after == before + 3, "asked {before} times before, {after} after");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_node_and_its_host_network_pods_reach_the_real_metadata_service() -> Result<()> {
    kit::test(async |cluster, namespace| {
        let node = cluster.node("a")?;
        namespace.client("host", json!({"nodeName": node.name, "hostNetwork": true})).await?;
        for url in urls() {
            ensure!(node.sh(&format!("curl -gsSf --max-time 5 '{url}'")).await? == ANSWER, "the node: {url}");
            ensure!(namespace.curl("host", &url).await? == ANSWER, "a hostNetwork pod: {url}");
        }
        Ok(())
    })
    .await
}
