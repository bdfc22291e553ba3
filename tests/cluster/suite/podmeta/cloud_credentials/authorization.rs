//! A stolen node: the tokens of its agent and its kubelet get sessions of the node's own pods only.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, ResourceExt as _};
use podmeta_agent_api::AUDIENCE;
use podmeta_agent_api::calls::CREDENTIALS;
use podmeta_metadata::compile::Outcome;
use serde_json::{Value, json};

use super::stub_sts::{StubCall, StubStsPod, with_stub_sts};
use super::{aws_role_arn, role_profile};
use crate::kit::{self, AGENT_ACCOUNT, Podmeta, TestNamespace, client_pod, eventually};
use crate::podmeta::agent_authorization::{ATTACKER, agent_pod, request_token, send};
use crate::podmeta::mirror_pods::{STATIC_UID, StolenNode, mirror_pod};

/// The secret of sessions of the role `web`.
const SECRET: &str = "secret-of-web";

/// Requests credentials with the agent's token. Returns the status code and the body.
async fn request(stolen: &StolenNode<'_>, body: &Value) -> Result<(String, String)> {
    send(stolen.namespace, &stolen.token, "POST", CREDENTIALS, &body.to_string()).await
}

/// Waits until the operator returns a session of the role `web` for a pod.
async fn wait_for_session(stolen: &StolenNode<'_>, pod: &Pod) -> Result<()> {
    eventually(Duration::from_secs(30), "the operator returns a session", async || {
        let (status, body) = request(stolen, &json!({"pod": pod.uid(), "dialect": "ec2"})).await?;
        ensure!(status == "200" && body.contains(SECRET), "pod {}: {status} {body}", pod.name_any());
        Ok(())
    })
    .await
}

/// Checks that a request gets 403 and no secret.
async fn check_forbidden(stolen: &StolenNode<'_>, case: &str, body: &Value) -> Result<()> {
    let (status, body) = request(stolen, body).await?;
    ensure!(status == "403" && !body.contains(SECRET), "{case}: {status} {body}");
    Ok(())
}

async fn attack(stolen: &StolenNode<'_>, stub: &StubStsPod<'_>, pods: &[Pod]) -> Result<()> {
    let [on_a, on_b, deleted] = pods else { bail!("this test needs three pods") };
    for pod in [on_a, deleted] {
        wait_for_session(stolen, pod).await?;
    }
    check_forbidden(stolen, "pod of another node", &json!({"pod": on_b.uid(), "dialect": "ec2"})).await?;

    stolen.namespace.api::<Pod>().delete("deleted", &DeleteParams::default().grace_period(0)).await?;
    eventually(Duration::from_secs(20), "the operator has removed the deleted pod", async || {
        check_forbidden(stolen, "deleted pod", &json!({"pod": deleted.uid(), "dialect": "ec2"})).await
    })
    .await?;

    let admin = json!({"pod": on_a.uid(), "dialect": "ec2", "role": "admin", "roleArn": aws_role_arn("admin")});
    let (status, body) = request(stolen, &admin).await?;
    ensure!(status == "200" && !body.contains("secret-of-admin"), "role that is not in the profile: {status} {body}");
    let (status, body) = request(stolen, &json!({"pod": on_a.uid(), "dialect": "ecs"})).await?;
    ensure!(status == "404", "dialect without a role: {status} {body}");

    let pod = serde_json::from_value(mirror_pod("mirror", &stolen.node, STATIC_UID))?;
    let mirror = stolen.pods.create(&PostParams::default(), &pod).await.context("cannot create a mirror pod")?;
    eventually(Duration::from_secs(20), "the mirror pod is denied", async || {
        let sent = stolen.sent(STATIC_UID).await?;
        ensure!(matches!(sent, Some(Outcome::Denied(_))), "the agent gets {sent:?}");
        Ok(())
    })
    .await?;
    for uid in [STATIC_UID, &mirror.uid().context("the mirror pod has no UID")?] {
        check_forbidden(stolen, "mirror pod", &json!({"pod": uid, "dialect": "ec2"})).await?;
    }

    // Each replica of the operator calls once for a pod.
    let calls = stub.calls().await?;
    let of_pod = |call: &StubCall, pod: &str| call.role == "web" && call.session.contains(&format!(".{pod}."));
    for pod in ["on-a", "deleted"] {
        ensure!(calls.iter().any(|call| of_pod(call, pod)), "no call for {pod}: {calls:?}");
    }
    ensure!(
        calls.iter().all(|call| of_pod(call, "on-a") || of_pod(call, "deleted")),
        "calls for other pods: {calls:?}"
    );
    Ok(())
}

async fn stolen_node<'t>(podmeta: &'t Podmeta, namespace: &'t TestNamespace, node: &str) -> Result<StolenNode<'t>> {
    let kubelet = podmeta.cluster.node_by_name(node).kubelet_config(podmeta.cluster.config()).await?;
    let agent = agent_pod(podmeta, node).await?;
    Ok(StolenNode {
        podmeta,
        namespace,
        node: Api::<Node>::all(podmeta.cluster.client.clone()).get(node).await?,
        pods: Api::namespaced(Client::try_from(kubelet)?, &namespace.name),
        token: request_token(&podmeta.system, AGENT_ACCOUNT, Some(AUDIENCE), Some(&agent)).await?,
    })
}

#[tokio::test]
async fn agent_token_gets_sessions_only_for_running_pods_of_its_node_and_the_roles_of_their_profile() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        with_stub_sts(podmeta, namespace, async |stub| {
            let role = json!({"awsWebIdentity": {"roleArn": aws_role_arn("web")}});
            namespace.apply(&role_profile("web", "ec2", role)).await?;
            namespace.start_client(ATTACKER, json!({})).await?;
            let [a, b] = podmeta.cluster.node_names() else { bail!("this test needs two nodes") };
            let mut pods = Vec::new();
            for (name, node) in [("on-a", a), ("on-b", b), ("deleted", a)] {
                pods.push(namespace.start(name, &client_pod(name, "web", json!({"nodeName": node}))).await?);
            }
            podmeta.wait_until_programmed(namespace, "web", 3).await?;
            let stolen = stolen_node(podmeta, namespace, a).await?;
            let attacked = attack(&stolen, stub, &pods).await;
            stolen.clean_up().await?;
            attacked
        })
        .await
    })
    .await
}
