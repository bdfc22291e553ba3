//! What an agent answers on a node is what dev mode answers for the same objects, byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace as CoreNamespace, Node, Pod, Secret};
use kube::api::Api;
use podmeta_crds::metadataprofile::MetadataProfile;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::profile;
use crate::kit::{self, Namespace, Podmeta};

/// Signatures are of another key, and each is a list of what it cannot have in common.
const SIGNED: [&str; 3] = ["/signature", "/pkcs7", "/rsa2048"];

/// What is asked at first; what these list is asked too.
const SEEDS: [&str; 7] = [
    "/",
    "/1.0/meta-data/",
    "/latest/",
    "/latest/dynamic/",
    "/latest/meta-data/",
    "/latest/meta-data/nothing",
    "/latest/user-data",
];

#[tokio::test]
async fn an_agent_answers_as_dev_mode_does_for_the_same_objects() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        let keys = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
            "stringData": {
                "accessKeyId": "ASIAIOSFODNN7EXAMPLE", "secretAccessKey": "secret", "sessionToken": "token",
                "expiration": "2099-01-01T00:00:00Z", "boot": "#!/bin/sh\necho from a secret\n",
            },
        });
        namespace.apply(&keys.to_string()).await?;
        let boot = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "boot"}, "data": {"boot": "#cloud-config\n"}});
        namespace.apply(&boot.to_string()).await?;
        let role = |dialect: &str| json!({"name": format!("{dialect}-role"), "dialect": dialect, "secret": {"name": "keys"}});
        for (name, data) in [("one", "configMapKeyRef"), ("two", "secretKeyRef")] {
            let object = if name == "one" { "boot" } else { "keys" };
            let spec = json!({
                "dialects": ["ec2", "ecs"],
                "metadataOptions": {"instanceMetadataTags": "enabled"},
                "instance": {"region": "eu-west-1", "accountId": "123456789012"},
                "roles": [role("ec2"), role("ecs")],
                "userData": {data: {"name": object, "key": "boot"}},
                "tags": {"labels": ["app"], "static": [{"key": "team", "value": "shop"}]},
                "metadata": [
                    {"dialect": "ec2", "path": "own/node", "expression": "node.metadata.name"},
                    {"dialect": "ecs", "path": "own/ip", "fieldRef": {"fieldPath": "status.podIP"}},
                ],
                "publicKeys": [{"name": "me", "openSshKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me"}],
            });
            namespace.apply(&profile(name, spec)).await?;
            let pod = namespace.client(name, json!({})).await?;
            let node = pod.spec.and_then(|spec| spec.node_name).context("the pod is on no node")?;
            podmeta.status(namespace, name, "it is programmed", |said| said.programmed_pods == Some(1)).await?;
            let files = objects(namespace, name, &node).await?;
            let dev = Dev::start(&files, &namespace.name, name).await?;
            for dialect in ["ec2", "ecs"] {
                compare(podmeta, &dev, &node, &format!("{}/{name}", namespace.name), dialect).await?;
            }
        }
        Ok(())
    })
    .await
}

/// Asks both for every path that either lists, from the root down.
async fn compare(podmeta: &Podmeta, dev: &Dev, node: &str, pod: &str, dialect: &str) -> Result<()> {
    let mut asked = BTreeSet::new();
    let mut left = SEEDS.map(String::from).to_vec();
    let mut leaves = 0;
    while let Some(path) = left.pop() {
        if !asked.insert(path.clone()) {
            continue;
        }
        let (here, there) =
            (dev.ask(dialect, &path).await?, podmeta.ask(node, &["--include", pod, dialect, &path]).await?);
        let there = parse(&there.stdout).with_context(|| format!("{pod} {dialect} {path}: {}", there.stderr))?;
        if SIGNED.iter().any(|signed| path.ends_with(signed)) {
            ensure!(here.0 == there.0 && here.1.len().abs_diff(there.1.len()) < 100, "{dialect} {path}");
            continue;
        }
        let (mut one, mut other) = (here.clone(), there.clone());
        if path.contains("security-credentials/") {
            (one.1, other.1) = (without_time(&here.1), without_time(&there.1));
        }
        ensure!(one == other, "{pod} {dialect} {path}: dev says\n{here:?}\nthe agent says\n{there:?}");
        if path.ends_with('/') && here.0 == 200 && (path.starts_with("/latest/") || path == "/") {
            let names =
                here.1.lines().map(|name| name.split_once('=').map_or(name.to_owned(), |(at, _)| format!("{at}/")));
            let below = names.map(|name| format!("{path}{name}"));
            left.extend(below.filter(|path| path.starts_with("/latest/")));
        } else {
            leaves += 1;
        }
    }
    ensure!(leaves > 25, "{dialect}: only {leaves} values were compared: {asked:?}");
    println!("{pod} {dialect}: {} paths are the same", asked.len());
    Ok(())
}

