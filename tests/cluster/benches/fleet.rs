//! Measures the operator with many pods and agents: time to synchronize, time until all agents have an edit, memory, CPU
//! time and API server requests. Run it with `make fleet`.
//!
//! The API server is real. The cluster's controllers are stopped, so that only the operator works on the pods. Pods and
//! nodes are objects without a kubelet. An agent is a task that lists and watches with its own connection and a real token
//! of a pod on its node.

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
use podmeta_cluster::layout::{ClusterName, MachineName};
use podmeta_cluster::machine::RunningMachine;
use podmeta_crds::metadataprofile::MetadataProfile;
use podmeta_metadata::compile::Outcome;
use podmeta_node_agent::serve::client::{Connections, connections};
use serde_json::json;
use tokio::sync::Notify;

const PODS_PER_NODE: usize = 30;
const SYSTEM_NAMESPACE: &str = "podmeta-system";
/// Namespace of the pods.
const POD_NAMESPACE: &str = "shop";
const OPERATOR_ADDRESS: &str = "127.0.0.1:19443";
const ADMIN_ADDRESS: &str = "127.0.0.1:19080";
/// Maximum number of concurrent API server requests.
const MAX_CONCURRENT_REQUESTS: usize = 48;
/// Number of profile edits at each size.
const EDITS: usize = 5;
/// Timeout until all agents have an update.
const AGENTS_TIMEOUT: Duration = Duration::from_secs(120);
/// Timeout until the operator is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(300);

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
    ensure!(up.success(), "cannot create the cluster");
    let control_plane =
        RunningMachine::find(&name, MachineName::ControlPlane)?.context("the control plane does not run")?;
    for controller in ["kube-controller-manager", "kube-scheduler"] {
        control_plane.kill_service(controller)?;
    }
    let kubeconfig = name.state_dir().join("kubeconfig");
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(&kubeconfig)?, &options).await?;
    let client = Client::try_from(config)?;
    let bench = FleetBench { client, kubeconfig: kubeconfig.display().to_string() };
    bench.prepare().await?;
    println!(
        "{:>8} {:>7} {:>9} {:>9} {:>12} {:>12} {:>12} {:>9} {:>9} {:>10}",
        "pods", "agents", "create s", "sync s", "list s", "edit p50 s", "edit max s", "RSS MiB", "CPU s", "API reqs"
    );
    let mut existing = 0;
    for size in sizes {
        let started = Instant::now();
        bench.grow(existing, *size).await?;
        existing = (*size).max(existing);
        bench.measure(existing, started.elapsed()).await?;
    }
    let down = Command::new(cluster).args(["down", "--name", "fleet"]).stdout(Stdio::null()).status()?;
    ensure!(down.success(), "cannot delete the cluster");
    Ok(())
}

/// The cluster that the benchmark runs on.
struct FleetBench {
    client: Client,
    kubeconfig: String,
}

/// Progress of all agents.
#[derive(Default)]
struct AgentProgress {
    /// Number of agents that have listed.
    listed: AtomicUsize,
    /// Number of pods received with the expected generation.
    pods: AtomicUsize,
    /// The expected generation of the profile.
    generation: AtomicU64,
    changed: Notify,
}

impl FleetBench {
    /// Creates the CRDs, namespaces, ServiceAccounts and the profile.
    async fn prepare(&self) -> Result<()> {
        let apply = PatchParams::apply("fleet").force();
        for generated in podmeta_crds::crd::generate()? {
            let resource = ApiResource::erase::<CustomResourceDefinition>(&());
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
            let definition = generated.definition;
            let name = definition.name_any();
            api.patch(&name, &apply, &Patch::Apply(&definition)).await?;
            let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
            await_condition(definitions, &name, conditions::is_crd_established()).await?;
        }
        for (namespace, account) in [(SYSTEM_NAMESPACE, "podmeta-agent"), (POD_NAMESPACE, "default")] {
            let metadata = ObjectMeta { name: Some(namespace.to_owned()), ..ObjectMeta::default() };
            let namespaces: Api<Namespace> = Api::all(self.client.clone());
            created(namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await)?;
            let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
            let metadata = ObjectMeta { name: Some(account.to_owned()), ..ObjectMeta::default() };
            created(
                accounts
                    .create(&PostParams::default(), &ServiceAccount { metadata, ..ServiceAccount::default() })
                    .await,
            )?;
        }
        self.edit(0).await.map(drop)
    }

