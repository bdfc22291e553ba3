//! Many pods at once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::kit::{self, Namespace};

const PODS: i32 = 200;

#[tokio::test]
async fn two_hundred_pods_start_and_go() -> Result<()> {
    kit::disturbing_test(async |_, namespace| {
        namespace.default_service_account().await?;
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "storm"},
            "spec": {
                "replicas": PODS,
                "selector": {"matchLabels": {"app": "storm"}},
                "template": {
                    "metadata": {"labels": {"app": "storm"}},
                    "spec": {
                        "terminationGracePeriodSeconds": 0,
                        "containers": [{"name": "pause", "image": "podmeta.test/pause:1", "imagePullPolicy": "Never"}],
                    },
                },
            },
        });
        let started = Instant::now();
        namespace.apply(&deployment.to_string()).await?;
        kit::within(Duration::from_secs(300), "200 pods are ready", async || {
            let storm = namespace.api::<Deployment>().get("storm").await?;
            let ready = storm.status.and_then(|status| status.ready_replicas).unwrap_or_default();
            ensure!(ready == PODS, "{ready} are");
            Ok(())
        })
        .await?;
        let up = started.elapsed();
        namespace.api::<Deployment>().delete("storm", &DeleteParams::foreground()).await.context("cannot delete")?;
        kit::within(Duration::from_secs(120), "200 pods are gone", async || none_left(namespace).await).await?;
        println!(
            "{PODS} pods: ready after {:.1} s, gone {:.1} s later",
            up.as_secs_f64(),
            (started.elapsed() - up).as_secs_f64()
        );
        Ok(())
    })
    .await
}

async fn none_left(namespace: &Namespace) -> Result<()> {
    let left = namespace.api::<Pod>().list_metadata(&ListParams::default()).await?.items.len();
    ensure!(left == 0, "{left} are there");
    Ok(())
}
