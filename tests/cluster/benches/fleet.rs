//! Many pods and many agents on one operator: how long it takes to read the cluster, how long an edit takes to the last
//! agent, what memory and how many calls of the API server it costs. `make fleet`.
//!
//! The API server is a real one, of a cluster of its own whose controllers are stopped, so that nothing but the operator
//! works on the pods. Pods and nodes are objects of which no kubelet knows; an agent is a task with a real token of a pod
//! on its node and a connection of its own, which lists and watches as an agent does and counts what it hears.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use http_body_util::{BodyExt as _, Full};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{conditions, wait::await_condition};
use kube::{Client, Config, ResourceExt as _};
use podmeta_agent_api::{AUDIENCE, WORKLOADS, WatchChange, WatchEvent, WorkloadList};
use podmeta_cluster::layout::{ClusterName, Machine};
use podmeta_cluster::machine::Running;
use podmeta_crds::metadataprofile::MetadataProfile;
use podmeta_metadata::compile::Outcome;
use podmeta_node_agent::serve::client::{Connections, connections};
use serde_json::json;
use tokio::sync::Notify;

/// Pods on each node.
const PODS_PER_NODE: usize = 30;
const SYSTEM: &str = "podmeta-system";
const SHOP: &str = "shop";
const OPERATOR: &str = "127.0.0.1:19443";
const ADMIN: &str = "127.0.0.1:19080";
/// How many objects are made at a time.
const AT_ONCE: usize = 48;
/// How often the profile is edited, at each size.
const EDITS: usize = 5;

fn main() -> Result<()> {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![1_000, 10_000] } else { sizes };
    podmeta_service::limits::raise_open_files();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(&sizes))
}

async fn run(sizes: &[usize]) -> Result<()> {
    let name: ClusterName = "fleet".parse()?;
    let cluster = env!("CARGO_BIN_EXE_cluster");
    let up = Command::new(cluster).args(["up", "--name", "fleet", "--nodes", "1"]).stdout(Stdio::null()).status()?;
    ensure!(up.success(), "the cluster does not start");
    let control_plane = Running::find(&name, Machine::ControlPlane)?.context("there is no control plane")?;
    for controller in ["kube-controller-manager", "kube-scheduler"] {
        control_plane.kill_service(controller)?;
    }
    let kubeconfig = name.state().join("kubeconfig");
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(&kubeconfig)?, &options).await?;
    let client = Client::try_from(config)?;
    let fleet = Fleet { client, kubeconfig: kubeconfig.display().to_string() };
    fleet.prepare().await?;
    println!(
        "{:>8} {:>7} {:>9} {:>9} {:>12} {:>12} {:>12} {:>9} {:>9} {:>10}",
        "pods",
        "agents",
        "made s",
        "sync s",
        "agents on s",
        "edit p50 s",
        "edit max s",
        "RSS MiB",
        "CPU s",
        "API calls"
    );
    let mut there = 0;
    for size in sizes {
        let made = Instant::now();
        fleet.grow(there, *size).await?;
        there = (*size).max(there);
        fleet.measure(there, made.elapsed()).await?;
    }
    let down = Command::new(cluster).args(["down", "--name", "fleet"]).stdout(Stdio::null()).status()?;
    ensure!(down.success(), "the cluster does not go");
    Ok(())
}

struct Fleet {
    client: Client,
    kubeconfig: String,
}

/// What the agents have heard.
#[derive(Default)]
struct Heard {
    listed: AtomicUsize,
    /// How many pods were told of with the generation that is waited for.
    pods: AtomicUsize,
    generation: AtomicU64,
    changed: Notify,
}

impl Fleet {
    async fn prepare(&self) -> Result<()> {
        let apply = PatchParams::apply("fleet").force();
        for published in podmeta_crds::crd::generate()? {
            let resource = ApiResource::erase::<CustomResourceDefinition>(&());
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
            let definition = published.definition;
            let name = definition.name_any();
            api.patch(&name, &apply, &Patch::Apply(&definition)).await?;
            let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
            await_condition(definitions, &name, conditions::is_crd_established()).await?;
        }
        for (namespace, account) in [(SYSTEM, "podmeta-agent"), (SHOP, "default")] {
            let metadata = ObjectMeta { name: Some(namespace.to_owned()), ..ObjectMeta::default() };
            let namespaces: Api<Namespace> = Api::all(self.client.clone());
            made(namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await)?;
            let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
            let metadata = ObjectMeta { name: Some(account.to_owned()), ..ObjectMeta::default() };
            made(
                accounts
                    .create(&PostParams::default(), &ServiceAccount { metadata, ..ServiceAccount::default() })
                    .await,
            )?;
        }
        self.edit(0).await.map(drop)
    }

