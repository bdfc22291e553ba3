//! The pod network, Services and DNS.

use anyhow::{Result, ensure};
use podmeta_cluster::network::imds_stub::RESPONSE_BODY;
use serde_json::json;

use super::imds_stub::urls;
use crate::kit::{self, TestNamespace, pod_addresses};

/// Drops packets to the metadata addresses that do not come from the node itself, before routing.
const DROP_FORWARDED: &str = "nft 'table inet datapath-test {
  chain forwarded {
    type filter hook prerouting priority raw; iif lo accept
    ip daddr { 169.254.169.254, 100.100.100.200 } drop
    ip6 daddr fd00:ec2::254 drop
  }
}'";

#[tokio::test]
async fn pods_reach_each_other_by_address_service_and_name() -> Result<()> {
    kit::cluster_test(async |cluster, namespace| {
        let (a, b) = (cluster.node("a")?.name, cluster.node("b")?.name);
        let serve = json!(["python3", "-m", "http.server", "--bind", "::", "8080"]);
        let image = podmeta_cluster::images::CLIENT;
        let container = json!([{"name": "web", "image": image, "imagePullPolicy": "Never", "command": serve, "workingDir": "/opt"}]);
        let (client, server) = tokio::try_join!(
            namespace.start_client("client", json!({"nodeName": a})),
            namespace.start_client("server", json!({"nodeName": b, "containers": container})),
        )?;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "server"},
            "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}], "ipFamilyPolicy": "RequireDualStack"},
        });
        namespace.apply(&service.to_string()).await?;
        let (ipv4, ipv6) = pod_addresses(&server)?;
        ensure!(client.spec.and_then(|spec| spec.node_name) != server.spec.and_then(|spec| spec.node_name));
        let name = format!("http://server.{}.svc.cluster.local/", namespace.name);
        for url in [format!("http://{ipv4}:8080/"), format!("http://[{ipv6}]:8080/"), name, "http://server/".to_owned()] {
            let retry = ["curl", "-gsSf", "--retry", "20", "--retry-delay", "1", "--retry-all-errors", "--max-time", "5", &url];
            let listing = namespace.run("client", &retry).await?;
            ensure!(listing.contains("clients/"), "{url}: {listing}");
        }
        Ok(())
    })
    .await
}

/// Returns which metadata addresses respond to the pod `client`.
async fn responses(namespace: &TestNamespace) -> Result<Vec<bool>> {
    let mut responses = Vec::new();
    for url in urls() {
        let output = namespace.exec("client", &["curl", "-gsSf", "--max-time", "3", &url]).await?;
        responses.push(output.succeeded && output.stdout == RESPONSE_BODY);
    }
    Ok(responses)
}

#[tokio::test]
async fn nftables_of_the_node_drop_packets_of_pods_unless_the_datapath_bypasses_them() -> Result<()> {
    kit::bare_cluster_test(async |cluster, namespace| {
        let node = cluster.node("a")?;
        namespace.start_client("client", json!({"nodeName": node.name})).await?;
        ensure!(responses(namespace).await? == [true; 3], "the pod does not reach the IMDS stub");
        node.sh(DROP_FORWARDED).await?;
        let dropped = responses(namespace).await;
        node.sh("nft delete table inet datapath-test").await?;
        let (dropped, expected) = (dropped?, [cluster.bypasses_host_stack(); 3]);
        ensure!(dropped == expected, "with the rules: {dropped:?}, expected: {expected:?}");
        Ok(())
    })
    .await
}
