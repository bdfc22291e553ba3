//! The pod network, Services and DNS.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::kit::{self, pod_addresses};

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
