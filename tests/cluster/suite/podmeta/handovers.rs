//! Handovers, upgrades and killed agents, while pods of all nodes request their instance ID with new and persistent connections.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::json;

use super::load::{CheckCounts, Load, LoadEnd, TokenUse, checking_pod, load_profile};
use crate::kit::{self, Podmeta, TestNamespace, TestNode, eventually};

/// Maximum number of persistent connections that an agent closed before their next request. A client that gets no processor
/// time for a second finds its connection closed. If agents did not wait for a last request, there would be about 80.
const MAX_REOPENED: u64 = 10;

/// Handovers of all nodes together: in each, a new agent takes over the connections of a node.
const HANDOVERS: usize = 40;

/// Kills of agents on all nodes together.
const KILLS: usize = 50;

/// Pods of each node. A second one makes a response with another pod's identity possible.
const PODS_OF_NODE: usize = 2;

/// Load of one pod: a process with a new connection for each request, and one with persistent connections.
const LOAD: Load =
    Load { end: LoadEnd::Stop, pause: 5, requests_of_connections: &[1, 1000], tokens: TokenUse::Connection };

/// Load of one pod during an upgrade. Each agent is replaced once. It must serve one more request on each persistent
/// connection before it closes it. Without that, most are reopened.
const UPGRADE_LOAD: Load = Load {
    end: LoadEnd::Stop,
    pause: 50,
    requests_of_connections: &UPGRADE_REQUESTS_OF_CONNECTIONS,
    tokens: TokenUse::Connection,
};
/// Requests of each connection, by process. Two processes open a connection for each request.
const UPGRADE_REQUESTS_OF_CONNECTIONS: [u16; 22] = {
    let mut requests = [1000; 22];
    requests[0] = 1;
    requests[1] = 1;
    requests
};

/// Fails unless a process of the node listens on the service port in the agent namespace.
const FIND_LISTENER_SCRIPT: &str = "ip netns exec podmeta ss -Hltn 'sport = :80' | grep -q .";

/// Runs `body` while the pods of each node request their instance IDs. Returns the sums of the pods.
async fn under_load(
    podmeta: &Podmeta,
    namespace: &TestNamespace,
    load: &Load,
    body: impl AsyncFnOnce() -> Result<()>,
) -> Result<CheckCounts> {
    namespace.apply(&load_profile("web")).await?;
    let sleep = ["sleep", "infinity"].map(str::to_owned);
    let mut pods = Vec::new();
    for node in podmeta.cluster.node_names() {
        for number in 0..PODS_OF_NODE {
            let pod = format!("{node}-{number}");
            namespace.start(&pod, &checking_pod(&pod, "web", node, &sleep)).await?;
            pods.push(pod);
        }
    }
    podmeta.wait_until_programmed(namespace, "web", i64::try_from(pods.len())?).await?;
    let command = load.command();
    let command = command.iter().map(String::as_str).collect::<Vec<_>>();
    let load = try_join_all(pods.iter().map(|pod| namespace.run(pod, &command)));
    let body = async {
        let result = body().await;
        for pod in &pods {
            namespace.run(pod, &["touch", "/stop"]).await?;
        }
        result
    };
    let (printed, ended) = tokio::join!(load, body);
    let counts = printed?.iter().map(|printed| CheckCounts::parse(printed)).collect::<Result<Vec<_>>>()?;
    let counts = CheckCounts::sum(counts);
    println!("{counts:?}");
    ended?;
    ensure!(counts.right > 0, "{counts:?}");
    Ok(counts)
}

/// Restarts the pods of a DaemonSet and waits until all are updated and available.
async fn restart(podmeta: &Podmeta, name: &str, restart: usize) -> Result<()> {
    let annotation = json!({"podmeta.test/restart": restart.to_string()});
    podmeta.roll_out_daemon_set(name, &json!({"metadata": {"annotations": annotation}})).await
}

#[tokio::test]
async fn handovers_of_agents_and_restart_of_link_daemons_fail_no_connection() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let rollouts = HANDOVERS.div_ceil(podmeta.cluster.node_names().len());
        let counts = under_load(podmeta, namespace, &LOAD, async || {
            for number in 0..rollouts {
                restart(podmeta, "podmeta-agent", number).await?;
            }
            restart(podmeta, "podmeta-link", 0).await?;
            podmeta.wait_until_ready().await.map(drop)
        })
        .await?;
        ensure!(counts.failed == 0 && counts.wrong == 0 && counts.reopened <= MAX_REOPENED, "{counts:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn chart_upgrade_fails_no_connection() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let sets = podmeta.system.api::<DaemonSet>();
        let generation = async |name| anyhow::Ok(sets.get(name).await?.metadata.generation);
        let before = (generation("podmeta-agent").await?, generation("podmeta-link").await?);
        let counts = under_load(podmeta, namespace, &UPGRADE_LOAD, async || {
            let values = "operator.log=info\\,kube=info,agent.log=info\\,kube=info,link.log=info\\,kube=info";
            podmeta.upgrade(&["--set", values]).await?;
            podmeta.wait_until_ready().await.map(drop)
        })
        .await?;
        let after = (generation("podmeta-agent").await?, generation("podmeta-link").await?);
        ensure!(before.0 != after.0 && before.1 != after.1, "the upgrade changed no DaemonSet: {before:?}, {after:?}");
        ensure!(counts.failed == 0 && counts.wrong == 0 && counts.reopened <= MAX_REOPENED, "{counts:?}");
        Ok(())
    })
    .await
}

/// Kills the agent of a node, and waits until another one listens.
async fn kill_agent(podmeta: &Podmeta, node: &TestNode) -> Result<()> {
    let killed = podmeta.agent_process(&node.name).await?;
    node.sh(&format!("kill -9 {killed}")).await?;
    eventually(Duration::from_secs(60), "another agent listens", async || {
        ensure!(podmeta.agent_process(&node.name).await? != killed, "the old agent runs");
        node.sh(FIND_LISTENER_SCRIPT).await.map(drop)
    })
    .await
}

#[tokio::test]
async fn killed_agents_give_no_wrong_response() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let nodes = podmeta.cluster.node_names();
        let kills = KILLS.div_ceil(nodes.len());
        let counts = under_load(podmeta, namespace, &LOAD, async || {
            let kill_agents = async |node: &String| {
                let node = podmeta.cluster.node_by_name(node);
                for _ in 0..kills {
                    kill_agent(podmeta, &node).await?;
                }
                anyhow::Ok(())
            };
            try_join_all(nodes.iter().map(kill_agents)).await?;
            podmeta.wait_until_ready().await.map(drop)
        })
        .await?;
        ensure!(counts.wrong == 0, "{counts:?}");
        ensure!(counts.failed > 0, "no agent was killed under load: {counts:?}");
        Ok(())
    })
    .await
}
