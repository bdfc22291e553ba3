//! Measures the operator with many pods and agents: time to synchronize, time until all agents have an edit, memory, CPU
//! time and API server requests. Run it with `make fleet`.
//!
//! The API server is real. The cluster's controllers are stopped, so that only the operator works on the pods. Pods and
//! nodes are objects without a kubelet. An agent is a task that lists and watches with its own connection and a real token
//! of a pod on its node.

mod agents;
mod objects;
mod operator;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use podmeta_cluster::layout::{ClusterName, MachineName};
use podmeta_cluster::machine::RunningMachine;

use agents::AgentProgress;
use operator::OperatorProcess;

const SYSTEM_NAMESPACE: &str = "podmeta-system";
/// Maximum number of concurrent API server requests.
const MAX_CONCURRENT_REQUESTS: usize = 48;
const PODS_PER_NODE: usize = 30;
/// Number of profile edits at each size.
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

impl FleetBench {
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
                    if let Err(error) = agents::run(token, bundle, progress).await {
                        eprintln!("agent of node fleet-{node} ended: {error:#}");
                    }
                })
            })
            .collect();
        progress.wait_for(|| progress.listed.load(Ordering::Relaxed) == nodes, "all agents have listed").await?;
        let listed = started.elapsed();

        let mut edits = Vec::new();
        for number in 1..=EDITS {
            let next = self.generation().await? + 1;
            progress.pods.store(0, Ordering::Relaxed);
            progress.generation.store(next, Ordering::Relaxed);
            let edited = Instant::now();
            ensure!(self.edit_profile(number + pods).await? == next, "another client edited the profile");
            progress.wait_for(|| progress.pods.load(Ordering::Relaxed) == pods, "all agents have the edit").await?;
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
}
