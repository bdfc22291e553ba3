//! The chart's NetworkPolicies: which clients reach podmeta's ports, and what an agent reaches.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt as _;
use kube::api::Api;
use podmeta_cluster::layout::{METADATA_ADDRESSES, url_host};
use serde_json::json;

use crate::kit::{self, Podmeta, TestNamespace, eventually};

/// Timeout until every node enforces a changed policy.
const ENFORCEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns a curl command that prints the status code, or `000` if there is no response.
fn curl_status(url: &str) -> [&str; 10] {
    ["curl", "-gsk", "--max-time", "3", "-o", "/dev/null", "-w", "%{http_code}", "--", url]
}

/// Parses a printed status code. Returns `None` if there was no response.
fn parse_status(printed: &str) -> Result<Option<u16>> {
    let status = printed.parse().with_context(|| format!("curl printed {printed:?}"))?;
    Ok(Some(status).filter(|status| *status != 0))
}

async fn status_from_pod(namespace: &TestNamespace, url: &str) -> Result<Option<u16>> {
    parse_status(&namespace.exec("client", &curl_status(url)).await?.stdout)
}

async fn status_from_node(podmeta: &Podmeta, node: &str, url: &str) -> Result<Option<u16>> {
    let script = format!("{} || true", curl_status(url).join(" "));
    parse_status(&podmeta.cluster.node_by_name(node).sh(&script).await?)
}

/// Sends the request from the network namespace of the agent on a node.
async fn status_from_agent(podmeta: &Podmeta, node: &str, url: &str) -> Result<Option<u16>> {
    let agent = podmeta.agent_process(node).await?;
    let script = format!("nsenter --target {agent} --net {} || true", curl_status(url).join(" "));
    parse_status(&podmeta.cluster.node_by_name(node).sh(&script).await?)
}

/// Returns the node of a pod, and the pod's addresses as URL hosts.
fn node_and_hosts(pod: &Pod) -> Result<(String, Vec<String>)> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let addresses = pod.status.as_ref().and_then(|status| status.pod_ips.clone()).unwrap_or_default();
    let hosts: Vec<_> = addresses.iter().map(|address| url_host(&address.ip)).collect();
    ensure!(!hosts.is_empty(), "pod {} has no address", pod.name_any());
    Ok((node.with_context(|| format!("pod {} is not bound to a node", pod.name_any()))?, hosts))
}

/// Waits until the pod `client` reaches all URLs, or none. Checks twice, because a response can be late on a slow machine.
async fn expect_reachable(namespace: &TestNamespace, urls: &[String], reachable: bool) -> Result<()> {
    let expectation = if reachable { "a pod reaches all URLs" } else { "a pod reaches none of the URLs" };
    eventually(ENFORCEMENT_TIMEOUT, expectation, async || {
        for _ in 0..2 {
            let statuses = try_join_all(urls.iter().map(|url| status_from_pod(namespace, url))).await?;
            let as_expected = statuses.iter().all(|status| status.is_some() == reachable);
            ensure!(as_expected, "{urls:?} return {statuses:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pod_that_is_not_an_agent_cannot_reach_operator() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        namespace.start_client("client", json!({})).await?;
        let mut urls = vec!["https://podmeta-operator.podmeta-system.svc:8443/".to_owned()];
        for operator in podmeta.wait_until_ready().await?.0 {
            urls.extend(node_and_hosts(&operator)?.1.iter().map(|host| format!("https://{host}:8443/")));
        }
        // The suite's own policy allows test pods, which proves that the ports respond.
        expect_reachable(namespace, &urls, true).await?;
        podmeta.deny_test_ingress().await?;
        let denied = expect_reachable(namespace, &urls, false).await;
        podmeta.allow_test_ingress().await?;
        denied?;
        expect_reachable(namespace, &urls, true).await
    })
    .await
}

#[tokio::test]
async fn metrics_are_reachable_from_allowed_namespaces_only() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        namespace.start_client("client", json!({})).await?;
        let (operators, agents) = podmeta.wait_until_ready().await?;
        let mut urls = Vec::new();
        for (pods, port) in [(operators, 8080), (agents, 8081)] {
            for pod in pods {
                let (node, hosts) = node_and_hosts(&pod)?;
                let host = hosts.first().context("the pod has no address")?;
                let url = format!("http://{host}:{port}/metrics");
                let status = status_from_node(podmeta, &node, &url).await?;
                ensure!(status == Some(200), "{url} returns {status:?} to its node");
                urls.push(url);
            }
        }
        expect_reachable(namespace, &urls, false).await?;
        let sources = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}}}]);
        let allowed = podmeta.upgrade(&["--set-json", &format!("networkPolicy.metricsFrom={sources}")]).await;
        let reached = expect_reachable(namespace, &urls, true).await;
        let reverted = podmeta.upgrade(&["--set-json", "networkPolicy.metricsFrom=[]"]).await;
        allowed.and(reached).and(reverted)
    })
    .await
}

#[tokio::test]
async fn agent_reaches_operator_but_not_api_server_and_gets_no_metadata() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        namespace.start_client("client", json!({})).await?;
        let (operators, _) = podmeta.wait_until_ready().await?;
        let services: Api<Service> = Api::namespaced(podmeta.cluster.client.clone(), "default");
        let api_server = services.get("kubernetes").await?.spec.and_then(|spec| spec.cluster_ip);
        let api_server = format!("https://{}/version", api_server.context("the Service kubernetes has no address")?);
        let status = status_from_pod(namespace, &api_server).await?;
        ensure!(status.is_some(), "{api_server} does not respond to a pod without policy");
        for node in podmeta.cluster.node_names() {
            let status = status_from_agent(podmeta, node, &api_server).await?;
            ensure!(status.is_none(), "{api_server} returns {status:?} to the agent on {node}");
            // The agent's pod has a link too, and no profile.
            for url in METADATA_ADDRESSES.map(|address| format!("http://{}/", url_host(address))) {
                let status = status_from_agent(podmeta, node, &url).await?;
                ensure!(status == Some(403), "{url} returns {status:?} to the agent on {node}");
            }
        }
        for operator in operators {
            for host in node_and_hosts(&operator)?.1 {
                let url = format!("https://{host}:8443/");
                for node in podmeta.cluster.node_names() {
                    let status = status_from_agent(podmeta, node, &url).await?;
                    ensure!(status.is_some(), "{url} does not respond to the agent on {node}");
                }
            }
        }
        Ok(())
    })
    .await
}
