//! The condition `podmeta.dev/Guarded` of nodes, and what the operator may change of a Node.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use kube::config::AuthInfo;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use super::agent_authorization::request_token;
use super::chart::object;
use crate::kit::{self, Podmeta, eventually, render_chart};

/// The type of the condition.
pub(super) const GUARDED: &str = "podmeta.dev/Guarded";

/// The key of the startup taint.
const STARTUP_TAINT: &str = "podmeta.dev/not-ready";

#[tokio::test]
async fn policy_for_nodes_is_bound_and_applies_only_to_operator_and_uninstall_hook() -> Result<()> {
    let objects = render_chart(&[]).await?;
    let name = "podmeta-operator-nodes";
    let spec = &object(&objects, "ValidatingAdmissionPolicy", name)?["spec"];
    let rules = json!([{
        "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["nodes", "nodes/*"],
    }]);
    ensure!(spec["failurePolicy"] == "Fail" && spec["matchConstraints"]["resourceRules"] == rules, "{spec}");
    let account = "system:serviceaccount:podmeta-system:podmeta";
    let users = format!("request.userInfo.username in ['{account}-operator', '{account}-uninstall']");
    ensure!(spec["matchConditions"] == json!([{"name": "operator", "expression": users}]), "{spec}");
    let binding = &object(&objects, "ValidatingAdmissionPolicyBinding", name)?["spec"];
    ensure!(*binding == json!({"policyName": name, "validationActions": ["Deny"]}), "{binding}");
    Ok(())
}

/// Returns status and reason of the condition.
pub(super) fn guarded_condition(node: &Node) -> Option<(String, String)> {
    let mut conditions = node.status.as_ref()?.conditions.iter().flatten();
    let condition = conditions.find(|condition| condition.type_ == GUARDED)?;
    Some((condition.status.clone(), condition.reason.clone().unwrap_or_default()))
}

#[tokio::test]
async fn every_node_with_an_agent_is_guarded() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, _| {
        let nodes = Api::<Node>::all(podmeta.cluster.client.clone());
        for name in podmeta.cluster.node_names() {
            // The test before can leave a pod without a link for some seconds.
            eventually(Duration::from_secs(90), "the node is guarded", async || {
                let condition = guarded_condition(&nodes.get(name).await?).context("no condition")?;
                ensure!(condition == ("True".to_owned(), "GuardsInPlace".to_owned()), "{name}: {condition:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    })
    .await
}

/// Returns the API of nodes for the operator's ServiceAccount.
async fn nodes_of_operator(podmeta: &Podmeta) -> Result<Api<Node>> {
    let mut config = podmeta.cluster.config();
    let token = request_token(&podmeta.system, "podmeta-operator", None, None).await?;
    config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
    Ok(Api::all(Client::try_from(config)?))
}

/// Returns the API of nodes for the uninstall hook's ServiceAccount, with all permissions: its roles exist only while the hook
/// runs, and the policy compares the name.
fn nodes_of_uninstall_hook(podmeta: &Podmeta) -> Result<Api<Node>> {
    let mut config = podmeta.cluster.config();
    config.auth_info.impersonate = Some("system:serviceaccount:podmeta-system:podmeta-uninstall".to_owned());
    config.auth_info.impersonate_groups = Some(vec!["system:masters".to_owned()]);
    Ok(Api::all(Client::try_from(config)?))
}

#[tokio::test]
async fn operator_may_change_only_its_condition_and_its_taint_of_a_node() -> Result<()> {
    kit::podmeta_test(async |podmeta, _| check_allowed_changes(podmeta, nodes_of_operator(podmeta).await?).await).await
}

#[tokio::test]
async fn uninstall_hook_may_change_only_the_condition_and_the_taint_of_a_node() -> Result<()> {
    kit::podmeta_test(async |podmeta, _| check_allowed_changes(podmeta, nodes_of_uninstall_hook(podmeta)?).await).await
}

/// Checks what an account may change of a node.
async fn check_allowed_changes(podmeta: &Podmeta, nodes: Api<Node>) -> Result<()> {
    let name = podmeta.cluster.node_names().first().context("no nodes")?;
    let params = PatchParams { dry_run: true, ..PatchParams::default() };
    let patch = async |change: &Value| nodes.patch_status(name, &params, &Patch::Strategic(change)).await;
    let condition = |kind: &str| json!({"status": {"conditions": [{"type": kind, "status": "False"}]}});
    let patched = patch(&condition(GUARDED)).await.context("the operator cannot change its condition")?;
    ensure!(patched.name_any() == *name, "{patched:?}");
    for change in [
        condition("Ready"),
        condition("example.com/Other"),
        json!({"status": {"conditions": [{"type": GUARDED, "status": "False", "message": "x".repeat(4097)}]}}),
        json!({"status": {"conditions": [{"type": "Ready", "$patch": "delete"}]}}),
        json!({"status": {"capacity": {"example.com/device": "1"}}}),
        json!({"metadata": {"labels": {"example.com/label": "x"}}}),
        json!({"metadata": {"annotations": {"example.com/annotation": "x"}}}),
    ] {
        match patch(&change).await {
            Err(error) if error.to_string().contains("the operator of podmeta may") => {}
            other => bail!("{change}: {other:?}"),
        }
    }
    let taint = |key: &str| json!({"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}});
    for change in [
        taint("example.com/taint"),
        taint(STARTUP_TAINT),
        json!({"spec": {"unschedulable": true}}),
        json!({"spec": {"providerID": "example://other"}}),
        json!({"metadata": {"labels": {"example.com/label": "x"}}}),
        json!({"metadata": {"finalizers": ["example.com/finalizer"]}}),
    ] {
        match nodes.patch(name, &params, &Patch::Merge(&change)).await {
            Err(error) if error.to_string().contains("the operator of podmeta may") => {}
            other => bail!("{change}: {other:?}"),
        }
    }
    Ok(())
}

/// The second taint stands for those of other programs. `PreferNoSchedule` does not stop pods of other tests.
#[tokio::test]
async fn startup_taint_of_a_guarded_node_is_removed_and_another_taint_is_not() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, _| {
        let nodes = Api::<Node>::all(podmeta.cluster.client.clone());
        let name = podmeta.cluster.node_names().first().context("no nodes")?;
        let keys = async || -> Result<Vec<String>> {
            let spec = nodes.get(name).await?.spec.unwrap_or_default();
            Ok(spec.taints.unwrap_or_default().into_iter().map(|taint| taint.key).collect())
        };
        let before = nodes.get(name).await?.spec.unwrap_or_default().taints.unwrap_or_default();
        let other = "example.com/other";
        let added = [STARTUP_TAINT, other].map(|key| json!({"key": key, "effect": "PreferNoSchedule"}));
        let mut taints = before.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
        taints.extend(added);
        let set = async |taints: &Value| {
            nodes.patch(name, &PatchParams::default(), &Patch::Merge(&json!({"spec": {"taints": taints}}))).await
        };
        set(&json!(taints)).await?;
        let removed = eventually(Duration::from_secs(90), "the startup taint is removed", async || {
            let keys = keys().await?;
            ensure!(!keys.iter().any(|key| key == STARTUP_TAINT), "{keys:?}");
            Ok(keys)
        })
        .await;
        let (dry_run, all) =
            (PatchParams { dry_run: true, ..PatchParams::default() }, json!({"spec": {"taints": before}}));
        let foreign = nodes_of_operator(podmeta).await?.patch(name, &dry_run, &Patch::Merge(&all)).await;
        set(&json!(before)).await?;
        let keys = removed?;
        match foreign {
            Err(error) if error.to_string().contains("the operator of podmeta may") => {}
            other => bail!("removed a taint of another program: {other:?}"),
        }
        ensure!(keys.iter().any(|key| key == other), "{keys:?}");
        Ok(())
    })
    .await
}
