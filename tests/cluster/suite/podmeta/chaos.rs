//! Chaos: parts of the cluster fail all the time, while pods check that each response has their own identity.
//!
//! A seed determines the faults ([`fault_plan`]). After the last one, all clients must recover.

mod clients;
mod clock;
mod conflists;
mod faults;
mod processes;
mod report;
mod rules;
mod run_directory;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use podmeta_cluster::fault_plan;

use self::clients::{Clients, POD_ADDRESSES_PER_NODE, churn};
use self::faults::{FaultyCluster, FaultyNode};
use self::report::Report;
use super::load::{load_profile, number_of_environment};
use super::node_network::NodeNetwork;
use crate::kit::{self, Podmeta, TestNamespace, eventually};

/// Default duration of the faults in seconds. `PODMETA_CHAOS_SECONDS` sets another one.
const DEFAULT_SECONDS: usize = 120;

/// Default seed, so that each run has the same faults. `PODMETA_CHAOS_SEED` sets another one.
const DEFAULT_SEED: usize = 7;

/// Timeout of the steps that restore the cluster after the faults.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(90);

/// Runs the faults while clients of all nodes send requests, and pods start and end on each node.
async fn run(podmeta: &Podmeta, namespace: &TestNamespace, seed: u64, duration: Duration) -> Result<Report> {
    podmeta.upgrade(&["--set", "nodeMetadata.redirectHostNetwork=true"]).await?;
    clock::install(podmeta).await?;
    podmeta.wait_until_ready().await?;
    namespace.apply(&load_profile("web")).await?;
    podmeta.wait_until_programmed(namespace, "web", 0).await?;
    let nodes = podmeta.cluster.node_names().iter().map(|name| podmeta.cluster.node_by_name(name)).collect::<Vec<_>>();
    let networks = try_join_all(nodes.iter().map(NodeNetwork::read)).await?;
    let restricted = try_join_all(networks.iter().map(|network| network.restrict_ranges(POD_ADDRESSES_PER_NODE))).await;
    let result = match restricted {
        Ok(_) => run_with_few_addresses(podmeta, namespace, seed, duration).await,
        Err(error) => Err(error),
    };
    for network in &networks {
        eventually(RESTORE_TIMEOUT, "the network configuration is restored", async || network.restore().await).await?;
    }
    result
}

async fn run_with_few_addresses(
    podmeta: &Podmeta,
    namespace: &TestNamespace,
    seed: u64,
    duration: Duration,
) -> Result<Report> {
    let names = podmeta.cluster.node_names();
    let nodes = names.iter().map(|name| podmeta.cluster.node_by_name(name)).collect::<Vec<_>>();
    let cluster =
        FaultyCluster::new(podmeta, try_join_all(nodes.iter().map(|node| FaultyNode::new(podmeta, node))).await?);
    let stub_requests =
        async || -> Result<u64> { Ok(podmeta.cluster.imds_stub_request_counts().await?.values().sum()) };
    let stub_before = stub_requests().await?;
    let clients = Clients::start(podmeta, namespace).await?;
    let ((faults, stop_delay), churned) = cluster
        .supervise_until(churn(namespace, names, async || {
            let faults = cluster.run(&fault_plan::plan(seed, duration, names.len())).await;
            let ended = Instant::now();
            (faults, clients.stop().await.map(|()| ended.elapsed()))
        }))
        .await;
    // Also if the clients did not recover: later tests need the cluster.
    podmeta.cluster.restart_api_clients().await.context("cannot restore the cluster after the faults")?;
    podmeta.wait_until_ready().await?;
    let new_pods = clients::run_new_pods(namespace, names).await?;
    let report = Report {
        seed,
        duration,
        faults: faults?,
        stop_delay: stop_delay?,
        clients: clients.results().await?,
        churn: churned,
        new_pods,
        stub_requests: stub_requests().await?.saturating_sub(stub_before),
    };
    println!("{report}");
    Ok(report)
}

#[tokio::test]
async fn pods_get_only_their_own_identity_while_parts_of_the_cluster_fail() -> Result<()> {
    let seed = u64::try_from(number_of_environment("PODMETA_CHAOS_SEED", DEFAULT_SEED)?)?;
    let duration = number_of_environment("PODMETA_CHAOS_SECONDS", DEFAULT_SECONDS)?;
    println!("chaos: seed {seed}, faults for {duration} s");
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        // The test changes podmeta's pods. The next installation replaces them.
        Podmeta::with_own_installation(async || {
            let duration = Duration::from_secs(u64::try_from(duration)?);
            run(podmeta, namespace, seed, duration).await?.verdict().with_context(|| format!("seed {seed}"))
        })
        .await
    })
    .await
}
