//! Churn: pods start and end all the time, their addresses are used again, and each pod checks that it gets its own identity.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::runtime::wait::await_condition;

use super::load::{CheckCounts, Load, LoadEnd, TokenUse, checking_pod, load_profile, number_of_environment};
use super::node_network::NodeNetwork;
use crate::kit::{self, TestNamespace, TestNode, pod_addresses};

/// Default number of requests of the long-lived pods together. `PODMETA_CHURN_REQUESTS` sets another one.
const REQUESTS: usize = 200_000;

/// Pods that run during the whole test.
const LONG_LIVED_PODS: usize = 6;

/// Pods at a time that end after a few requests. Each is replaced by a new one.
const SHORT_LIVED_PODS: usize = 6;

/// Load of a short-lived pod: one process with a new connection for each request, and one with persistent connections.
const SHORT_LOAD: Load =
    Load { end: LoadEnd::Requests(100), pause: 0, requests_of_connections: &[1, 20], tokens: TokenUse::Connection };

/// Addresses of each family for the pods of the node, including those that are being removed.
const ADDRESSES: u32 = 20;

/// Minimum number of short-lived pods, so that each address is used several times.
const MIN_SHORT_LIVED_PODS: usize = 60;

/// The counts and the IPv4 address of a pod that ended.
struct EndedPod {
    counts: CheckCounts,
    address: String,
}

/// Starts a pod, waits until it ends, and deletes it.
async fn run_pod(namespace: &TestNamespace, node: &TestNode, name: &str, load: &Load) -> Result<EndedPod> {
    namespace.apply(&checking_pod(name, "web", &node.name, &load.command()).to_string()).await?;
    let phase = |pod: Option<&Pod>| pod.and_then(|pod| pod.status.as_ref()?.phase.clone()).unwrap_or_default();
    let has_ended = |pod: Option<&Pod>| ["Succeeded", "Failed"].contains(&phase(pod).as_str());
    let pod = await_condition(namespace.api::<Pod>(), name, has_ended).await?.context("the pod was deleted")?;
    let printed = namespace.logs(name, "client").await?;
    let counts = CheckCounts::parse(&printed).with_context(|| format!("pod {name}"))?;
    namespace.api::<Pod>().delete(name, &DeleteParams::default().grace_period(0)).await?;
    Ok(EndedPod { counts, address: pod_addresses(&pod)?.0 })
}

/// Runs the long-lived pods, and short-lived ones until the long-lived pods have ended. Runs at least
/// [`MIN_SHORT_LIVED_PODS`]. Returns both kinds.
async fn churn(namespace: &TestNamespace, node: &TestNode, requests: usize) -> Result<(Vec<EndedPod>, Vec<EndedPod>)> {
    let load = Load {
        end: LoadEnd::Requests(requests.div_ceil(2 * LONG_LIVED_PODS)),
        pause: 0,
        requests_of_connections: &[50, 1000],
        tokens: TokenUse::Connection,
    };
    let (has_ended, started) = (Cell::new(false), Cell::new(0));
    let long_lived = async {
        let load = &load;
        let run = async |number| run_pod(namespace, node, &format!("long-{number}"), load).await;
        let ended = try_join_all((0..LONG_LIVED_PODS).map(run)).await;
        has_ended.set(true);
        ended
    };
    let short_lived = try_join_all((0..SHORT_LIVED_PODS).map(async |slot| {
        let mut ended = Vec::new();
        while !has_ended.get() || started.get() < MIN_SHORT_LIVED_PODS {
            started.set(started.get() + 1);
            let name = format!("short-{slot}-{}", ended.len());
            ended.push(run_pod(namespace, node, &name, &SHORT_LOAD).await?);
        }
        anyhow::Ok(ended)
    }));
    let (long_lived, short_lived) = tokio::try_join!(long_lived, short_lived)?;
    Ok((long_lived, short_lived.into_iter().flatten().collect()))
}

#[tokio::test]
async fn pods_whose_addresses_are_used_again_get_only_their_own_identity() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        namespace.wait_for_service_account().await?;
        namespace.apply(&load_profile("web")).await?;
        podmeta.wait_until_programmed(namespace, "web", 0).await?;
        let requests = number_of_environment("PODMETA_CHURN_REQUESTS", REQUESTS)?;
        let node = podmeta.cluster.node("a")?;
        let network = NodeNetwork::read(&node).await?;
        let started = Instant::now();
        let churned = match network.restrict_ranges(ADDRESSES).await {
            Ok(()) => churn(namespace, &node, requests).await,
            Err(error) => Err(error),
        };
        network.restore().await?;
        let (long_lived, short_lived) = churned?;
        let pods = long_lived.len() + short_lived.len();
        let addresses = long_lived.iter().chain(&short_lived).map(|pod| pod.address.clone()).collect::<BTreeSet<_>>();
        let counts = CheckCounts::sum(long_lived.into_iter().chain(short_lived).map(|pod| pod.counts));
        println!(
            "{pods} pods with {} addresses in {:.0} s: {counts:?}",
            addresses.len(),
            started.elapsed().as_secs_f64()
        );
        ensure!(pods > 3 * addresses.len(), "{pods} pods with {} addresses", addresses.len());
        ensure!(usize::try_from(counts.right)? >= requests, "{counts:?}");
        // A machine that stops for ten seconds lets requests time out, so failures are printed only.
        ensure!(counts.wrong == 0, "{counts:?}");
        Ok(())
    })
    .await
}