    /// Creates pods, and their nodes, until there are `pods`.
    async fn grow(&self, existing: usize, pods: usize) -> Result<()> {
        let (params, api): (PostParams, Api<Pod>) =
            (PostParams::default(), Api::namespaced(self.client.clone(), POD_NAMESPACE));
        let nodes: Api<Node> = Api::all(self.client.clone());
        let agents: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let create_node = async |number: usize| -> Result<()> {
            let labels =
                json!({"topology.kubernetes.io/region": "eu-west-1", "topology.kubernetes.io/zone": "eu-west-1a"});
            let node = json!({"metadata": {"name": format!("fleet-{number}"), "labels": labels}});
            created(nodes.create(&params, &serde_json::from_value(node)?).await)?;
            created(agents.create(&params, &pod(&format!("agent-{number}"), number, "podmeta-agent")?).await)
        };
        let create_pod = async |number: usize| -> Result<()> {
            created(api.create(&params, &pod(&format!("pod-{number}"), number / PODS_PER_NODE, "default")?).await)
        };
        let (first, last) = (existing.div_ceil(PODS_PER_NODE), pods.div_ceil(PODS_PER_NODE));
        stream::iter((first..last).map(create_node))
            .buffer_unordered(MAX_CONCURRENT_REQUESTS)
            .try_collect::<()>()
            .await?;
        stream::iter((existing..pods).map(create_pod))
            .buffer_unordered(MAX_CONCURRENT_REQUESTS)
            .try_collect::<()>()
            .await
    }

    /// Starts an operator and all agents, edits the profile, and prints one line of results.
    async fn measure(&self, pods: usize, created: Duration) -> Result<()> {
        let nodes = pods.div_ceil(PODS_PER_NODE);
        let tokens: Vec<(usize, String)> = stream::iter((0..nodes).map(|node| self.token(node)))
            .buffer_unordered(MAX_CONCURRENT_REQUESTS)
            .try_collect()
            .await?;
        let before = self.api_requests().await?;
        let mut operator = OperatorProcess::start(&self.kubeconfig)?;
        let started = Instant::now();
        operator.wait_until_ready().await?;
        let synced = started.elapsed();

        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let bundle = maps.get("podmeta-operator-tls").await?.data.and_then(|mut data| data.remove("ca.crt"));
        let bundle = Arc::new(bundle.context("the operator has not published its CA bundle")?);
        let progress = Arc::new(AgentProgress::default());
        let started = Instant::now();
        let agents: Vec<_> = tokens
            .into_iter()
            .map(|(node, token)| {
                let (bundle, progress) = (Arc::clone(&bundle), Arc::clone(&progress));
                tokio::spawn(async move {
                    if let Err(error) = run_agent(token, bundle, progress).await {
                        eprintln!("agent of node fleet-{node} ended: {error:#}");
                    }
                })
            })
            .collect();
        wait_for(&progress, || progress.listed.load(Ordering::Relaxed) == nodes, "all agents have listed").await?;
        let listed = started.elapsed();

        let mut edits = Vec::new();
        for number in 1..=EDITS {
            let next = self.generation().await? + 1;
            progress.pods.store(0, Ordering::Relaxed);
            progress.generation.store(next, Ordering::Relaxed);
            let edited = Instant::now();
            ensure!(self.edit(number + pods).await? == next, "another client edited the profile");
            wait_for(&progress, || progress.pods.load(Ordering::Relaxed) == pods, "all agents have the edit").await?;
            edits.push(edited.elapsed());
        }
        edits.sort_unstable();
        let requests = self.api_requests().await? - before;
        let (rss, cpu) = operator.usage()?;
        println!(
            "{pods:>8} {nodes:>7} {:>9.1} {:>9.2} {:>12.2} {:>12.2} {:>12.2} {rss:>9} {cpu:>9.1} {requests:>10}",
            created.as_secs_f64(),
            synced.as_secs_f64(),
            listed.as_secs_f64(),
            edits.get(EDITS / 2).map_or(0.0, Duration::as_secs_f64),
            edits.last().map_or(0.0, Duration::as_secs_f64),
        );
        agents.iter().for_each(tokio::task::JoinHandle::abort);
        operator.stop()
    }

