//! Account, region and pod in signed identity documents.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podmeta_crds::conditions::ACCEPTED;
use serde_json::{Value, json};

use super::fixtures::profile;
use crate::kit::{self, CLUSTER_ACCOUNT, CLUSTER_REGION, Podmeta, eventually, has_condition};

const DOCUMENT_PATH: &str = "/latest/dynamic/instance-identity/document";

#[tokio::test]
async fn profile_account_and_region_are_signed_only_if_a_policy_lists_them() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        let claims = json!({"instance": {"accountId": "999999999999", "region": "us-east-1"}});
        namespace.apply(&profile("web", claims)).await?;
        let pod = namespace.start_client("web", json!({})).await?;
        let uid = pod.metadata.uid.context("the pod has no UID")?;
        let node = pod.spec.and_then(|spec| spec.node_name).context("the pod is not bound to a node")?;
        podmeta.wait_until_programmed(namespace, "web", 1).await?;
        let name = format!("{}/web", namespace.name);

        let document = document(podmeta, &node, &name).await?;
        expect_account_and_region(&document, CLUSTER_ACCOUNT, CLUSTER_REGION)?;
        let pod = ["podNamespace", "podName", "podUid", "serviceAccountName"].map(|key| document.get(key));
        let expected = [&namespace.name, "web", &uid, "default"].map(Value::from);
        ensure!(pod == expected.each_ref().map(Some), "{document}");
        // Items of the tree are not signed: they have the profile's values.
        let region = podmeta.query_until_ok(&node, &[&name, "ec2", "/latest/meta-data/placement/region"]).await?;
        ensure!(region == "us-east-1", "{region}");

        let policy = |accounts: &[&str], regions: &[&str]| {
            let namespace_selector = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace.name}});
            json!({
                "apiVersion": "podmeta.dev/v1alpha1", "kind": "MetadataPolicy", "metadata": {"name": namespace.name},
                "spec": {
                    "namespaceSelector": namespace_selector, "allowedAccountIds": accounts, "allowedRegions": regions,
                },
            })
        };
        namespace.apply(&policy(&["999999999999"], &["us-east-1"]).to_string()).await?;
        wait_for_account_and_region(podmeta, &node, &name, "999999999999", "us-east-1").await?;
        namespace.apply(&policy(&["888888888888"], &["eu-west-1"]).to_string()).await?;
        wait_for_account_and_region(podmeta, &node, &name, CLUSTER_ACCOUNT, CLUSTER_REGION).await?;
        let is_forbidden = |status: &_| has_condition(status, ACCEPTED, "False");
        podmeta.wait_for_status(namespace, "web", "the policy forbids the claims", is_forbidden).await?;
        podmeta.delete_policy(&namespace.name).await
    })
    .await
}

async fn document(podmeta: &Podmeta, node: &str, pod: &str) -> Result<Value> {
    let text = podmeta.query_until_ok(node, &[pod, "ec2", DOCUMENT_PATH]).await?;
    serde_json::from_str(&text).with_context(|| format!("the document is not JSON: {text}"))
}

fn expect_account_and_region(document: &Value, account: &str, region: &str) -> Result<()> {
    let found = ["accountId", "region"].map(|key| document.get(key).and_then(Value::as_str));
    ensure!(found == [Some(account), Some(region)], "{document}");
    Ok(())
}

async fn wait_for_account_and_region(
    podmeta: &Podmeta,
    node: &str,
    pod: &str,
    account: &str,
    region: &str,
) -> Result<()> {
    eventually(Duration::from_secs(60), "the signed document changes", async || {
        expect_account_and_region(&document(podmeta, node, pod).await?, account, region)
    })
    .await
}