    /// Makes what is missing of this many pods, and their nodes.
    async fn grow(&self, there: usize, pods: usize) -> Result<()> {
        let (params, api): (PostParams, Api<Pod>) = (PostParams::default(), Api::namespaced(self.client.clone(), SHOP));
        let nodes: Api<Node> = Api::all(self.client.clone());
        let agents: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM);
        let make_node = async |number: usize| -> Result<()> {
            let labels =
                json!({"topology.kubernetes.io/region": "eu-west-1", "topology.kubernetes.io/zone": "eu-west-1a"});
            let node = json!({"metadata": {"name": format!("fleet-{number}"), "labels": labels}});
            made(nodes.create(&params, &serde_json::from_value(node)?).await)?;
            made(agents.create(&params, &pod(&format!("agent-{number}"), number, "podmeta-agent")?).await)
        };
        let make_pod = async |number: usize| -> Result<()> {
            made(api.create(&params, &pod(&format!("pod-{number}"), number / PODS_PER_NODE, "default")?).await)
        };
        let (first, last) = (there.div_ceil(PODS_PER_NODE), pods.div_ceil(PODS_PER_NODE));
        stream::iter((first..last).map(make_node)).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        stream::iter((there..pods).map(make_pod)).buffer_unordered(AT_ONCE).try_collect::<()>().await
    }

    async fn measure(&self, pods: usize, made: Duration) -> Result<()> {
        let nodes = pods.div_ceil(PODS_PER_NODE);
        let tokens: Vec<(usize, String)> =
            stream::iter((0..nodes).map(|node| self.token(node))).buffer_unordered(AT_ONCE).try_collect().await?;
        let before = self.calls().await?;
        let mut operator = Operator::start(&self.kubeconfig)?;
        let started = Instant::now();
        operator.ready().await?;
        let synced = started.elapsed();

        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), SYSTEM);
        let bundle = maps.get("podmeta-operator-tls").await?.data.and_then(|mut data| data.remove("ca.crt"));
        let bundle = Arc::new(bundle.context("the operator has published no authority")?);
        let heard = Arc::new(Heard::default());
        let started = Instant::now();
        let agents: Vec<_> = tokens
            .into_iter()
            .map(|(node, token)| {
                let (bundle, heard) = (Arc::clone(&bundle), Arc::clone(&heard));
                tokio::spawn(async move {
                    if let Err(error) = agent(token, bundle, heard).await {
                        eprintln!("the agent of fleet-{node} has ended: {error:#}");
                    }
                })
            })
            .collect();
        until(&heard, || heard.listed.load(Ordering::Relaxed) == nodes, "all agents have listed").await?;
        let listed = started.elapsed();

        let mut edits = Vec::new();
        for number in 1..=EDITS {
            let next = self.generation().await? + 1;
            heard.pods.store(0, Ordering::Relaxed);
            heard.generation.store(next, Ordering::Relaxed);
            let edited = Instant::now();
            ensure!(self.edit(number + pods).await? == next, "the profile was edited by somebody else");
            until(&heard, || heard.pods.load(Ordering::Relaxed) == pods, "all agents have the edit").await?;
            edits.push(edited.elapsed());
        }
        edits.sort_unstable();
        let calls = self.calls().await? - before;
        let (rss, cpu) = operator.used()?;
        println!(
            "{pods:>8} {nodes:>7} {:>9.1} {:>9.2} {:>12.2} {:>12.2} {:>12.2} {rss:>9} {cpu:>9.1} {calls:>10}",
            made.as_secs_f64(),
            synced.as_secs_f64(),
            listed.as_secs_f64(),
            edits.get(EDITS / 2).map_or(0.0, Duration::as_secs_f64),
            edits.last().map_or(0.0, Duration::as_secs_f64),
        );
        agents.iter().for_each(tokio::task::JoinHandle::abort);
        operator.end()
    }

    /// The agent's token on a node, as the kubelet would ask for it.
    async fn token(&self, node: usize) -> Result<(usize, String)> {
        let name = format!("agent-{node}");
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM);
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            uid: pods.get(&name).await?.uid(),
            name: Some(name),
        };
        let spec = TokenRequestSpec {
            audiences: vec![AUDIENCE.to_owned()],
            bound_object_ref: Some(bound),
            expiration_seconds: Some(3600),
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), SYSTEM);
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let made = accounts.create_token_request("podmeta-agent", &PostParams::default(), &request).await?;
        Ok((node, made.status.context("no token was made")?.token))
    }

    /// Edits the one profile of all pods, and returns its generation.
    async fn edit(&self, number: usize) -> Result<u64> {
        let profile = json!({
            "apiVersion": podmeta_crds::crd::API_VERSION, "kind": "MetadataProfile", "metadata": {"name": "all", "namespace": SHOP},
            "spec": {
                "dialects": ["ec2", "ecs"],
                "tags": {"labels": ["app"]},
                "metadata": [
                    {"dialect": "ec2", "path": "edit", "value": number.to_string()},
                    {"dialect": "ec2", "path": "team", "expression": "pod.metadata.labels['app'] + '-' + pod.metadata.namespace"},
                ],
            },
        });
        let profiles: Api<MetadataProfile> = Api::namespaced(self.client.clone(), SHOP);
        let edited = profiles.patch("all", &PatchParams::apply("fleet").force(), &Patch::Apply(&profile)).await?;
        Ok(u64::try_from(edited.metadata.generation.unwrap_or_default())?)
    }

    async fn generation(&self) -> Result<u64> {
        let profiles: Api<MetadataProfile> = Api::namespaced(self.client.clone(), SHOP);
        Ok(u64::try_from(profiles.get("all").await?.metadata.generation.unwrap_or_default())?)
    }

    /// How many requests the API server has answered, but for this program's own edits and readings, a few dozen.
    async fn calls(&self) -> Result<u64> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = self.client.request_text(request).await?;
        let lines = text.lines().filter(|line| line.starts_with("apiserver_request_total{"));
        Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() as u64)
    }
}

