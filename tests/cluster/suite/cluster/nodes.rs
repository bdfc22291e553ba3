//! Nodes and kubelets.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use serde_json::json;

use crate::kit;

#[tokio::test]
async fn nodes_are_ready_with_ipv4_and_ipv6_addresses() -> Result<()> {
    kit::cluster_test(async |cluster, _| {
        let nodes = Api::<Node>::all(cluster.client.clone()).list(&ListParams::default()).await?;
        ensure!(cluster.node_names().len() >= 2, "the cluster has {} nodes", cluster.node_names().len());
        for node in nodes {
            let status = node.status.clone().unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
            let addresses = status.addresses.unwrap_or_default();
            let internal = addresses.iter().filter(|address| address.type_ == "InternalIP").count();
            ensure!(ready && internal == 2, "node {}: Ready={ready}, {internal} addresses", node.name_any());
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pods_survive_kubelet_restart() -> Result<()> {
    kit::exclusive_cluster_test(async |cluster, namespace| {
        let node = cluster.node("a")?;
        let before = namespace.start_client("survivor", json!({"nodeName": node.name})).await?;
        node.restart_kubelet().await?;
        let after = namespace.api::<Pod>().get("survivor").await?;
        let container_id =
            |pod: &Pod| pod.status.clone().and_then(|status| status.container_statuses?.first()?.container_id.clone());
        ensure!(
            container_id(&before).is_some() && container_id(&before) == container_id(&after),
            "the container was replaced"
        );
        // A restarted kubelet is Ready before it has synchronized its pods.
        let exec = async || namespace.run("survivor", &["true"]).await.map(drop);
        kit::eventually(Duration::from_secs(30), "a command runs in the pod", exec).await
    })
    .await
}
