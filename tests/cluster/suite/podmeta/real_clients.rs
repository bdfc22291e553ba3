//! Unmodified SDKs in pods, at the real service addresses. The scripts and expected values are those of
//! `tests/real-clients`, which runs them as pods of the dev server too.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use podmeta_cluster::images::CLIENT;
use serde_json::{Value, json};

use crate::kit;

/// The scripts of `tests/real-clients`.
const REAL_CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../real-clients");

/// Programs of the clients, with their arguments. `/clients` contains the scripts.
const CLIENTS: [&str; 6] = [
    "python3 /clients/boto3_client.py ipv4",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6 python3 /clients/boto3_client.py ipv6",
    "python3 /clients/awscrt_client.py full",
    "node /clients/aws_sdk.js",
    "python3 /clients/alibabacloud_client.py full",
    "node /clients/alicloud.js",
];

/// Returns the Secrets and the profile `required` of the real clients, for any namespace and node.
fn manifests() -> Result<String> {
    let text = std::fs::read_to_string(Path::new(REAL_CLIENTS).join("pods.yaml"))?;
    let mut documents: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    documents.retain(|document| match document.get("kind").and_then(Value::as_str) {
        Some("Secret") => true,
        Some("MetadataProfile") => document.pointer("/metadata/name").is_some_and(|name| name == "required"),
        _ => false,
    });
    for document in &mut documents {
        document["metadata"].as_object_mut().context("no metadata")?.remove("namespace");
        if document["kind"] == "MetadataProfile" {
            let instance = document.pointer_mut("/spec/instance").and_then(Value::as_object_mut);
            let instance = instance.context("the profile has no spec.instance")?;
            instance.insert("region".to_owned(), expected("REGION")?.into());
            instance.insert("availabilityZone".to_owned(), expected("ZONE")?.into());
        }
    }
    let documents = documents.iter().map(ToString::to_string).collect::<Vec<_>>();
    Ok(documents.join("\n---\n"))
}

/// Returns the value that the clients expect for a variable.
fn expected(name: &str) -> Result<String> {
    environment()?.into_iter().find(|(key, _)| key == name).map(|(_, value)| value).context("no expected value")
}

fn environment() -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(Path::new(REAL_CLIENTS).join("expected.env"))?;
    let variables = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    Ok(variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// Returns the scripts by file name.
fn scripts() -> Result<BTreeMap<String, String>> {
    let mut scripts = BTreeMap::new();
    for (directory, extension) in [("python", "py"), ("node", "js")] {
        for entry in std::fs::read_dir(Path::new(REAL_CLIENTS).join(directory))? {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == extension) {
                let name = path.file_name().and_then(|name| name.to_str()).context("the name is not text")?;
                scripts.insert(name.to_owned(), std::fs::read_to_string(&path)?);
            }
        }
    }
    Ok(scripts)
}

#[tokio::test]
async fn unmodified_sdks_of_a_pod_get_their_credentials() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        let scripts =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "clients"}, "data": scripts()?});
        namespace.apply(&scripts.to_string()).await?;
        namespace.apply(&manifests()?).await?;
        let environment =
            environment()?.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client", "labels": {"tokens": "required"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "client", "image": CLIENT, "imagePullPolicy": "Never", "command": ["sleep", "infinity"],
                    "env": environment, "volumeMounts": [{"name": "clients", "mountPath": "/clients"}],
                }],
                "volumes": [{"name": "clients", "configMap": {"name": "clients"}}],
            },
        });
        namespace.start("client", &pod).await?;
        podmeta.wait_until_programmed(namespace, "required", 1).await?;
        for client in CLIENTS {
            let output = namespace.exec("client", &["sh", "-c", client]).await?;
            let lines = output.stdout.lines().collect::<Vec<_>>();
            ensure!(
                output.succeeded && !lines.is_empty() && lines.iter().all(|line| line.starts_with("ok ")),
                "{client}: {}{}",
                output.stdout,
                output.stderr
            );
        }
        Ok(())
    })
    .await
}
