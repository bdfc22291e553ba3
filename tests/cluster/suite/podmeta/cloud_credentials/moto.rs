//! boto3 in pods with sessions of moto's STS. moto verifies signatures of all calls or of none, so two servers run.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::DeleteParams;
use podmeta_cluster::images::{CLIENT, MOTO_DIR};
use serde_json::{Value, json};

use super::{ACCOUNT, allow_cloud_roles, aws_role_arn, role_profile, with_values};
use crate::kit::{self, Podmeta, TestNamespace, client_pod, eventually};

/// The number of actions in [`SET_UP_SCRIPT`]. The server checks the signatures of all further ones.
const UNCHECKED_ACTIONS: u8 = 5;

/// The Secret with the operator's own keys, in the namespace of the operator.
const OPERATOR_KEYS: &str = "moto-operator-keys";

/// Creates the role `web` and the operator's user at the server of an URL. Prints the keys of the user as JSON.
const SET_UP_SCRIPT: &str = r#"
import json, sys
import boto3

def policy(action, **fields):
    statement = {"Effect": "Allow", "Action": action, **fields}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})

iam = boto3.client("iam", endpoint_url=sys.argv[1], region_name="us-east-1",
                   aws_access_key_id="setup", aws_secret_access_key="setup")
iam.create_role(RoleName="web", AssumeRolePolicyDocument=policy("sts:AssumeRole", Principal={"AWS": "*"}))
iam.put_role_policy(RoleName="web", PolicyName="sts", PolicyDocument=policy("sts:GetCallerIdentity", Resource="*"))
iam.create_user(UserName="operator")
iam.put_user_policy(UserName="operator", PolicyName="sts", PolicyDocument=policy("sts:*", Resource="*"))
key = iam.create_access_key(UserName="operator")["AccessKey"]
print(json.dumps({"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}))
"#;

/// Prints the ARN of the pod's identity. Credentials and region come from the metadata service, the endpoint from the
/// environment.
const GET_CALLER_IDENTITY: &str = "
import boto3
from botocore.session import Session
from botocore.utils import IMDSRegionProvider
region = IMDSRegionProvider(Session()).provide()
print(boto3.client('sts', region_name=region).get_caller_identity()['Arn'])
";

/// The two servers of moto in one pod.
struct MotoServers {
    /// The URL of the server that does not check signatures.
    unchecked: String,
    /// The URL of the server that checks signatures.
    checking: String,
    /// The keys of the operator's user at the checking server.
    operator_keys: Value,
}

impl MotoServers {
    /// Starts the servers, with the role `web` and the user of the operator at each.
    async fn start(namespace: &TestNamespace) -> Result<Self> {
        let server = |name: &str, port: u16, environment: Value| {
            let program = "import sys, moto.server; moto.server.main(sys.argv[1:])";
            json!({
                "name": name, "image": CLIENT, "imagePullPolicy": "Never",
                "command": ["python3", "-uc", program, "-H", "0.0.0.0", "-p", port.to_string()], "env": environment,
            })
        };
        let packages = json!({"name": "PYTHONPATH", "value": MOTO_DIR});
        let limit = json!({"name": "INITIAL_NO_AUTH_ACTION_COUNT", "value": UNCHECKED_ACTIONS.to_string()});
        let mut pod = client_pod("moto", "moto", json!({}));
        let containers = pod.pointer_mut("/spec/containers").and_then(Value::as_array_mut);
        containers
            .context("the pod has no containers")?
            .extend([server("unchecked", 5000, json!([packages])), server("checking", 5001, json!([packages, limit]))]);
        let pod: Pod = namespace.start("moto", &pod).await?;
        let address = pod.status.and_then(|status| status.pod_ip).context("the pod has no address")?;
        let [unchecked, checking] =
            [5000, 5001].map(|port| format!("http://{}:{port}", podmeta_cluster::layout::url_host(&address)));
        let mut operator_keys = Value::Null;
        for (container, url) in [("unchecked", &unchecked), ("checking", &checking)] {
            namespace.wait_for_log("moto", container, "Running on").await?;
            let printed = namespace.run("moto", &["python3", "-c", SET_UP_SCRIPT, url]).await?;
            operator_keys = serde_json::from_str(&printed)?;
        }
        Ok(Self { unchecked, checking, operator_keys })
    }
}

/// Starts a pod in which nothing is configured but the STS endpoint. Checks that its identity is the role `web`, with the
/// pod's session name.
async fn check_caller_identity(
    podmeta: &Podmeta,
    namespace: &TestNamespace,
    provider: &str,
    endpoint: &str,
) -> Result<()> {
    let name = provider.to_lowercase();
    let role = json!({provider: {"roleArn": aws_role_arn("web")}});
    namespace.apply(&role_profile(&name, "ec2", role)).await?;
    let container = json!({
        "name": "client", "image": CLIENT, "imagePullPolicy": "Never", "command": ["sleep", "infinity"],
        "env": [{"name": "AWS_ENDPOINT_URL_STS", "value": endpoint}],
    });
    namespace.start_client(&name, json!({"containers": [container]})).await?;
    podmeta.wait_until_programmed(namespace, &name, 1).await?;
    // boto3 waits for the first credentials for one second only.
    let arn = eventually(Duration::from_secs(30), "get-caller-identity succeeds", async || {
        namespace.run(&name, &["python3", "-c", GET_CALLER_IDENTITY]).await
    })
    .await?;
    let short_namespace: String = namespace.name.chars().take(20).collect();
    let expected = format!("arn:aws:sts::{ACCOUNT}:assumed-role/web/{short_namespace}.{name}.");
    ensure!(arn.starts_with(&expected), "the identity is {arn}, expected {expected}…");
    println!("{provider}: {}", arn.trim());
    Ok(())
}

#[tokio::test]
async fn boto3_identity_is_the_role_of_aws_web_identity_and_of_aws_assume_role() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let moto = MotoServers::start(namespace).await?;
        let endpoint = format!("credentials.aws.stsEndpoint={}", moto.unchecked);
        with_values(podmeta, &[&endpoint], async || {
            check_caller_identity(podmeta, namespace, "awsWebIdentity", &moto.unchecked).await
        })
        .await?;

        let keys = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": OPERATOR_KEYS}, "stringData": moto.operator_keys});
        podmeta.system.apply(&keys.to_string()).await?;
        allow_cloud_roles(namespace).await?;
        let endpoint = format!("credentials.aws.stsEndpoint={}", moto.checking);
        let secret = format!("credentials.aws.secretName={OPERATOR_KEYS}");
        let checked = with_values(podmeta, &[&endpoint, &secret], async || {
            check_caller_identity(podmeta, namespace, "awsAssumeRole", &moto.checking).await
        })
        .await;
        podmeta.delete_policy(&namespace.name).await?;
        podmeta.system.api::<Secret>().delete(OPERATOR_KEYS, &DeleteParams::default()).await?;
        checked
    })
    .await
}
