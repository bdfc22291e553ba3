//! The agent on a node and the dev server return identical responses for the same objects.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret};
use kube::api::Api;
use podmeta_crds::metadataprofile::MetadataProfile;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::fixtures::{ACCESS_KEY_ID, profile, usable_by_profiles};
use crate::kit::{self, Podmeta, TestNamespace};

/// Suffixes of paths with signatures. These differ because the signing keys differ.
const SIGNED_PATHS: [&str; 3] = ["/signature", "/pkcs7", "/rsa2048"];

/// Paths to start from. Listings add more.
const SEED_PATHS: [&str; 7] = [
    "/",
    "/1.0/meta-data/",
    "/latest/",
    "/latest/dynamic/",
    "/latest/meta-data/",
    "/latest/meta-data/nothing",
    "/latest/user-data",
];

/// A status code and a body.
type StatusAndBody = (u16, String);

#[tokio::test]
async fn agent_and_dev_server_return_identical_responses() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        let keys = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "labels": usable_by_profiles()},
            "stringData": {
                "accessKeyId": ACCESS_KEY_ID, "secretAccessKey": "secret", "sessionToken": "token",
                "expiration": "2099-01-01T00:00:00Z", "boot": "#!/bin/sh\necho from a secret\n",
            },
        });
        namespace.apply(&keys.to_string()).await?;
        let boot = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "boot"}, "data": {"boot": "#cloud-config\n"}});
        namespace.apply(&boot.to_string()).await?;
        // The dev server signs the profile's account and region. A cluster does so only if a policy lists them.
        let namespace_selector = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace.name}});
        let policy = json!({
            "apiVersion": "podmeta.dev/v1alpha1", "kind": "MetadataPolicy", "metadata": {"name": namespace.name},
            "spec": {
                "namespaceSelector": namespace_selector,
                "allowedAccountIds": ["123456789012"], "allowedRegions": ["eu-west-1"],
            },
        });
        namespace.apply(&policy.to_string()).await?;
        let role = |dialect: &str| json!({"name": format!("{dialect}-role"), "dialect": dialect, "secret": {"name": "keys"}});
        for (name, source, object) in [("one", "configMapKeyRef", "boot"), ("two", "secretKeyRef", "keys")] {
            let spec = json!({
                "dialects": ["ec2", "ecs"],
                "metadataOptions": {"instanceMetadataTags": "enabled"},
                // Without a MAC address in the profile, the agent has that of the pod's interface.
                "instance": {
                    "region": "eu-west-1", "accountId": "123456789012", "network": {"mac": "02:00:00:00:00:01"},
                },
                "roles": [role("ec2"), role("ecs")],
                "userData": {source: {"name": object, "key": "boot"}},
                "tags": {"labels": ["app"], "static": [{"key": "team", "value": "shop"}]},
                "metadata": [
                    {"dialect": "ec2", "path": "own/node", "expression": "node.metadata.name"},
                    {"dialect": "ecs", "path": "own/ip", "fieldRef": {"fieldPath": "status.podIP"}},
                ],
                "publicKeys": [{"name": "me", "openSshKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me"}],
            });
            namespace.apply(&profile(name, spec)).await?;
            let pod = namespace.start_client(name, json!({})).await?;
            let node = pod.spec.and_then(|spec| spec.node_name).context("the pod is not bound to a node")?;
            podmeta.wait_until_programmed(namespace, name, 1).await?;
            let objects = export_objects(namespace, name, &node).await?;
            let dev = DevServerProcess::start(&objects, &namespace.name, name).await?;
            for dialect in ["ec2", "ecs"] {
                compare(podmeta, &dev, &node, &format!("{}/{name}", namespace.name), dialect).await?;
            }
        }
        podmeta.delete_policy(&namespace.name).await
    })
    .await
}

/// Compares the responses to every path that the listings contain, from the root down.
async fn compare(podmeta: &Podmeta, dev: &DevServerProcess, node: &str, pod: &str, dialect: &str) -> Result<()> {
    let mut visited = BTreeSet::new();
    let mut pending = SEED_PATHS.map(String::from).to_vec();
    let mut leaves = 0;
    while let Some(path) = pending.pop() {
        if !visited.insert(path.clone()) {
            continue;
        }
        let from_dev = dev.get(dialect, &path).await?;
        let from_agent = podmeta.query(node, &["--include", pod, dialect, &path]).await?;
        let from_agent = parse_query_output(&from_agent.stdout)
            .with_context(|| format!("{pod} {dialect} {path}: {}", from_agent.stderr))?;
        if SIGNED_PATHS.iter().any(|suffix| path.ends_with(suffix)) {
            let similar = from_dev.0 == from_agent.0 && from_dev.1.len().abs_diff(from_agent.1.len()) < 100;
            ensure!(similar, "{dialect} {path}: {from_dev:?} {from_agent:?}");
            continue;
        }
        let (mut expected, mut actual) = (from_dev.clone(), from_agent.clone());
        if path.contains("security-credentials/") {
            (expected.1, actual.1) = (without_last_updated(&expected.1), without_last_updated(&actual.1));
        }
        ensure!(expected == actual, "{pod} {dialect} {path}: dev server:\n{from_dev:?}\nagent:\n{from_agent:?}");
        let (status, body) = from_dev;
        if path.ends_with('/') && status == 200 && (path.starts_with("/latest/") || path == "/") {
            let names =
                body.lines().map(|name| name.split_once('=').map_or(name.to_owned(), |(index, _)| format!("{index}/")));
            let children = names.map(|name| format!("{path}{name}"));
            pending.extend(children.filter(|path| path.starts_with("/latest/")));
        } else {
            leaves += 1;
        }
    }
    ensure!(leaves > 25, "{dialect}: only {leaves} leaves were compared: {visited:?}");
    println!("{pod} {dialect}: {} paths are identical", visited.len());
    Ok(())
}

