//! Credentials of cloud roles. The operator calls an STS server in a pod: moto, or a stub that verifies tokens.

mod aliyun;
mod authorization;
mod failures;
mod moto;
mod shared_calls;
mod stub_sts;

use anyhow::Result;
use serde_json::{Value, json};

use super::fixtures::profile;
use crate::kit::{Podmeta, TestNamespace};

/// The account of all roles.
const ACCOUNT: &str = "123456789012";

/// Settings of the chart that the tests change, with their default values.
const DEFAULT_VALUES: [&str; 3] =
    ["credentials.aws.stsEndpoint=", "credentials.aws.secretName=", "credentials.aliyun.stsEndpoint="];

/// Runs `body` while the chart has these values. Restores the default values afterwards, also on errors.
async fn with_values(podmeta: &Podmeta, values: &[&str], body: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let set = |values: &[&str]| values.iter().flat_map(|value| ["--set".to_owned(), (*value).to_owned()]).collect();
    let upgrade = async |values: &[&str]| {
        let arguments: Vec<String> = set(values);
        podmeta.upgrade(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let result = match upgrade(values).await {
        Ok(()) => body().await,
        Err(error) => Err(error),
    };
    upgrade(&DEFAULT_VALUES).await?;
    result
}

/// Returns an object with the fields of another one added.
fn with_fields(mut object: Value, fields: Value) -> Value {
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields);
    }
    object
}

/// Returns the ARN of an AWS role.
fn aws_role_arn(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/{name}")
}

/// Returns the field of the provider `aliyunOidc` for a role.
fn aliyun_role(name: &str) -> Value {
    let account = "acs:ram::1234567890123456";
    let fields = json!({"roleArn": format!("{account}:role/{name}"), "oidcProviderArn": format!("{account}:oidc-provider/test")});
    json!({"aliyunOidc": fields})
}

/// Returns a profile with the role `web`. `provider` is an object with the field of the role's provider.
fn role_profile(name: &str, dialect: &str, provider: Value) -> String {
    let role = with_fields(json!({"name": "web", "dialect": dialect}), provider);
    profile(name, json!({"dialects": [dialect], "instance": {"region": "eu-central-1"}, "roles": [role]}))
}

/// Applies a policy that allows all roles of clouds in a namespace. `awsAssumeRole` needs one.
async fn allow_cloud_roles(namespace: &TestNamespace) -> Result<()> {
    let policy = json!({
        "apiVersion": "podmeta.dev/v1alpha1", "kind": "MetadataPolicy", "metadata": {"name": namespace.name},
        "spec": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}},
            "allowedProviders": ["awsWebIdentity", "awsAssumeRole", "aliyunOidc"], "allowedRoleArns": ["*"],
        },
    });
    namespace.apply(&policy.to_string()).await
}
