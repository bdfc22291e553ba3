//! Installation on nodes with running pods, and `helm uninstall`.

use std::time::Duration;

use anyhow::{Result, ensure};
use podmeta_cluster::network::imds_stub::RESPONSE_BODY;
use serde_json::json;

use super::fixtures::{GET_INSTANCE_ID, instance_id, profile};
use crate::cluster::imds_stub::urls;
use crate::kit::{self, Podmeta, TestNode, eventually};

/// Shell script that prints what podmeta changes on a node: links, rules, tables, mounts, namespaces and files. It leaves
/// out the network of pods, and the plugin's binary, because uninstall keeps it.
const NODE_STATE: &str = "ip -o link show | grep -v veth | cut -d: -f2 | sort
ip rule; ip -6 rule; nft list tables | sort
grep -c podmeta /proc/self/mountinfo || true
ls /run/netns | grep -v ^cni- || true
ls /etc/cni/net.d
ls /opt/cni/bin | grep -v '^podmeta-cni$'
ls -d /run/podmeta 2>/dev/null || true";

async fn state(node: &TestNode) -> Result<String> {
    node.sh(NODE_STATE).await
}

#[tokio::test]
async fn running_and_new_pods_are_served_until_uninstall_leaves_the_nodes_as_before() -> Result<()> {
    kit::bare_cluster_test(async |cluster, namespace| {
        let node = cluster.node("a")?;
        let before = state(&node).await?;
        namespace.start_client("old", json!({"nodeName": node.name})).await?;
        let podmeta = Podmeta::install(cluster).await?;
        for name in ["old", "new"] {
            namespace.apply(&profile(name, json!({}))).await?;
        }
        namespace.start_client("new", json!({"nodeName": node.name})).await?;
        for name in ["old", "new"] {
            podmeta.wait_until_programmed(namespace, name, 1).await?;
            let printed = namespace.run(name, &["sh", "-c", GET_INSTANCE_ID]).await?;
            let expected = instance_id(&podmeta, namespace, name).await?;
            ensure!(printed == expected, "pod {name} got {printed}, expected {expected}");
        }
        Podmeta::uninstall(cluster).await?;
        eventually(Duration::from_secs(30), "the node is as before", async || {
            let after = state(&node).await?;
            ensure!(after == before, "before: {before}\nafter: {after}");
            Ok(())
        })
        .await?;
        for name in ["old", "new"] {
            for url in urls() {
                ensure!(namespace.curl(name, &url).await? == RESPONSE_BODY, "pod {name}: {url}");
            }
        }
        Ok(())
    })
    .await
}
