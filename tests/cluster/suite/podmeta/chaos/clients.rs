//! Clients: pods that run during all faults, and short-lived pods that get the addresses of earlier ones.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::runtime::conditions::is_pod_running;
use serde_json::Value;

use super::super::load::{CheckCounts, Load, LoadEnd, TokenUse, checking_pod};
use crate::kit::{Podmeta, TestNamespace, eventually, pod_addresses};

/// Addresses of each family for the new pods of a node, including pods that are being removed.
pub(super) const POD_ADDRESSES_PER_NODE: u32 = 8;

/// Maximum time from the end of the faults to the last failure of a client.
pub(super) const RECOVERY_LIMIT_SECONDS: u16 = 60;

/// Time without a failure after which a client has recovered. Longer than the timeout of a request.
const QUIET_SECONDS: u16 = 12;

/// Requests on each connection, for each process of a client: two processes open a connection for each request, and one has
/// persistent connections.
const REQUESTS_OF_CONNECTIONS: &[u16] = &[1, 1, 1000];

/// A client of a node.
struct Client {
    load: Load,
    is_on_host_network: bool,
}

/// The clients of a node. The tokens of the second one must outlive the faults. The third one gets its responses by the redirection.
const CLIENTS: [Client; 3] = [
    Client { load: load(TokenUse::Connection), is_on_host_network: false },
    Client { load: load(TokenUse::Kept), is_on_host_network: false },
    Client { load: load(TokenUse::Connection), is_on_host_network: true },
];

/// The load of a short-lived pod.
const SHORT_LOAD: Load =
    Load { end: LoadEnd::Seconds(3), pause: 10, requests_of_connections: &[1, 20], tokens: TokenUse::Connection };

/// Short-lived pods of a node at a time.
const SHORT_LIVED_PODS: usize = 2;

/// Exit code of a process that SIGKILL ended.
const KILLED: i32 = 137;

/// Timeout of one step of a short-lived pod. The faults delay it.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

const fn load(tokens: TokenUse) -> Load {
    let end = LoadEnd::Recovery { quiet: QUIET_SECONDS, limit: RECOVERY_LIMIT_SECONDS };
    Load { end, pause: 20, requests_of_connections: REQUESTS_OF_CONNECTIONS, tokens }
}

/// The pods that run during all faults.
pub(super) struct Clients<'n> {
    namespace: &'n TestNamespace,
    pods: Vec<String>,
}

impl<'n> Clients<'n> {
    /// Starts the clients of all nodes.
    pub(super) async fn start(podmeta: &Podmeta, namespace: &'n TestNamespace) -> Result<Self> {
        namespace.wait_for_service_account().await?;
        let mut pods = Vec::new();
        for node in podmeta.cluster.node_names() {
            for (number, client) in CLIENTS.iter().enumerate() {
                let name = format!("{node}-{number}");
                let mut pod = checking_pod(&name, "web", node, &client.load.command());
                let spec = pod.get_mut("spec").and_then(Value::as_object_mut).context("the pod has no spec")?;
                spec.insert("hostNetwork".to_owned(), client.is_on_host_network.into());
                namespace.apply(&pod.to_string()).await?;
                pods.push(name);
            }
        }
        for pod in &pods {
            namespace.wait_for::<Pod>(pod, "the pod runs", is_pod_running()).await?;
        }
        Ok(Self { namespace, pods })
    }

    /// Lets the clients end as soon as they have recovered. Skips those that have ended.
    pub(super) async fn stop(&self) -> Result<()> {
        let stop = async |pod: &String| {
            eventually(STEP_TIMEOUT, "the client is stopped", async || {
                if has_ended(&self.namespace.api::<Pod>().get(pod).await?) {
                    return Ok(());
                }
                self.namespace.run(pod, &["touch", "/stop"]).await.map(drop)
            })
            .await
        };
        try_join_all(self.pods.iter().map(stop)).await.map(drop)
    }

    /// Waits until all clients have ended. Returns their results. A client that the kubelet killed has none: a container
    /// runtime that was killed can report a running sandbox as stopped, and the kubelet then ends its pod.
    ///
    /// # Errors
    /// If another client has no result, or all clients of a node, or one client on all nodes.
    pub(super) async fn results(&self) -> Result<ClientResults> {
        let results = join_all(self.pods.iter().map(|pod| result_of_pod(self.namespace, pod))).await;
        for (pod, result) in self.pods.iter().zip(&results) {
            if let Err(error) = result {
                let exit_code = exit_code(&self.namespace.api::<Pod>().get(pod).await?);
                ensure!(exit_code == Some(KILLED), "client {pod} ended with the code {exit_code:?}: {error:#}");
            }
        }
        for number in 0..CLIENTS.len() {
            let mut of_nodes = results.iter().skip(number).step_by(CLIENTS.len());
            ensure!(of_nodes.any(Result::is_ok), "client {number} has a result on no node: {results:?}");
        }
        let (mut counts, mut without_result) = (Vec::new(), Vec::new());
        for (of_node, pods) in results.chunks(CLIENTS.len()).zip(self.pods.chunks(CLIENTS.len())) {
            ensure!(of_node.iter().any(Result::is_ok), "no client of a node has a result: {pods:?}: {of_node:?}");
            counts.extend(of_node.iter().flatten().map(|pod| pod.counts.clone()));
            without_result
                .extend(of_node.iter().filter_map(|pod| pod.as_ref().err()).map(|error| format!("{error:#}")));
        }
        Ok(ClientResults { counts: CheckCounts::sum(counts), without_result })
    }
}

