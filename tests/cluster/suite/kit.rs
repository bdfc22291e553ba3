//! The test kit: runs a test in its own namespace, with functions for clusters, nodes, pods and podmeta.

mod added_node;
mod cluster;
mod control_plane;
mod diagnostics;
mod exec;
mod helm;
mod manifests;
mod namespace;
mod node;
mod podmeta;
mod profile_status;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;
use tokio::sync::RwLock;

pub(crate) use added_node::AddedNode;
pub(crate) use cluster::TestCluster;
pub(crate) use exec::ExecOutput;
pub(crate) use helm::render_chart;
pub(crate) use manifests::{client_pod, pod_addresses, with_spec};
pub(crate) use namespace::TestNamespace;
pub(crate) use node::TestNode;
pub(crate) use podmeta::{
    AGENT_ACCOUNT, AGENT_COMMAND, AGENT_LABEL, CLUSTER_ACCOUNT, CLUSTER_REGION, LINK_COMMAND, OPERATOR_COMMAND,
    OPERATOR_LABEL, Podmeta, QUERY_COMMAND,
};
pub(crate) use profile_status::{find_condition, has_condition};

/// Tests run in parallel (read), except those that disturb others (write).
static EXCLUSIVITY: RwLock<()> = RwLock::const_new(());

/// Runs a test in its own namespace. If the test fails, writes pods, logs and events to files first.
pub(crate) async fn cluster_test(body: impl AsyncFnOnce(&TestCluster, &TestNamespace) -> Result<()>) -> Result<()> {
    let _shared = EXCLUSIVITY.read().await;
    run_in_namespace(body).await
}

/// Runs a test that disturbs others: no other test runs at the same time.
pub(crate) async fn exclusive_cluster_test(
    body: impl AsyncFnOnce(&TestCluster, &TestNamespace) -> Result<()>,
) -> Result<()> {
    let _exclusive = EXCLUSIVITY.write().await;
    run_in_namespace(body).await
}

/// Runs a test of a cluster without podmeta: no other test runs at the same time.
pub(crate) async fn bare_cluster_test(
    body: impl AsyncFnOnce(&TestCluster, &TestNamespace) -> Result<()>,
) -> Result<()> {
    exclusive_cluster_test(async |cluster, namespace| {
        Podmeta::uninstall(cluster).await?;
        body(cluster, namespace).await
    })
    .await
}

/// Runs a test of podmeta, which is installed once for all tests.
pub(crate) async fn podmeta_test(body: impl AsyncFnOnce(&Podmeta, &TestNamespace) -> Result<()>) -> Result<()> {
    cluster_test(async |cluster, namespace| body(&Podmeta::install(cluster).await?, namespace).await).await
}

/// Runs a test of podmeta that disturbs others: no other test runs at the same time.
pub(crate) async fn exclusive_podmeta_test(
    body: impl AsyncFnOnce(&Podmeta, &TestNamespace) -> Result<()>,
) -> Result<()> {
    exclusive_cluster_test(async |cluster, namespace| body(&Podmeta::install(cluster).await?, namespace).await).await
}

/// Polls `check` every 100 ms until it succeeds. After the timeout, returns its last error with the expectation.
pub(crate) async fn eventually<T>(
    timeout: Duration,
    expectation: &str,
    check: impl AsyncFn() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let error = match check().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if Instant::now() > deadline {
            return Err(error.context(format!("timeout after {} s, expected: {expectation}", timeout.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn run_in_namespace(body: impl AsyncFnOnce(&TestCluster, &TestNamespace) -> Result<()>) -> Result<()> {
    let (cluster, namespace) = set_up().await.context("cannot set up the test")?;
    let outcome = AssertUnwindSafe(body(&cluster, &namespace)).catch_unwind().await;
    if !matches!(outcome, Ok(Ok(()))) {
        diagnostics::write(&namespace).await;
    }
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    let deleted = namespaces.delete(&namespace.name, &DeleteParams::background()).await;
    outcome.unwrap_or_else(|panic| resume_unwind(panic))?;
    deleted.context("cannot delete the test namespace").map(drop)
}

async fn set_up() -> Result<(TestCluster, TestNamespace)> {
    let cluster = TestCluster::connect().await?;
    let thread = std::thread::current();
    let test = thread.name().and_then(|name| name.rsplit("::").next()).unwrap_or("test").replace('_', "-");
    let prefix: String = test.chars().take(40).collect();
    let manifest = json!({"metadata": {
        "generateName": format!("{}-", prefix.trim_end_matches('-')), "labels": {"podmeta.test/suite": "podmeta"},
    }});
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    let created = namespaces
        .create(&PostParams::default(), &serde_json::from_value(manifest)?)
        .await
        .context("cannot create the test namespace")?;
    let name = created.metadata.name.context("the test namespace has no name")?;
    let namespace = TestNamespace { client: cluster.client.clone(), name };
    Ok((cluster, namespace))
}
