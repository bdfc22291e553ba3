//! Many pods at the same time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::kit;

const REPLICAS: i32 = 200;

#[tokio::test]
async fn deployment_of_200_pods_starts_and_stops() -> Result<()> {
    kit::exclusive_cluster_test(async |_, namespace| {
        namespace.wait_for_service_account().await?;
        let manifest = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"},
            "spec": {
                "replicas": REPLICAS,
                "selector": {"matchLabels": {"app": "many"}},
                "template": {
                    "metadata": {"labels": {"app": "many"}},
                    "spec": {
                        "terminationGracePeriodSeconds": 0,
                        "containers": [{"name": "pause", "image": "podmeta.test/pause:1", "imagePullPolicy": "Never"}],
                    },
                },
            },
        });
        let started = Instant::now();
        namespace.apply(&manifest.to_string()).await?;
        let deployments = namespace.api::<Deployment>();
        kit::eventually(Duration::from_secs(300), "200 pods are ready", async || {
            let status = deployments.get("many").await?.status;
            let ready = status.and_then(|status| status.ready_replicas).unwrap_or_default();
            ensure!(ready == REPLICAS, "{ready} pods are ready");
            Ok(())
        })
        .await?;
        let ready_after = started.elapsed();
        deployments.delete("many", &DeleteParams::foreground()).await.context("cannot delete the Deployment")?;
        kit::eventually(Duration::from_secs(120), "200 pods are deleted", async || {
            let left = namespace.api::<Pod>().list_metadata(&ListParams::default()).await?.items.len();
            ensure!(left == 0, "{left} pods are left");
            Ok(())
        })
        .await?;
        let deleted_after = started.elapsed() - ready_after;
        println!(
            "{REPLICAS} pods: ready after {:.1} s, deleted after {:.1} s",
            ready_after.as_secs_f64(),
            deleted_after.as_secs_f64()
        );
        Ok(())
    })
    .await
}