/// An agent: lists, then watches, and says what it hears.
async fn agent(token: String, bundle: Arc<String>, heard: Arc<Heard>) -> Result<()> {
    let http = connections(bundle.as_bytes(), &format!("podmeta-operator.{SYSTEM}.svc")).map_err(anyhow::Error::msg)?;
    let list: WorkloadList = serde_json::from_slice(&get(&http, &token, WORKLOADS).await?.collect().await?.to_bytes())?;
    heard.listed.fetch_add(1, Ordering::Relaxed);
    heard.changed.notify_waiters();
    let mut body =
        get(&http, &token, &format!("{WORKLOADS}?watch=1&resourceVersion={}", list.resource_version)).await?;
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        rest.extend_from_slice(&data);
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
        let lines: Vec<u8> = rest.drain(..=end).collect();
        for event in serde_json::Deserializer::from_slice(&lines).into_iter::<WatchEvent>() {
            if let WatchChange::Added { object } | WatchChange::Modified { object } = event?.change
                && let Outcome::Served(workload) = object.outcome
                && let Some(profile) = workload.profile
                && u64::try_from(profile.generation) == Ok(heard.generation.load(Ordering::Relaxed))
            {
                heard.pods.fetch_add(1, Ordering::Relaxed);
            }
        }
        heard.changed.notify_waiters();
    }
    bail!("the operator ended the stream")
}

async fn get(http: &Connections, token: &str, path: &str) -> Result<hyper::body::Incoming> {
    loop {
        let request = http::Request::get(format!("https://{OPERATOR}{path}"))
            .header("authorization", format!("Bearer {token}"))
            .body(Full::default())?;
        match http.request(request).await {
            Ok(answer) if answer.status().is_success() => return Ok(answer.into_body()),
            Ok(answer) => ensure!(answer.status() == 503, "the operator answers {}", answer.status()),
            // Thousands come at once here, and not all of them are let in at first.
            Err(error) => ensure!(error.is_connect(), "{error}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Waits for what agents hear.
async fn until(heard: &Heard, so: impl Fn() -> bool, what: &str) -> Result<()> {
    let waiting = async {
        while !so() {
            // Not every change is worth a look.
            drop(tokio::time::timeout(Duration::from_millis(5), heard.changed.notified()).await);
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(120), waiting).await;
    waited.with_context(|| format!("not after 120 s: {what}; {} pods are told of", heard.pods.load(Ordering::Relaxed)))
}

/// The operator, as a process.
struct Operator(Child);

impl Operator {
    fn start(kubeconfig: &str) -> Result<Self> {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/podmeta-operator");
        let child = Command::new(program)
            .env("KUBECONFIG", kubeconfig)
            .args(["--listen", OPERATOR, "--admin-listen", ADMIN, "--namespace", SYSTEM, "--identity", "fleet"])
            .args(["--address", "127.0.0.1", "--log", "warn"])
            .spawn();
        child
            .map(Self)
            .with_context(|| format!("cannot run {program}: cargo build --release --package podmeta-operator"))
    }

    async fn ready(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(300);
        while Instant::now() < end {
            if let Some(status) = self.0.try_wait()? {
                bail!("the operator has ended: {status}");
            }
            let asked = tokio::process::Command::new("curl")
                .args(["-sf", "--max-time", "1", &format!("http://{ADMIN}/readyz")])
                .stdout(Stdio::null())
                .status();
            if asked.await?.success() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the operator is not ready after 300 s")
    }

    /// Resident MiB, and seconds of processor time.
    fn used(&self) -> Result<(u64, f64)> {
        let folder = format!("/proc/{}", self.0.id());
        let status = std::fs::read_to_string(format!("{folder}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("no size")?.parse()?;
        let stat = std::fs::read_to_string(format!("{folder}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").context("no name")?.1.split(' ').collect();
        let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("no time")?.parse::<f64>()?) };
        Ok((kib / 1024, (ticks(11)? + ticks(12)?) / 100.0))
    }

    fn end(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop).context("the operator does not end")
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        drop(self.0.kill());
    }
}

fn pod(name: &str, node: usize, account: &str) -> Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": format!("app-{}", node % 50), "team": "shop"}},
        "spec": {
            "nodeName": format!("fleet-{node}"), "serviceAccountName": account,
            "containers": [{"name": "app", "image": "registry.example/app:1.0", "resources": {"requests": {"cpu": "10m"}}}],
        },
    }))?)
}

/// Whether it is there now, whoever made it.
fn made<T>(result: Result<T, kube::Error>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}
