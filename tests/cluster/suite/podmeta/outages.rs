//! Outages of the operator and the API server: agents continue to serve the pods that they know.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::json;

use super::fixtures::{ACCESS_KEY_ID, check_credentials, edit_profile, profile, start_pod_with_credentials};
use crate::kit::{self, QUERY_COMMAND, eventually};

/// Duration of the API server outage.
const API_SERVER_OUTAGE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn agent_started_without_operator_serves_saved_state() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let node = start_pod_with_credentials(podmeta, namespace).await?;
        let web = format!("{}/web", namespace.name);
        let signed_document = [web.as_str(), "ec2", "/latest/dynamic/instance-identity/rsa2048"];
        let before = podmeta.query_until_ok(&node, &signed_document).await?;
        let checks = async || {
            check_credentials(podmeta, namespace, &node).await?;
            let old = podmeta.agent_on(&node).await?;
            podmeta.system.api::<Pod>().delete(&old, &DeleteParams::default().grace_period(0)).await?;
            eventually(Duration::from_secs(60), "a new agent serves the pod", async || {
                ensure!(podmeta.agent_on(&node).await? != old, "the old agent still runs");
                check_credentials(podmeta, namespace, &node).await?;
                ensure!(podmeta.query_until_ok(&node, &signed_document).await? == before, "the document changed");
                Ok(())
            })
            .await?;
            // The operator has not sent this pod to the agent, so clients must retry later.
            namespace.start_client("late", json!({})).await?;
            let late = format!("{}/late", namespace.name);
            let output =
                podmeta.query(&node, &["--include", "--tokenless", &late, "ec2", "/latest/meta-data/"]).await?;
            let response = output.stdout.to_lowercase();
            ensure!(response.contains(" 503 ") && response.contains("retry-after: 1"), "{output:?}");
            Ok(())
        };
        podmeta.without_operator(checks).await?;
        edit_profile(podmeta, namespace, &node, "two").await
    })
    .await
}

#[tokio::test]
async fn known_pod_is_served_without_api_server() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let node = start_pod_with_credentials(podmeta, namespace).await?;
        // `kubectl exec` needs the API server. Instead, run the query on the node, in the agent's mount namespace.
        let machine = podmeta.cluster.node_by_name(&node);
        let agent = podmeta.agent_process(&node).await?;
        let query = format!(
            "nsenter --target {agent} --mount -- {} {}/web ec2 /latest/meta-data/edit /latest/meta-data/iam/security-credentials/r",
            QUERY_COMMAND.join(" "),
            namespace.name
        );
        let check = async || {
            let body = machine.sh(&query).await?;
            ensure!(body.starts_with("one") && body.contains(ACCESS_KEY_ID), "{body}");
            Ok(())
        };
        check().await?;
        podmeta.cluster.stop_api_server().await?;
        let end = Instant::now() + API_SERVER_OUTAGE;
        let mut queries = 0;
        let checks = async {
            while Instant::now() < end {
                check().await?;
                queries += 1;
            }
            Ok(())
        };
        let checked: Result<()> = checks.await;
        podmeta.cluster.start_api_server().await?;
        println!("{queries} queries succeeded during {API_SERVER_OUTAGE:?} without the API server");
        let edited = edit_profile(podmeta, namespace, &node, "two").await;
        let restarted = podmeta.cluster.restart_api_clients().await;
        checked.and(edited).and(restarted)?;
        ensure!(queries > 10, "only {queries} queries");
        Ok(())
    })
    .await
}

/// Maximum time until a new pod is served after the connections of the operators to the API server were lost: 20 seconds until they are
/// dead, the delay of a retry, and the time of the agents.
const WATCH_RECOVERY: Duration = Duration::from_secs(40);

/// Without nftables rules, the connections of pods to Services lose their address translation, and are not closed.
#[tokio::test]
async fn new_pod_is_served_soon_after_nftables_flushes_cut_the_operators_from_the_api_server() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let options = json!({"httpTokens": "optional"});
        namespace.apply(&profile("web", json!({"metadataOptions": options}))).await?;
        for name in podmeta.cluster.node_names() {
            let node = podmeta.cluster.node_by_name(name);
            node.sh("nft flush ruleset").await?;
            for program in node.programs().iter().filter(|program| ["kube-proxy", "cluster"].contains(program)) {
                node.kill(program).await?;
                node.start(program).await?;
            }
        }
        let flushed = Instant::now();
        namespace.start_client("web", json!({})).await?;
        let remaining = WATCH_RECOVERY.saturating_sub(flushed.elapsed());
        eventually(remaining, "the new pod is served", async || {
            let url = "http://169.254.169.254/latest/meta-data/instance-id";
            let id = namespace.run("web", &["curl", "-sSf", "-m", "3", url]).await?;
            ensure!(id.starts_with("i-"), "{id}");
            Ok(())
        })
        .await?;
        println!("served after {:.1} s", flushed.elapsed().as_secs_f64());
        Ok(())
    })
    .await
}