/// When credentials were given out is another time for each.
fn without_time(body: &str) -> String {
    body.lines().filter(|line| !line.contains("\"LastUpdated\"")).collect::<Vec<_>>().join("\n")
}

/// Status and body of an answer as `ask --include` prints it.
fn parse(printed: &str) -> Result<(u16, String)> {
    let (head, body) = printed.split_once("\n\n").context("no head was printed")?;
    let status = head.split_whitespace().nth(1).context("no status was printed")?;
    Ok((status.parse()?, body.to_owned()))
}

/// A pod and everything that it is compiled of, as the API server has it.
async fn objects(namespace: &Namespace, name: &str, node: &str) -> Result<String> {
    let all = namespace.client.clone();
    let objects = [
        serde_json::to_value(Api::<CoreNamespace>::all(all.clone()).get(&namespace.name).await?)?,
        serde_json::to_value(Api::<Node>::all(all).get(node).await?)?,
        serde_json::to_value(namespace.api::<Pod>().get(name).await?)?,
        serde_json::to_value(namespace.api::<Secret>().get("keys").await?)?,
        serde_json::to_value(namespace.api::<ConfigMap>().get("boot").await?)?,
        serde_json::to_value(namespace.api::<MetadataProfile>().get(name).await?)?,
    ];
    let text = objects.map(|object| object.to_string());
    Ok(text.join("\n---\n"))
}

/// The dev server, with its own folder.
struct Dev {
    child: Child,
    folder: std::path::PathBuf,
    urls: BTreeMap<String, String>,
}

impl Dev {
    async fn start(files: &str, namespace: &str, name: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("podmeta-answers-{namespace}-{name}"));
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("objects.yaml");
        std::fs::write(&file, files)?;
        let program = Path::new(env!("CARGO_BIN_EXE_cluster")).with_file_name("podmeta-node-agent");
        let mut child = Command::new(&program)
            .args(["dev", "--output", "json", "--log", "warn", "--state-dir"])
            .args([&folder.join("state"), Path::new("-f"), &file])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}: cargo build", program.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let line = lines.next_line().await?.context("dev printed nothing; what is wrong is above")?;
        let printed: Value = serde_json::from_str(&line)?;
        let mut urls = BTreeMap::new();
        for endpoint in printed.get("endpoints").and_then(Value::as_array).context("no endpoints")? {
            let text = |field: &str| endpoint.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            urls.insert(text("dialect"), text("url"));
        }
        Ok(Self { child, folder, urls })
    }

    /// Status and body.
    async fn ask(&self, dialect: &str, path: &str) -> Result<(u16, String)> {
        let url = self.urls.get(dialect).with_context(|| format!("dev has no {dialect}: {:?}", self.urls))?;
        let (ttl, header) = match dialect {
            "ec2" => ("X-aws-ec2-metadata-token-ttl-seconds: 60", "X-aws-ec2-metadata-token"),
            _ => ("X-aliyun-ecs-metadata-token-ttl-seconds: 60", "X-aliyun-ecs-metadata-token"),
        };
        let token = curl(&["-f", "-X", "PUT", "-H", ttl, &format!("{url}/latest/api/token")]).await?;
        let answer =
            curl(&["-w", "\n%{http_code}", "-H", &format!("{header}: {token}"), &format!("{url}{path}")]).await?;
        let (body, status) = answer.rsplit_once('\n').context("no status")?;
        Ok((status.parse()?, body.to_owned()))
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ended_with_it = self.child.start_kill();
        drop(std::fs::remove_dir_all(&self.folder));
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
