//! Profiles, Secrets, a pod with credentials, and the instance ID of pods, which tests share.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podmeta_crds::conditions::CREDENTIALS_READY;
use podmeta_metadata::credentials::{USABLE_BY_LABEL, USABLE_BY_PROFILES};
use serde_json::{Value, json};

use crate::kit::{Podmeta, TestNamespace, eventually, has_condition, with_spec};

pub(super) const ACCESS_KEY_ID: &str = "ASIAIOSFODNN7EXAMPLE";
pub(super) const SECRET_ACCESS_KEY: &str = "hunter2";

/// Prints the instance ID, with a token. It tries once.
pub(super) const GET_INSTANCE_ID: &str = "set -e
token=$(curl -sSf -m 10 -X PUT http://169.254.169.254/latest/api/token -H 'X-aws-ec2-metadata-token-ttl-seconds: 60')
curl -sSf -m 10 -H \"X-aws-ec2-metadata-token: $token\" http://169.254.169.254/latest/meta-data/instance-id";

/// Returns the instance ID of a pod by the debug socket of its agent.
pub(super) async fn instance_id(podmeta: &Podmeta, namespace: &TestNamespace, pod: &str) -> Result<String> {
    let node = namespace.node_of(pod).await?;
    let name = format!("{}/{pod}", namespace.name);
    podmeta.query_until_ok(&node, &[&name, "ec2", "/latest/meta-data/instance-id"]).await
}

/// Returns a profile for the pods whose label `app` is the profile's name. Fields of `spec` replace those of the profile.
pub(super) fn profile(name: &str, spec: Value) -> String {
    let profile = json!({
        "apiVersion": "podmeta.dev/v1alpha1", "kind": "MetadataProfile", "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {"app": name}}, "dialects": ["ec2"]},
    });
    with_spec(profile, spec).to_string()
}

/// Returns the labels of a Secret that profiles may use.
pub(super) fn usable_by_profiles() -> Value {
    json!({USABLE_BY_LABEL: USABLE_BY_PROFILES})
}

/// Returns the Secret `keys` with an access key, and with the label of Secrets that profiles may use.
pub(super) fn access_key_secret() -> String {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "labels": usable_by_profiles()},
        "stringData": {"accessKeyId": ACCESS_KEY_ID, "secretAccessKey": SECRET_ACCESS_KEY},
    })
    .to_string()
}

/// Starts pod `web` with profile `web`, fetches its credentials once, and returns the pod's node.
pub(super) async fn start_pod_with_credentials(podmeta: &Podmeta, namespace: &TestNamespace) -> Result<String> {
    namespace.apply(&access_key_secret()).await?;
    namespace.apply(&web_profile("one")).await?;
    let pod = namespace.start_client("web", json!({})).await?;
    let node = pod.spec.and_then(|spec| spec.node_name).context("the pod is not bound to a node")?;
    podmeta.wait_until_programmed(namespace, "web", 1).await?;
    check_credentials(podmeta, namespace, &node).await?;
    let ready = |status: &_| has_condition(status, CREDENTIALS_READY, "True");
    podmeta.wait_for_status(namespace, "web", "credentials are ready", ready).await?;
    Ok(node)
}

/// Checks that pod `web` gets its credentials.
pub(super) async fn check_credentials(podmeta: &Podmeta, namespace: &TestNamespace, node: &str) -> Result<()> {
    let pod = format!("{}/web", namespace.name);
    let path = "/latest/meta-data/iam/security-credentials/r";
    let body = podmeta.query_until_ok(node, &[&pod, "ec2", path]).await?;
    ensure!(body.contains(ACCESS_KEY_ID), "{body}");
    Ok(())
}

/// Edits profile `web`, and waits until pod `web` is served the new value.
pub(super) async fn edit_profile(podmeta: &Podmeta, namespace: &TestNamespace, node: &str, value: &str) -> Result<()> {
    namespace.apply(&web_profile(value)).await?;
    let pod = format!("{}/web", namespace.name);
    eventually(Duration::from_secs(60), "the edited value is served", async || {
        let served = podmeta.query_until_ok(node, &[&pod, "ec2", "/latest/meta-data/edit"]).await?;
        ensure!(served == value, "the served value is {served}");
        Ok(())
    })
    .await
}

fn web_profile(value: &str) -> String {
    let spec = json!({
        "roles": [{"name": "r", "dialect": "ec2", "secret": {"name": "keys"}}],
        "metadata": [{"dialect": "ec2", "path": "edit", "value": value}],
    });
    profile("web", spec)
}
