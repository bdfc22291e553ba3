//! Agents: tasks that list and watch workloads like a node agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http_body_util::{BodyExt as _, Full};
use podmeta_agent_api::{WORKLOADS, WatchChange, WatchEvent, WorkloadList};
use podmeta_metadata::compile::Outcome;
use podmeta_node_agent::operator_client::{OperatorHttpsClient, https_client};
use tokio::sync::Notify;

use super::SYSTEM_NAMESPACE;
use super::operator::OPERATOR_ADDRESS;

/// Timeout until all agents have an update.
const AGENTS_TIMEOUT: Duration = Duration::from_secs(120);

/// Progress of all agents.
#[derive(Default)]
pub(super) struct AgentProgress {
    /// Number of agents that have listed.
    pub(super) listed: AtomicUsize,
    /// Number of pods received with the expected generation.
    pub(super) pods: AtomicUsize,
    /// The expected generation of the profile.
    pub(super) generation: AtomicU64,
    changed: Notify,
}

impl AgentProgress {
    /// Waits until the progress meets a condition.
    pub(super) async fn wait_for(&self, condition: impl Fn() -> bool, expectation: &str) -> Result<()> {
        let wait = async {
            while !condition() {
                // A notification can be missed, so check again after 5 ms.
                drop(tokio::time::timeout(Duration::from_millis(5), self.changed.notified()).await);
            }
        };
        let waited = tokio::time::timeout(AGENTS_TIMEOUT, wait).await;
        waited.with_context(|| {
            let (timeout, pods) = (AGENTS_TIMEOUT.as_secs(), self.pods.load(Ordering::Relaxed));
            format!("timeout after {timeout} s, expected: {expectation}; {pods} pods have the expected generation")
        })
    }
}

/// Lists and watches workloads like a node agent, and records the progress.
pub(super) async fn run(token: String, bundle: Arc<String>, progress: Arc<AgentProgress>) -> Result<()> {
    let http = https_client(bundle.as_bytes(), &format!("podmeta-operator.{SYSTEM_NAMESPACE}.svc"))
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
async fn get(http: &OperatorHttpsClient, token: &str, path: &str) -> Result<hyper::body::Incoming> {
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
