//! Unmodified SDKs and cloud-init in pods, at the real service addresses. The scripts and expected values are those of
//! `tests/real-clients`, which runs them as pods of the dev server too.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use podmeta_cluster::images::CLIENT;
use serde_json::{Value, json};

use crate::kit::{self, Podmeta, TestNamespace};

/// The scripts of `tests/real-clients`.
const REAL_CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../real-clients");

/// The clients: the profile of their pod, and the program with its arguments. `/clients` contains the scripts.
///
/// cloud-init of Debian 12 sends no tokens to the ECS dialect, so it needs the profile `optional` too.
const CLIENTS: [(&str, &str); 9] = [
    ("required", "python3 /clients/boto3_client.py ipv4"),
    ("required", "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6 python3 /clients/boto3_client.py ipv6"),
    ("required", "python3 /clients/awscrt_client.py full"),
    ("required", "node /clients/aws_sdk.js"),
    ("required", "python3 /clients/alibabacloud_client.py full"),
    ("required", "node /clients/alicloud.js"),
    ("required", "python3 /clients/cloud_init.py ec2 required"),
    ("required", "python3 /clients/cloud_init.py aliyun required"),
    ("optional", "python3 /clients/cloud_init.py aliyun optional"),
];

/// The profiles of the clients' pods, which are also the values of the pods' label `tokens`.
const PROFILES: [&str; 2] = ["required", "optional"];

/// Returns the Secrets and the [`PROFILES`] of the real clients, for any namespace and node.
fn manifests() -> Result<String> {
    let text = std::fs::read_to_string(Path::new(REAL_CLIENTS).join("pods.yaml"))?;
    let mut documents: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    documents.retain(|document| match document.get("kind").and_then(Value::as_str) {
        Some("Secret") => true,
        Some("MetadataProfile") => {
            document.pointer("/metadata/name").is_some_and(|name| PROFILES.iter().any(|profile| name == profile))
        }
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

/// Returns a policy that lists the account and region of the profiles. Otherwise signed documents have those of the chart.
fn policy(namespace: &TestNamespace) -> Result<String> {
    let policy = json!({
        "apiVersion": "podmeta.dev/v1alpha1", "kind": "MetadataPolicy", "metadata": {"name": namespace.name},
        "spec": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}},
            "allowedAccountIds": [expected("ACCOUNT")?], "allowedRegions": [expected("REGION")?],
        },
    });
    Ok(policy.to_string())
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

/// Starts a pod of each profile. Nothing in it is configured for podmeta: the variables are the values that the clients
/// expect.
async fn start_pods(namespace: &TestNamespace, age: &str) -> Result<()> {
    let environment =
        environment()?.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>();
    for profile in PROFILES {
        let name = format!("{age}-{profile}");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"tokens": profile}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "client", "image": CLIENT, "imagePullPolicy": "Never", "command": ["sleep", "infinity"],
                    "env": environment, "volumeMounts": [{"name": "clients", "mountPath": "/clients"}],
                }],
                "volumes": [{"name": "clients", "configMap": {"name": "clients"}}],
            },
        });
        namespace.start(&name, &pod).await?;
    }
    Ok(())
}

/// Runs all clients in the pods of an age.
async fn run_clients(namespace: &TestNamespace, age: &str) -> Result<()> {
    for (profile, client) in CLIENTS {
        let pod = format!("{age}-{profile}");
        let output = namespace.exec(&pod, &["sh", "-c", client]).await?;
        let lines = output.stdout.lines().collect::<Vec<_>>();
        let succeeded = output.succeeded && !lines.is_empty() && lines.iter().all(|line| line.starts_with("ok "));
        ensure!(succeeded, "{client} in pod {pod}: {}{}", output.stdout, output.stderr);
        println!("pod {pod}: {client}: {} checks succeeded", lines.len());
    }
    Ok(())
}

#[tokio::test]
async fn unmodified_clients_in_running_and_new_pods_get_metadata_and_credentials() -> Result<()> {
    kit::bare_cluster_test(async |cluster, namespace| {
        let scripts =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "clients"}, "data": scripts()?});
        namespace.apply(&scripts.to_string()).await?;
        start_pods(namespace, "old").await?;
        let podmeta = Podmeta::install(cluster).await?;
        namespace.apply(&policy(namespace)?).await?;
        let checks = async {
            namespace.apply(&manifests()?).await?;
            start_pods(namespace, "new").await?;
            for profile in PROFILES {
                podmeta.wait_until_programmed(namespace, profile, 2).await?;
            }
            tokio::try_join!(run_clients(namespace, "old"), run_clients(namespace, "new")).map(drop)
        };
        let checked: Result<()> = checks.await;
        podmeta.delete_policy(&namespace.name).await?;
        checked
    })
    .await
}