    /// Requests the token of a node's agent, as the kubelet does. Returns it with the node's number.
    async fn token(&self, node: usize) -> Result<(usize, String)> {
        let name = format!("agent-{node}");
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let bound_object_ref = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            uid: pods.get(&name).await?.uid(),
            name: Some(name),
        };
        let spec = TokenRequestSpec {
            audiences: vec![AUDIENCE.to_owned()],
            bound_object_ref: Some(bound_object_ref),
            expiration_seconds: Some(3600),
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let response = accounts.create_token_request("podmeta-agent", &PostParams::default(), &request).await?;
        Ok((node, response.status.context("no token was issued")?.token))
    }

    /// Edits the profile that selects all pods, and returns its generation.
    async fn edit(&self, number: usize) -> Result<u64> {
        let profile = json!({
            "apiVersion": podmeta_crds::crd::API_VERSION, "kind": "MetadataProfile", "metadata": {"name": "all", "namespace": POD_NAMESPACE},
            "spec": {
                "dialects": ["ec2", "ecs"],
                "tags": {"labels": ["app"]},
                "metadata": [
                    {"dialect": "ec2", "path": "edit", "value": number.to_string()},
                    {"dialect": "ec2", "path": "team", "expression": "pod.metadata.labels['app'] + '-' + pod.metadata.namespace"},
                ],
            },
        });
        let profiles: Api<MetadataProfile> = Api::namespaced(self.client.clone(), POD_NAMESPACE);
        let edited = profiles.patch("all", &PatchParams::apply("fleet").force(), &Patch::Apply(&profile)).await?;
        Ok(u64::try_from(edited.metadata.generation.unwrap_or_default())?)
    }

    async fn generation(&self) -> Result<u64> {
        let profiles: Api<MetadataProfile> = Api::namespaced(self.client.clone(), POD_NAMESPACE);
        Ok(u64::try_from(profiles.get("all").await?.metadata.generation.unwrap_or_default())?)
    }

    /// Returns the number of requests that the API server has handled. It includes a few dozen of this program.
    async fn api_requests(&self) -> Result<u64> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = self.client.request_text(request).await?;
        let lines = text.lines().filter(|line| line.starts_with("apiserver_request_total{"));
        Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() as u64)
    }
}

/// Lists and watches workloads like a node agent, and records the progress.
async fn run_agent(token: String, bundle: Arc<String>, progress: Arc<AgentProgress>) -> Result<()> {
    let http = connections(bundle.as_bytes(), &format!("podmeta-operator.{SYSTEM_NAMESPACE}.svc"))
        .map_err(anyhow::Error::msg)?;
    let list: WorkloadList = serde_json::from_slice(&get(&http, &token, WORKLOADS).await?.collect().await?.to_bytes())?;
    progress.listed.fetch_add(1, Ordering::Relaxed);
    progress.changed.notify_waiters();
    let mut body =
        get(&http, &token, &format!("{WORKLOADS}?watch=1&resourceVersion={}", list.resource_version)).await?;
    let mut buffer = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        buffer.extend_from_slice(&data);
        let Some(end) = buffer.iter().rposition(|byte| *byte == b'\n') else { continue };
        let lines: Vec<u8> = buffer.drain(..=end).collect();
        for event in serde_json::Deserializer::from_slice(&lines).into_iter::<WatchEvent>() {
            if let WatchChange::Added { object } | WatchChange::Modified { object } = event?.change
                && let Outcome::Served(workload) = object.outcome
                && let Some(profile) = workload.profile
                && u64::try_from(profile.generation) == Ok(progress.generation.load(Ordering::Relaxed))
            {
                progress.pods.fetch_add(1, Ordering::Relaxed);
            }
        }
        progress.changed.notify_waiters();
    }
    bail!("the operator ended the watch")
}

