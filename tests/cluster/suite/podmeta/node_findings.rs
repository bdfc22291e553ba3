//! Ways past the guards that the condition `podmeta.dev/Guarded` of a node reports.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams};
use serde_json::json;

use super::node_condition::GUARDED;
use crate::kit::{self, Podmeta, TestNamespace, TestNode, eventually};

/// Timeout until the condition shows a change. Daemon and agent check every 5 seconds.
const CONDITION_TIMEOUT: Duration = Duration::from_secs(90);

/// Waits until a node has the condition with this status and reason, and with a message that contains this text.
async fn wait_for_condition(podmeta: &Podmeta, node: &TestNode, expected: [&str; 2], text: &str) -> Result<()> {
    let nodes = Api::<Node>::all(podmeta.cluster.client.clone());
    eventually(CONDITION_TIMEOUT, &format!("the condition is {expected:?}"), async || {
        let conditions = nodes.get(&node.name).await?.status.unwrap_or_default().conditions.unwrap_or_default();
        let guarded = conditions.iter().find(|condition| condition.type_ == GUARDED).context("no condition")?;
        let [status, reason] = expected;
        ensure!(guarded.status == status && guarded.reason.as_deref() == Some(reason), "{guarded:?}");
        ensure!(guarded.message.as_deref().unwrap_or_default().contains(text), "{guarded:?}");
        Ok(())
    })
    .await
}

const IN_PLACE: [&str; 2] = ["True", "GuardsInPlace"];

#[tokio::test]
async fn node_with_a_translator_of_ipv6_addresses_reports_its_route() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, _| {
        let node = podmeta.cluster.node("a")?;
        wait_for_condition(podmeta, &node, IN_PLACE, "").await?;
        node.sh("ip link add nat64 up type veth peer name nat64-peer && ip -6 route add 64:ff9b::/96 dev nat64")
            .await?;
        let reported =
            wait_for_condition(podmeta, &node, ["True", "AddressTranslation"], "(route 64:ff9b::/96 by nat64)").await;
        node.sh("ip link del nat64").await?;
        reported?;
        wait_for_condition(podmeta, &node, IN_PLACE, "").await
    })
    .await
}

/// Shell script that moves a macvlan device of the uplink into the network namespace with this inode number.
const MOVE_DEVICE: &str = "
for path in /run/netns/cni-*; do
  if [ \"net:[$(stat -Lc %i \"$path\")]\" = '{namespace}' ]; then
    uplink=$(ip -4 route get 198.51.100.1 | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p')
    ip link add link \"$uplink\" name moved0 type macvlan && ip link set moved0 netns \"${path##*/}\" && exit
  fi
done
exit 1";

#[tokio::test]
async fn node_without_the_uplink_guard_reports_devices_of_its_uplink_in_pods() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let set = async |is_on: bool| podmeta.upgrade(&["--set", &format!("nodeMetadata.uplinkGuard={is_on}")]).await;
        let result = match set(false).await {
            Ok(()) => check_moved_device(podmeta, namespace).await,
            Err(error) => Err(error),
        };
        set(true).await?;
        result
    })
    .await
}

async fn check_moved_device(podmeta: &Podmeta, namespace: &TestNamespace) -> Result<()> {
    let node = podmeta.cluster.node("a")?;
    wait_for_condition(podmeta, &node, IN_PLACE, "").await?;
    namespace.start_client("device", json!({"nodeName": node.name})).await?;
    let inode = namespace.run("device", &["readlink", "/proc/self/ns/net"]).await?;
    node.sh(&MOVE_DEVICE.replace("{namespace}", inode.trim())).await?;
    let named = format!("{}/device: macvlan", namespace.name);
    wait_for_condition(podmeta, &node, ["False", "DevicesInPods"], &named).await?;
    namespace.api::<Pod>().delete("device", &DeleteParams::default().grace_period(0)).await?;
    wait_for_condition(podmeta, &node, IN_PLACE, "").await
}