/// The results of the pods that ran during all faults.
#[derive(Debug, Default)]
pub(super) struct ClientResults {
    pub(super) counts: CheckCounts,
    /// Causes of missing results.
    pub(super) without_result: Vec<String>,
}

/// Returns the exit code of a pod's container, or `None` if it runs.
fn exit_code(pod: &Pod) -> Option<i32> {
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    Some(container.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    ["Succeeded", "Failed"].contains(&phase)
}

/// The result of a pod that has ended.
#[derive(Debug)]
struct PodResult {
    counts: CheckCounts,
    /// `None` if a fault removed the pod's sandbox before the kubelet reported the address.
    ipv4: Option<String>,
}

/// Waits until a pod has ended. Returns its result.
async fn result_of_pod(namespace: &TestNamespace, name: &str) -> Result<PodResult> {
    let timeout = STEP_TIMEOUT + Duration::from_secs(RECOVERY_LIMIT_SECONDS.into());
    let pod = eventually(timeout, "the pod has ended", async || {
        let pod = namespace.api::<Pod>().get(name).await?;
        ensure!(has_ended(&pod), "pod {name} has not ended: {:?}", pod.status);
        Ok(pod)
    })
    .await?;
    let log = async || CheckCounts::parse(&namespace.logs(name, "client").await?);
    let counts = eventually(STEP_TIMEOUT, "the pod has printed its result", log);
    let counts = counts.await.with_context(|| format!("pod {name}"))?;
    Ok(PodResult { counts, ipv4: pod_addresses(&pod).ok().map(|(ipv4, _)| ipv4) })
}

/// The results of the short-lived pods.
#[derive(Debug, Default)]
pub(super) struct ChurnResults {
    /// Pods with a result.
    pub(super) pods: u64,
    /// Their IPv4 addresses.
    pub(super) addresses: BTreeSet<String>,
    /// Their results.
    pub(super) counts: CheckCounts,
    /// Causes of missing results of other pods: faults can keep a pod from starting, or delete its log.
    pub(super) without_result: Vec<String>,
}

impl ChurnResults {
    fn new(results: Vec<Result<PodResult>>) -> Self {
        let mut all = Self::default();
        let mut counts = Vec::new();
        for result in results {
            match result {
                Ok(pod) => {
                    all.pods += 1;
                    all.addresses.extend(pod.ipv4);
                    counts.push(pod.counts);
                }
                Err(error) => all.without_result.push(format!("{error:#}")),
            }
        }
        all.counts = CheckCounts::sum(counts);
        all
    }
}

/// Starts a short-lived pod, waits until it has ended, and deletes it.
async fn run_short_pod(namespace: &TestNamespace, node: &str, name: &str) -> Result<PodResult> {
    let pod = checking_pod(name, "web", node, &SHORT_LOAD.command()).to_string();
    let created = eventually(STEP_TIMEOUT, "the pod is created", async || namespace.apply(&pod).await).await;
    let result = match created {
        Ok(()) => result_of_pod(namespace, name).await,
        Err(error) => Err(error),
    };
    eventually(STEP_TIMEOUT, "the pod is deleted", async || {
        match namespace.api::<Pod>().delete(name, &DeleteParams::default().grace_period(0)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            deleted => Ok(deleted.map(drop)?),
        }
    })
    .await?;
    result
}

/// Runs short-lived pods on all nodes while `body` runs. Returns what `body` returns, and the results of the pods.
pub(super) async fn churn<T>(
    namespace: &TestNamespace,
    nodes: &[String],
    body: impl AsyncFnOnce() -> T,
) -> (T, ChurnResults) {
    let has_ended = Cell::new(false);
    let slots = nodes.iter().flat_map(|node| (0..SHORT_LIVED_PODS).map(move |slot| (node, slot)));
    let pods = join_all(slots.map(async |(node, slot)| {
        let mut results = Vec::new();
        while !has_ended.get() {
            let name = format!("short-{node}-{slot}-{}", results.len());
            results.push(run_short_pod(namespace, node, &name).await);
        }
        results
    }));
    let body = async {
        let result = body().await;
        has_ended.set(true);
        result
    };
    let (result, results) = tokio::join!(body, pods);
    (result, ChurnResults::new(results.into_iter().flatten().collect()))
}

/// Runs one new pod on each node. Returns their results.
pub(super) async fn run_new_pods(namespace: &TestNamespace, nodes: &[String]) -> Result<CheckCounts> {
    let run = async |node: &String| run_short_pod(namespace, node, &format!("new-{node}")).await;
    let results = try_join_all(nodes.iter().map(run)).await.context("a new pod failed after the faults")?;
    Ok(CheckCounts::sum(results.into_iter().map(|pod| pod.counts)))
}
