//! What the tests of a cluster are written with.

mod cluster;
mod dump;
mod machine;
mod namespace;
mod podmeta;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;
use k8s_openapi::api::core::v1::Namespace as CoreNamespace;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;
use tokio::sync::RwLock;

pub(crate) use cluster::Cluster;
pub(crate) use namespace::{Namespace, Ran, addresses};
pub(crate) use podmeta::{AGENT, Podmeta, condition};

/// Tests run beside one another, but for those that disturb what the others stand on.
static DISTURBANCE: RwLock<()> = RwLock::const_new(());

/// Runs a test in a namespace of its own. If it fails, what is in the namespace is written down before it goes.
pub(crate) async fn test(body: impl AsyncFnOnce(&Cluster, &Namespace) -> Result<()>) -> Result<()> {
    let _beside = DISTURBANCE.read().await;
    run(body).await
}

/// The same for a test that disturbs others: no other runs meanwhile.
pub(crate) async fn disturbing_test(body: impl AsyncFnOnce(&Cluster, &Namespace) -> Result<()>) -> Result<()> {
    let _alone = DISTURBANCE.write().await;
    run(body).await
}

/// The same for a test of podmeta, which is installed once for all of them.
pub(crate) async fn podmeta_test(body: impl AsyncFnOnce(&Podmeta, &Namespace) -> Result<()>) -> Result<()> {
    test(async |cluster, namespace| body(&Podmeta::install(cluster).await?, namespace).await).await
}

/// The same for a test that takes away what others stand on.
pub(crate) async fn disturbing_podmeta_test(body: impl AsyncFnOnce(&Podmeta, &Namespace) -> Result<()>) -> Result<()> {
    disturbing_test(async |cluster, namespace| body(&Podmeta::install(cluster).await?, namespace).await).await
}

/// Asks until it is so, for something that no watch tells.
pub(crate) async fn within<T>(patience: Duration, what: &str, so: impl AsyncFn() -> Result<T>) -> Result<T> {
    let end = Instant::now() + patience;
    loop {
        let why = match so().await {
            Ok(so) => return Ok(so),
            Err(why) => why,
        };
        if Instant::now() > end {
            return Err(why.context(format!("not after {} s: {what}", patience.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn run(body: impl AsyncFnOnce(&Cluster, &Namespace) -> Result<()>) -> Result<()> {
    let (cluster, namespace) = set_up().await.context("the test cannot begin")?;
    let outcome = AssertUnwindSafe(body(&cluster, &namespace)).catch_unwind().await;
    if !matches!(outcome, Ok(Ok(()))) {
        dump::write(&namespace).await;
    }
    let all = Api::<CoreNamespace>::all(cluster.client.clone());
    let deleted = all.delete(&namespace.name, &DeleteParams::background()).await;
    outcome.unwrap_or_else(|panic| resume_unwind(panic))?;
    deleted.context("the namespace cannot be deleted").map(drop)
}

async fn set_up() -> Result<(Cluster, Namespace)> {
    let cluster = Cluster::connect().await?;
    let thread = std::thread::current();
    let test = thread.name().and_then(|name| name.rsplit("::").next()).unwrap_or("test").replace('_', "-");
    let prefix: String = test.chars().take(40).collect();
    let wanted = json!({"metadata": {
        "generateName": format!("{}-", prefix.trim_end_matches('-')), "labels": {"podmeta.test/suite": "podmeta"},
    }});
    let all = Api::<CoreNamespace>::all(cluster.client.clone());
    let made = all
        .create(&PostParams::default(), &serde_json::from_value(wanted)?)
        .await
        .context("cannot make a namespace")?;
    let namespace = Namespace { client: cluster.client.clone(), name: made.metadata.name.context("it has no name")? };
    Ok((cluster, namespace))
}
