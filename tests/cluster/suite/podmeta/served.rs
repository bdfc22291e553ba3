//! A pod that has everything, for tests of what happens to it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use podmeta_crds::conditions::CREDENTIALS_READY;
use serde_json::json;

use super::profile;
use crate::kit::{Namespace, Podmeta, condition, within};

/// A pod with credentials that were asked for; the node it is on.
pub(super) async fn pod_with_credentials(podmeta: &Podmeta, namespace: &Namespace) -> Result<String> {
    let keys = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
        "stringData": {"accessKeyId": "ASIAIOSFODNN7EXAMPLE", "secretAccessKey": "s"},
    });
    namespace.apply(&keys.to_string()).await?;
    let spec = json!({
        "roles": [{"name": "r", "dialect": "ec2", "secret": {"name": "keys"}}],
        "metadata": [{"dialect": "ec2", "path": "edit", "value": "one"}],
    });
    namespace.apply(&profile("web", spec)).await?;
    let pod = namespace.client("web", json!({})).await?;
    let node = pod.spec.and_then(|spec| spec.node_name).context("the pod is on no node")?;
    podmeta.status(namespace, "web", "it is programmed", |said| said.programmed_pods == Some(1)).await?;
    credentials(podmeta, namespace, &node).await?;
    let given = |said: &_| condition(said, CREDENTIALS_READY).is_some_and(|ready| ready.status == "True");
    podmeta.status(namespace, "web", "credentials were given", given).await?;
    Ok(node)
}

/// Asks for the credentials of that pod.
pub(super) async fn credentials(podmeta: &Podmeta, namespace: &Namespace, node: &str) -> Result<()> {
    let pod = format!("{}/web", namespace.name);
    let path = "/latest/meta-data/iam/security-credentials/r";
    let given = podmeta.answer(node, &[&pod, "ec2", path]).await?;
    ensure!(given.contains("ASIAIOSFODNN7EXAMPLE"), "{given}");
    Ok(())
}

/// Edits the profile, and waits until the pod has it.
pub(super) async fn edit(podmeta: &Podmeta, namespace: &Namespace, node: &str, value: &str) -> Result<()> {
    let spec = json!({
        "roles": [{"name": "r", "dialect": "ec2", "secret": {"name": "keys"}}],
        "metadata": [{"dialect": "ec2", "path": "edit", "value": value}],
    });
    namespace.apply(&profile("web", spec)).await?;
    let pod = format!("{}/web", namespace.name);
    within(Duration::from_secs(60), "the edit is there", async || {
        let served = podmeta.answer(node, &[&pod, "ec2", "/latest/meta-data/edit"]).await?;
        ensure!(served == value, "it is {served}");
        Ok(())
    })
    .await
}

/// Both operators and the agent of each node, once all of them are ready.
pub(super) async fn all_ready(podmeta: &Podmeta) -> Result<(Vec<Pod>, Vec<Pod>)> {
    within(Duration::from_secs(90), "both operators and all agents are ready", async || {
        let (operators, agents) = (operators(podmeta).await?, parts(podmeta, "agent").await?);
        let ready = operators.iter().chain(&agents).filter(|pod| is_ready(pod)).count();
        let (all, nodes) = (operators.len() + agents.len(), podmeta.cluster.nodes().len());
        ensure!(ready == all && all == 2 + nodes, "{ready} of {all} pods are ready");
        Ok((operators, agents))
    })
    .await
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// The operator's pods.
pub(super) async fn operators(podmeta: &Podmeta) -> Result<Vec<Pod>> {
    parts(podmeta, "operator").await
}

async fn parts(podmeta: &Podmeta, component: &str) -> Result<Vec<Pod>> {
    let all = ListParams::default().labels(&format!("app.kubernetes.io/component={component}"));
    Ok(podmeta.system.api::<Pod>().list(&all).await?.items)
}
