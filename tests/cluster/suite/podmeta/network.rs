//! What the chart's NetworkPolicies hold: who comes as far as podmeta's ports, and where an agent comes to.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace as CoreNamespace, Pod, Service};
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::served::operators;
use crate::kit::{self, Namespace, Podmeta, within};

/// How long a change may take until every node holds it.
const HELD: Duration = Duration::from_secs(20);

/// Runs a command where the first agent of a node runs, as far as the network is concerned.
const AS_AGENT: &str = "
for process in /proc/[0-9]*; do
  if [ \"$(readlink $process/exe)\" = /podmeta-node-agent ]; then
    exec nsenter --target ${process#/proc/} --net ";

/// The HTTP status of a URL, or `000` if nothing answers.
fn curl(url: &str) -> [&str; 10] {
    ["curl", "-gsk", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", "--", url]
}

async fn from_pod(namespace: &Namespace, url: &str) -> Result<String> {
    Ok(namespace.exec("outsider", &curl(url)).await?.stdout)
}

async fn from_node(podmeta: &Podmeta, node: &str, url: &str) -> Result<String> {
    podmeta.cluster.node_named(node).sh(&format!("{} || true", curl(url).join(" "))).await
}

async fn from_agent(podmeta: &Podmeta, node: &str, url: &str) -> Result<String> {
    let ask = curl(url).join(" ");
    let script = format!("({AS_AGENT} {ask}\n  fi\ndone; echo no agent runs here) || true");
    podmeta.cluster.node_named(node).sh(&script).await
}

/// The node and the first address of a pod.
fn place(pod: &Pod) -> Result<(String, String)> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    node.zip(address).with_context(|| format!("pod {} is nowhere", pod.name_any()))
}

/// Waits until the operator's port for agents answers a pod of the namespace, or does not.
async fn reaches_operator(namespace: &Namespace, url: &str, reaches: bool) -> Result<()> {
    within(HELD, &format!("that a pod reaches the operator is {reaches}"), async || {
        let said = from_pod(namespace, url).await?;
        ensure!((said != "000") == reaches, "{url}: {said}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_pod_that_is_no_agent_does_not_reach_the_operator() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.client("outsider", json!({})).await?;
        let namespaces = Api::<CoreNamespace>::all(namespace.client.clone());
        let label = async |value: Option<&str>| {
            let labels = json!({"metadata": {"labels": {"podmeta.test/suite": value}}});
            namespaces.patch(&namespace.name, &PatchParams::default(), &Patch::Merge(&labels)).await
        };
        let mut urls = vec!["https://podmeta-operator.podmeta-system.svc:8443/".to_owned()];
        for operator in operators(podmeta).await? {
            let ips = operator.status.and_then(|status| status.pod_ips).context("an operator has no address")?;
            urls.extend(ips.iter().map(|own| match own.ip.contains(':') {
                true => format!("https://[{}]:8443/", own.ip),
                false => format!("https://{}:8443/", own.ip),
            }));
        }
        // This is what the tests' own policy lets in, so the port is there.
        for url in &urls {
            reaches_operator(namespace, url, true).await?;
        }
        label(None).await?;
        for url in &urls {
            reaches_operator(namespace, url, false).await?;
        }
        label(Some("podmeta")).await?;
        reaches_operator(namespace, &urls[0], true).await
    })
    .await
}

#[tokio::test]
async fn metrics_are_for_whom_the_values_name() -> Result<()> {
    kit::disturbing_podmeta_test(async |podmeta, namespace| {
        namespace.client("outsider", json!({})).await?;
        let mut urls = Vec::new();
        for operator in operators(podmeta).await? {
            let (node, address) = place(&operator)?;
            urls.push((node, format!("http://{address}:8080/metrics")));
        }
        for node in podmeta.cluster.nodes() {
            let agent = podmeta.system.api::<Pod>().get(&podmeta.agent_on(node).await?).await?;
            let (node, address) = place(&agent)?;
            urls.push((node, format!("http://{address}:8081/metrics")));
        }
        for (node, url) in &urls {
            ensure!(from_node(podmeta, node, url).await? == "200", "{url} does not answer its node");
            let said = from_pod(namespace, url).await?;
            ensure!(said == "000", "{url} answers a pod: {said}");
        }
        let here = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}}}]);
        podmeta.upgrade(&["--set-json", &format!("networkPolicy.metricsFrom={here}")]).await?;
        let open = within(HELD, "metrics are open", async || {
            for (_, url) in &urls {
                let said = from_pod(namespace, url).await?;
                ensure!(said == "200", "{url}: {said}");
            }
            Ok(())
        })
        .await;
        podmeta.upgrade(&["--set-json", "networkPolicy.metricsFrom=[]"]).await?;
        open
    })
    .await
}

#[tokio::test]
async fn an_agent_reaches_the_operator_and_neither_the_api_server_nor_the_node_s_metadata() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.client("outsider", json!({})).await?;
        let services: Api<Service> = Api::namespaced(podmeta.cluster.client.clone(), "default");
        let kubernetes = services.get("kubernetes").await?.spec.and_then(|spec| spec.cluster_ip);
        let kubernetes = format!("https://{}/version", kubernetes.context("the API server has no address")?);
        for node in podmeta.cluster.nodes() {
            for operator in operators(podmeta).await? {
                let url = format!("https://{}:8443/", place(&operator)?.1);
                let said = from_agent(podmeta, node, &url).await?;
                ensure!(said.parse::<u16>().is_ok_and(|status| status > 0), "{url} does not answer the agent: {said}");
            }
            for url in
                [kubernetes.as_str(), "http://169.254.169.254/", "http://[fd00:ec2::254]/", "http://100.100.100.200/"]
            {
                ensure!(from_node(podmeta, node, url).await? == "200", "{url} does not answer the node");
                let said = from_agent(podmeta, node, url).await?;
                ensure!(said == "000", "{url} answers the agent of {node}: {said}");
            }
        }
        Ok(())
    })
    .await
}
