//! A pod with more labels than its agent can hold.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use podmeta_crds::conditions::ACCEPTED;
use serde_json::{Value, json};

use super::fixtures::profile;
use crate::kit::{self, client_pod, eventually, find_condition};

/// Returns a pod with 4,000 labels of the largest length without a prefix. As tags of two dialects they are over 1 MiB of JSON.
fn pod_with_many_labels(node: &str) -> Value {
    let label = |number: u16| (format!("l{number:04}-{}", "k".repeat(57)), "v".repeat(63));
    let app = ("app".to_owned(), "web".to_owned());
    let labels: BTreeMap<String, String> = (0..4000).map(label).chain([app]).collect();
    let mut pod = client_pod("large", "web", json!({"nodeName": node}));
    if let Value::Object(fields) = &mut pod {
        fields.insert("metadata".to_owned(), json!({"name": "large", "labels": labels}));
    }
    pod
}

#[tokio::test]
async fn pod_with_4000_labels_gets_the_clouds_number_of_tags_and_its_agent_follows_changes() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        let node = podmeta.cluster.node("a")?.name;
        let spec = json!({
            "dialects": ["ec2", "ecs"],
            "metadataOptions": {"instanceMetadataTags": "enabled"},
            "tags": {"labels": ["*"]},
        });
        namespace.apply(&profile("web", spec)).await?;
        for name in ["web", "other"] {
            namespace.start(name, &client_pod(name, "web", json!({"nodeName": node}))).await?;
        }
        podmeta.wait_until_programmed(namespace, "web", 2).await?;
        namespace.apply(&pod_with_many_labels(&node).to_string()).await?;
        podmeta.wait_until_programmed(namespace, "web", 3).await?;
        let [large, other] = ["large", "other"].map(|name| format!("{}/{name}", namespace.name));
        for (dialect, max) in [("ec2", 50), ("ecs", 20)] {
            let path = "/latest/meta-data/tags/instance/";
            let tags = podmeta.query_until_ok(&node, &[&large, dialect, path]).await?;
            ensure!(tags.lines().count() == max, "{dialect}: {} tags", tags.lines().count());
        }
        let restricted = |status: &_| {
            find_condition(status, ACCEPTED).is_some_and(|condition| {
                condition.reason == "TooManyTags" && condition.message.contains("spec.tags: ec2 allows 50 tags")
            })
        };
        podmeta.wait_for_status(namespace, "web", "the condition names spec.tags", restricted).await?;

        namespace.api::<Pod>().delete("other", &DeleteParams::default()).await?;
        eventually(Duration::from_secs(30), "the agent has removed the deleted pod", async || {
            let output = podmeta.query(&node, &["--include", &other, "ec2", "/latest/meta-data/"]).await?;
            ensure!(output.stdout.contains(" 503 "), "{output:?}");
            Ok(())
        })
        .await?;
        podmeta.wait_until_ready().await.map(drop)
    })
    .await
}
