//! A node that joins the cluster while pods wait for it.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};

use super::first_requests::{PodPlacement, check_first_requests};
use super::node_condition::guarded_condition;
use crate::kit::{self, AddedNode, Podmeta, TestNamespace, eventually};

/// Number of pods that wait for the node.
const PODS: usize = 40;

/// The startup taint, as the kubelet's flag.
const STARTUP_TAINT: &str = "podmeta.dev/not-ready=:NoSchedule";

#[tokio::test]
async fn pods_that_wait_for_a_new_node_get_their_own_data_and_never_the_nodes() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let node = AddedNode::new(&podmeta.cluster)?;
        let placement = PodPlacement::Node(&node.name);
        // Not `try_join`: a command that is cancelled while it adds the node would add it after its removal.
        let (checked, joined) =
            tokio::join!(check_first_requests(podmeta, namespace, PODS, placement), join(podmeta, namespace, &node));
        let removed = node.remove().await;
        joined.and(checked).and(removed)
    })
    .await
}

/// Adds the node when all pods exist, and waits until it is guarded.
async fn join(podmeta: &Podmeta, namespace: &TestNamespace, node: &AddedNode) -> Result<()> {
    eventually(Duration::from_secs(120), "all pods exist", async || {
        let pods = namespace.api::<Pod>().list(&ListParams::default()).await?.items.len();
        ensure!(pods >= PODS, "{pods} pods");
        Ok(())
    })
    .await?;
    node.join(STARTUP_TAINT).await?;
    let nodes = Api::<Node>::all(podmeta.cluster.client.clone());
    eventually(Duration::from_secs(120), "the new node is guarded", async || {
        let condition = guarded_condition(&nodes.get(&node.name).await?);
        ensure!(condition.as_ref().is_some_and(|(status, _)| status == "True"), "{condition:?}");
        Ok(())
    })
    .await
}
