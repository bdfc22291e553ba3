//! The images that are built without a registry.

use anyhow::{Context as _, Result, ensure};
use podmeta_cluster::images::{CLIENT, PODMETA};
use serde_json::json;

use crate::kit;

#[tokio::test]
async fn client_image_has_shell_curl_and_cloud_sdks() -> Result<()> {
    kit::cluster_test(async |_, namespace| {
        namespace.start_client("client", json!({})).await?;
        let python = "import boto3, alibabacloud_credentials; print(boto3.__version__)";
        ensure!(namespace.run("client", &["python3", "-c", python]).await?.contains('.'));
        let node = "require('@aws-sdk/credential-providers'); require('@alicloud/credentials'); console.log('ok')";
        ensure!(namespace.run("client", &["node", "-e", node]).await?.trim() == "ok");
        ensure!(namespace.run("client", &["sh", "-c", "curl --version | head -n1"]).await?.starts_with("curl"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn podmeta_image_runs_dev_server() -> Result<()> {
    kit::cluster_test(async |_, namespace| {
        let example = include_str!("../../../../examples/quickstart.yaml");
        let config = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "files"}, "data": {"quickstart.yaml": example},
        });
        namespace.apply(&config.to_string()).await?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "agent"},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {"name": "client", "image": CLIENT, "imagePullPolicy": "Never", "command": ["sleep", "infinity"]},
                    {
                        "name": "agent", "image": PODMETA, "imagePullPolicy": "Never",
                        "command": ["/podmeta-node-agent", "dev", "-f", "/files/quickstart.yaml"],
                        "env": [{"name": "HOME", "value": "/tmp"}],
                        "volumeMounts": [{"name": "files", "mountPath": "/files"}, {"name": "tmp", "mountPath": "/tmp"}],
                    },
                ],
                "volumes": [{"name": "files", "configMap": {"name": "files"}}, {"name": "tmp", "emptyDir": {}}],
            },
        });
        namespace.start("agent", &pod).await?;
        let log = namespace.wait_for_log("agent", "agent", "curl -sf http").await?;
        let commands: Vec<_> = log.lines().filter(|line| line.contains("curl -sf")).take(2).collect();
        let script = commands.join("\n");
        let listing = namespace.run("agent", &["sh", "-c", &script]).await.context(script)?;
        ensure!(listing.starts_with("ami-id\n"), "{listing}");
        Ok(())
    })
    .await
}
