//! What the chart's NetworkPolicies come to: who reaches podmeta's ports, and what an agent reaches.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt as _;
use kube::api::Api;
use serde_json::json;

use super::served::all_ready;
use crate::kit::{self, Namespace, Podmeta, within};

/// How long a change may take until every node enforces it.
const ENFORCED: Duration = Duration::from_secs(30);

/// Prints the HTTP status of a URL, or `000` if nothing answers.
fn curl(url: &str) -> [&str; 10] {
    ["curl", "-gsk", "--max-time", "3", "-o", "/dev/null", "-w", "%{http_code}", "--", url]
}

/// The HTTP status that was printed; none if nothing answered.
fn status(printed: &str) -> Result<Option<u16>> {
    let status = printed.parse().with_context(|| format!("curl printed {printed:?}"))?;
    Ok(Some(status).filter(|status| *status != 0))
}

async fn from_pod(namespace: &Namespace, url: &str) -> Result<Option<u16>> {
    status(&namespace.exec("outsider", &curl(url)).await?.stdout)
}

async fn from_node(podmeta: &Podmeta, node: &str, url: &str) -> Result<Option<u16>> {
    status(&podmeta.cluster.node_named(node).sh(&format!("{} || true", curl(url).join(" "))).await?)
}

/// From where the agent of a node is, as far as the network is concerned.
async fn from_agent(podmeta: &Podmeta, node: &str, url: &str) -> Result<Option<u16>> {
    let agent = podmeta.agent_process(node).await?;
    let ask = format!("nsenter --target {agent} --net {} || true", curl(url).join(" "));
    status(&podmeta.cluster.node_named(node).sh(&ask).await?)
}

/// The node and the addresses of a pod, as a URL has them.
fn place(pod: &Pod) -> Result<(String, Vec<String>)> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let ips = pod.status.as_ref().and_then(|status| status.pod_ips.clone()).unwrap_or_default();
    let hosts = ips.into_iter().map(|own| if own.ip.contains(':') { format!("[{}]", own.ip) } else { own.ip });
    let hosts: Vec<_> = hosts.collect();
    ensure!(!hosts.is_empty(), "pod {} has no address", pod.name_any());
    Ok((node.with_context(|| format!("pod {} is on no node", pod.name_any()))?, hosts))
}

/// Waits until a pod reaches all of these, or none, and that twice: an answer may be late on a slow machine.
async fn reaches(namespace: &Namespace, urls: &[String], all: bool) -> Result<()> {
    within(ENFORCED, "who reaches what", async || {
        for _ in 0..2 {
            let said = try_join_all(urls.iter().map(|url| from_pod(namespace, url))).await?;
            let as_wanted = said.iter().all(|said| said.is_some() == all);
            ensure!(as_wanted, "{urls:?} say {said:?} to a pod");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_pod_that_is_no_agent_does_not_reach_the_operator() -> Result<()> {
    kit::disturbing_podmeta_test(async |podmeta, namespace| {
        namespace.client("outsider", json!({})).await?;
        let mut urls = vec!["https://podmeta-operator.podmeta-system.svc:8443/".to_owned()];
        for operator in all_ready(podmeta).await?.0 {
            urls.extend(place(&operator)?.1.iter().map(|host| format!("https://{host}:8443/")));
        }
        // What the tests let themselves in by: the ports are there.
        reaches(namespace, &urls, true).await?;
        podmeta.close().await?;
        let closed = reaches(namespace, &urls, false).await;
        podmeta.open().await?;
        closed?;
        reaches(namespace, &urls, true).await
    })
    .await
}

#[tokio::test]
async fn metrics_are_for_whom_the_values_name() -> Result<()> {
    kit::disturbing_podmeta_test(async |podmeta, namespace| {
        namespace.client("outsider", json!({})).await?;
        let (operators, agents) = all_ready(podmeta).await?;
        let mut urls = Vec::new();
        for (pods, port) in [(operators, 8080), (agents, 8081)] {
            for pod in pods {
                let (node, hosts) = place(&pod)?;
                let host = hosts.first().context("it has no address")?;
                let url = format!("http://{host}:{port}/metrics");
                ensure!(from_node(podmeta, &node, &url).await? == Some(200), "{url} does not answer its node");
                urls.push(url);
            }
        }
        reaches(namespace, &urls, false).await?;
        let here = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}}}]);
        let opened = podmeta.upgrade(&["--set-json", &format!("networkPolicy.metricsFrom={here}")]).await;
        let reached = reaches(namespace, &urls, true).await;
        let closed = podmeta.upgrade(&["--set-json", "networkPolicy.metricsFrom=[]"]).await;
        opened.and(reached).and(closed)
    })
    .await
}

#[tokio::test]
async fn an_agent_reaches_the_operator_and_neither_the_api_server_nor_the_node_s_metadata() -> Result<()> {
    kit::disturbing_podmeta_test(async |podmeta, namespace| {
        namespace.client("outsider", json!({})).await?;
        let (operators, _) = all_ready(podmeta).await?;
        let services: Api<Service> = Api::namespaced(podmeta.cluster.client.clone(), "default");
        let kubernetes = services.get("kubernetes").await?.spec.and_then(|spec| spec.cluster_ip);
        let kubernetes = format!("https://{}/version", kubernetes.context("the API server has no address")?);
        let metadata = ["http://169.254.169.254/", "http://[fd00:ec2::254]/", "http://100.100.100.200/"];
        for url in metadata.into_iter().chain([kubernetes.as_str()]) {
            ensure!(from_pod(namespace, url).await?.is_some(), "{url} does not answer a pod that no policy selects");
            for node in podmeta.cluster.nodes() {
                let said = from_agent(podmeta, node, url).await?;
                ensure!(said.is_none(), "{url} says {said:?} to the agent of {node}");
            }
        }
        for operator in operators {
            for host in place(&operator)?.1 {
                let url = format!("https://{host}:8443/");
                for node in podmeta.cluster.nodes() {
                    ensure!(
                        from_agent(podmeta, node, &url).await?.is_some(),
                        "{url} does not answer the agent of {node}"
                    );
                }
            }
        }
        Ok(())
    })
    .await
}
