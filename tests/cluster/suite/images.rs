//! The images that were put together without a registry hold what the tests need.

use anyhow::{Context as _, Result, ensure};
use podmeta_cluster::images::{CLIENT, PODMETA};
use serde_json::json;

use crate::kit;

#[tokio::test]
async fn the_client_image_has_a_shell_curl_and_the_clouds_sdks() -> Result<()> {
    kit::test(async |_, namespace| {
        namespace.client("client", json!({})).await?;
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
async fn podmeta_s_image_serves_a_pod_s_metadata() -> Result<()> {
    kit::test(async |_, namespace| {
        let example = include_str!("../../../examples/quickstart.yaml");
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
        let printed = namespace.log_with("agent", "agent", "curl -sf http").await?;
        let commands: String = printed.lines().filter(|line| line.contains("curl -sf")).take(2).fold(String::new(), |all, line| all + line + "\n");
        let listing = namespace.run("agent", &["sh", "-c", &commands]).await.context(commands)?;
        ensure!(listing.starts_with("ami-id\n"), "{listing}");
        Ok(())
    })
    .await
}
