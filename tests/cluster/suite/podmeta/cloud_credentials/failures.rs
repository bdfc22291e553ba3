//! Failures of a cloud role: `kubectl describe` of the profile shows the cause as condition and event.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podmeta_cluster::machine::command_output;
use podmeta_cluster::programs::KUBERNETES_MODULE;
use podmeta_crds::conditions::CREDENTIALS_READY;
use podmeta_crds::metadataprofile::MetadataProfileStatus;
use serde_json::{Value, json};
use tokio::process::Command;

use super::stub_sts::with_stub_sts;
use super::{aliyun_role, allow_cloud_roles, aws_role_arn, role_profile};
use crate::kit::{self, Podmeta, TestNamespace, client_pod, eventually, find_condition};

/// Requests the credentials of the role `web` once, as a client of EC2. Prints the response.
const GET_EC2_CREDENTIALS: &str = "
token=$(curl -sSf -m 10 -X PUT http://169.254.169.254/latest/api/token -H 'X-aws-ec2-metadata-token-ttl-seconds: 60')
curl -sS -m 10 -H \"X-aws-ec2-metadata-token: $token\" http://169.254.169.254/latest/meta-data/iam/security-credentials/web";

/// Requests the credentials of the role `web` once, as a client of ECS. Prints the response.
const GET_ECS_CREDENTIALS: &str = "
token=$(curl -sSf -m 10 -X PUT http://100.100.100.200/latest/api/token -H 'X-aliyun-ecs-metadata-token-ttl-seconds: 60')
curl -sS -m 10 -H \"X-aliyun-ecs-metadata-token: $token\" http://100.100.100.200/latest/meta-data/ram/security-credentials/web";

/// A role whose credentials fail.
struct FailingRole {
    name: &'static str,
    provider: Value,
    /// The reason of the condition and the event.
    reason: &'static str,
    /// A part of the event's text.
    text: &'static str,
}

impl FailingRole {
    fn dialect(&self) -> &'static str {
        if self.provider.get("aliyunOidc").is_some() { "ecs" } else { "ec2" }
    }

    /// Requests credentials in the pod of the role, and checks that the profile names the cause.
    async fn check(&self, podmeta: &Podmeta, namespace: &TestNamespace) -> Result<()> {
        let (name, reason) = (self.name, self.reason);
        let script = if self.dialect() == "ecs" { GET_ECS_CREDENTIALS } else { GET_EC2_CREDENTIALS };
        podmeta.wait_until_programmed(namespace, name, 1).await?;
        let body = namespace.run(name, &["sh", "-c", script]).await?;
        let document: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
        ensure!(document.get("Code").and_then(Value::as_str).is_some_and(|code| code != "Success"), "{body}");
        ensure!(!body.contains("from the stub"), "the pod gets text of the cloud: {body}");
        let has_reason = |status: &MetadataProfileStatus| {
            find_condition(status, CREDENTIALS_READY)
                .is_some_and(|condition| condition.status == "False" && condition.reason == reason)
        };
        let expectation = format!("{CREDENTIALS_READY} of profile {name} has reason {reason}");
        podmeta.wait_for_status(namespace, name, &expectation, has_reason).await?;
        let described = eventually(Duration::from_secs(20), "kubectl shows the event", async || {
            let described = kubectl_describe(podmeta, namespace, name).await?;
            let lines = || described.lines().map(str::trim);
            ensure!(
                lines().any(|line| line.starts_with(&format!("Warning  {reason} ")) && line.contains(self.text)),
                "no event {reason} with {:?}: {described}",
                self.text
            );
            Ok(described)
        })
        .await?;
        let condition = described.lines().map(str::trim).filter(|line| line.starts_with("Reason:"));
        ensure!(condition.filter(|line| line.ends_with(reason)).count() == 1, "no condition {reason}: {described}");
        println!("{name}: {reason}");
        Ok(())
    }
}

async fn kubectl_describe(podmeta: &Podmeta, namespace: &TestNamespace, profile: &str) -> Result<String> {
    let program = tokio::task::spawn_blocking(|| KUBERNETES_MODULE.build()).await??.join("kubectl");
    let mut kubectl = Command::new(program);
    kubectl.arg("--kubeconfig").arg(&podmeta.cluster.kubeconfig);
    kubectl.args(["describe", "mdp", "--namespace", &namespace.name, profile]);
    command_output(&kubectl.output().await?).context("kubectl describe mdp")
}

fn failing_roles() -> Vec<FailingRole> {
    let aws = |role: &str| json!({"awsWebIdentity": {"roleArn": aws_role_arn(role)}});
    let role = |name, provider, reason, text| FailingRole { name, provider, reason, text };
    let other_audience = json!({"awsWebIdentity": {"roleArn": aws_role_arn("web"), "audience": "other.example"}});
    let foreign_id = json!({"awsAssumeRole": {"roleArn": aws_role_arn("web"), "externalId": "other/shop"}});
    vec![
        role("foreign-id", foreign_id, "PolicyForbids", "externalId of a role in this namespace"),
        role("denied", aws("denied"), "AccessDenied", "AccessDenied (403)"),
        role("no-role", aws("none"), "AccessDenied", "role/none"),
        role("invalid-token", aws("unknown-audience"), "InvalidIdentityToken", "InvalidIdentityToken (400)"),
        role("expired", aws("expired"), "ExpiredToken", "ExpiredTokenException (400)"),
        role("throttled", aws("throttled"), "Throttled", "Throttling (400)"),
        role("unavailable", aws("unavailable"), "ProviderUnavailable", "InternalFailure (500)"),
        role("forbidden", other_audience, "TokenRequestForbidden", "other.example"),
        role("aliyun-denied", aliyun_role("denied"), "AccessDenied", "AuthenticationFail.NoPermission (403)"),
        role("aliyun-no-role", aliyun_role("none"), "AccessDenied", "EntityNotExist.Role (404)"),
        role("aliyun-expired", aliyun_role("expired"), "ExpiredToken", "AuthenticationFail.OIDCToken.Expired (400)"),
        role("aliyun-throttled", aliyun_role("throttled"), "Throttled", "Throttling.User (400)"),
    ]
}

#[tokio::test]
async fn kubectl_describe_shows_the_cause_of_each_failure_as_condition_and_event() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        allow_cloud_roles(namespace).await?;
        let checked = with_stub_sts(podmeta, namespace, async |stub| {
            let roles = failing_roles();
            for role in &roles {
                namespace.apply(&role_profile(role.name, role.dialect(), role.provider.clone())).await?;
                namespace.apply(&client_pod(role.name, role.name, json!({})).to_string()).await?;
            }
            for role in &roles {
                let running = kube::runtime::conditions::is_pod_running();
                namespace.wait_for::<k8s_openapi::api::core::v1::Pod>(role.name, "the pod runs", running).await?;
                role.check(podmeta, namespace).await?;
            }
            let calls = stub.calls().await?;
            ensure!(calls.iter().all(|call| call.role != "web"), "a call without an allowed token: {calls:?}");
            Ok(())
        })
        .await;
        podmeta.delete_policy(&namespace.name).await?;
        checked
    })
    .await
}