/// Removes the time of issue, which differs between the two servers.
fn without_last_updated(body: &str) -> String {
    body.lines().filter(|line| !line.contains("\"LastUpdated\"")).collect::<Vec<_>>().join("\n")
}

/// Parses the output of the query command with `--include`.
fn parse_query_output(output: &str) -> Result<StatusAndBody> {
    let (head, body) = output.split_once("\n\n").context("no response head was printed")?;
    let status = head.split_whitespace().nth(1).context("no status was printed")?;
    Ok((status.parse()?, body.to_owned()))
}

/// Exports a pod and every object that its metadata depends on, as YAML documents.
async fn export_objects(namespace: &TestNamespace, name: &str, node: &str) -> Result<String> {
    let client = namespace.client.clone();
    let objects = [
        serde_json::to_value(Api::<Namespace>::all(client.clone()).get(&namespace.name).await?)?,
        serde_json::to_value(Api::<Node>::all(client).get(node).await?)?,
        serde_json::to_value(namespace.api::<Pod>().get(name).await?)?,
        serde_json::to_value(namespace.api::<Secret>().get("keys").await?)?,
        serde_json::to_value(namespace.api::<ConfigMap>().get("boot").await?)?,
        serde_json::to_value(namespace.api::<MetadataProfile>().get(name).await?)?,
    ];
    Ok(objects.map(|object| object.to_string()).join("\n---\n"))
}

/// `podmeta-node-agent dev` on this host, with its own state directory.
struct DevServerProcess {
    child: Child,
    dir: PathBuf,
    /// URL of each dialect.
    urls: BTreeMap<String, String>,
}

impl DevServerProcess {
    async fn start(objects: &str, namespace: &str, name: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("podmeta-dev-{namespace}-{name}"));
        std::fs::create_dir_all(&dir)?;
        let file = dir.join("objects.yaml");
        std::fs::write(&file, objects)?;
        let program = Path::new(env!("CARGO_BIN_EXE_cluster")).with_file_name("podmeta-node-agent");
        let mut child = Command::new(&program)
            .args(["dev", "--output", "json", "--log", "warn", "--state-dir"])
            .args([&dir.join("state"), Path::new("-f"), &file])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}: cargo build", program.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let line = lines.next_line().await?.context("the dev server printed no endpoints; see its errors above")?;
        let printed: Value = serde_json::from_str(&line)?;
        let mut urls = BTreeMap::new();
        for endpoint in printed.get("endpoints").and_then(Value::as_array).context("no endpoints")? {
            let text = |field: &str| endpoint.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            urls.insert(text("dialect"), text("url"));
        }
        Ok(Self { child, dir, urls })
    }

    async fn get(&self, dialect: &str, path: &str) -> Result<StatusAndBody> {
        let url =
            self.urls.get(dialect).with_context(|| format!("no endpoint of dialect {dialect}: {:?}", self.urls))?;
        let (ttl, header) = match dialect {
            "ec2" => ("X-aws-ec2-metadata-token-ttl-seconds: 60", "X-aws-ec2-metadata-token"),
            _ => ("X-aliyun-ecs-metadata-token-ttl-seconds: 60", "X-aliyun-ecs-metadata-token"),
        };
        let token = curl(&["-f", "-X", "PUT", "-H", ttl, &format!("{url}/latest/api/token")]).await?;
        let output =
            curl(&["-w", "\n%{http_code}", "-H", &format!("{header}: {token}"), &format!("{url}{path}")]).await?;
        let (body, status) = output.rsplit_once('\n').context("curl printed no status")?;
        Ok((status.parse()?, body.to_owned()))
    }
}

impl Drop for DevServerProcess {
    fn drop(&mut self) {
        let _already_exited = self.child.start_kill();
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

async fn curl(arguments: &[&str]) -> Result<String> {
    let output =
        Command::new("curl").args(["-gsS", "--path-as-is", "--max-time", "5"]).args(arguments).output().await?;
    if !output.status.success() {
        bail!("curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
