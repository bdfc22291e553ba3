//! Pods with many labels: one within the limit of labels, and one over it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use podmeta_crds::conditions::ACCEPTED;
use serde_json::{Value, json};

use super::fixtures::profile;
use crate::kit::{self, client_pod, eventually, find_condition};

/// Returns a pod with this many labels of the largest length without a prefix: 126 bytes each.
fn pod_with_many_labels(name: &str, count: u16, node: &str) -> Value {
    let label = |number: u16| (format!("l{number:04}-{}", "k".repeat(57)), "v".repeat(63));
    let app = ("app".to_owned(), "web".to_owned());
    let labels: BTreeMap<String, String> = (0..count).map(label).chain([app]).collect();
    let mut pod = client_pod(name, "web", json!({"nodeName": node}));
    if let Value::Object(fields) = &mut pod {
        fields.insert("metadata".to_owned(), json!({"name": name, "labels": labels}));
    }
    pod
}

#[tokio::test]
async fn pod_with_500_labels_gets_the_clouds_number_of_tags_and_one_with_4000_gets_nothing() -> Result<()> {
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
        namespace.apply(&pod_with_many_labels("huge", 4000, &node).to_string()).await?;
        namespace.apply(&pod_with_many_labels("large", 500, &node).to_string()).await?;
        podmeta.wait_until_programmed(namespace, "web", 3).await?;
        let [huge, large, other] = ["huge", "large", "other"].map(|name| format!("{}/{name}", namespace.name));
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

        // The agents still follow changes.
        namespace.api::<Pod>().delete("other", &DeleteParams::default()).await?;
        eventually(
            Duration::from_secs(30),
            "the agent serves neither the deleted pod nor the one over the limit",
            async || {
                for pod in [&other, &huge] {
                    let output = podmeta.query(&node, &["--include", pod, "ec2", "/latest/meta-data/"]).await?;
                    ensure!(output.stdout.contains(" 503 "), "{pod}: {output:?}");
                }
                Ok(())
            },
        )
        .await?;
        podmeta.wait_until_ready().await.map(drop)
    })
    .await
}