/// Sends a GET request. Retries after one second if the operator is overloaded.
async fn get(http: &Connections, token: &str, path: &str) -> Result<hyper::body::Incoming> {
    loop {
        let request = http::Request::get(format!("https://{OPERATOR_ADDRESS}{path}"))
            .header("authorization", format!("Bearer {token}"))
            .body(Full::default())?;
        match http.request(request).await {
            Ok(response) if response.status().is_success() => return Ok(response.into_body()),
            Ok(response) => ensure!(response.status() == 503, "the operator returns {}", response.status()),
            // All agents connect at the same time, so the operator closes some connections.
            Err(error) => ensure!(error.is_connect(), "{error}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Waits until the agents' progress meets a condition.
async fn wait_for(progress: &AgentProgress, condition: impl Fn() -> bool, expectation: &str) -> Result<()> {
    let wait = async {
        while !condition() {
            // A notification can be missed, so check again after 5 ms.
            drop(tokio::time::timeout(Duration::from_millis(5), progress.changed.notified()).await);
        }
    };
    let waited = tokio::time::timeout(AGENTS_TIMEOUT, wait).await;
    waited.with_context(|| {
        let (timeout, pods) = (AGENTS_TIMEOUT.as_secs(), progress.pods.load(Ordering::Relaxed));
        format!("timeout after {timeout} s, expected: {expectation}; {pods} pods have the expected generation")
    })
}

/// An operator process. It is killed when dropped.
struct OperatorProcess(Child);

impl OperatorProcess {
    fn start(kubeconfig: &str) -> Result<Self> {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/podmeta-operator");
        let child = Command::new(program)
            .env("KUBECONFIG", kubeconfig)
            .args([
                "--listen",
                OPERATOR_ADDRESS,
                "--admin-listen",
                ADMIN_ADDRESS,
                "--namespace",
                SYSTEM_NAMESPACE,
                "--identity",
                "fleet",
            ])
            .args(["--address", "127.0.0.1", "--log", "warn"])
            .spawn();
        child
            .map(Self)
            .with_context(|| format!("cannot run {program}: cargo build --release --package podmeta-operator"))
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                bail!("the operator exited: {status}");
            }
            let request = tokio::process::Command::new("curl")
                .args(["-sf", "--max-time", "1", &format!("http://{ADMIN_ADDRESS}/readyz")])
                .stdout(Stdio::null())
                .status();
            if request.await?.success() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the operator is not ready after {} s", READY_TIMEOUT.as_secs())
    }

    /// Returns resident memory in MiB and CPU time in seconds.
    fn usage(&self) -> Result<(u64, f64)> {
        let dir = format!("/proc/{}", self.0.id());
        let status = std::fs::read_to_string(format!("{dir}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("VmRSS has no value")?.parse()?;
        let stat = std::fs::read_to_string(format!("{dir}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").context("stat has no program name")?.1.split(' ').collect();
        let ticks =
            |index: usize| -> Result<f64> { Ok(fields.get(index).context("stat has no CPU time")?.parse::<f64>()?) };
        Ok((kib / 1024, (ticks(11)? + ticks(12)?) / 100.0))
    }

    fn stop(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop).context("cannot wait for the operator")
    }
}

impl Drop for OperatorProcess {
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

/// Accepts the result of a create request, also if the object exists.
fn created<T>(result: Result<T, kube::Error>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}
