//! Operators that start while the API server holds an invalid profile, or an object that they cannot decode.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use podmeta_crds::conditions::ACCEPTED;
use serde_json::json;

use super::fixtures::{edit_profile, profile, start_pod_with_credentials};
use crate::kit::{self, OPERATOR_LABEL, eventually, has_condition};

#[tokio::test]
async fn operator_started_after_invalid_edit_serves_last_valid_profile() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        namespace.start_client("web", json!({})).await?;
        let with_expression = |expression: &str| {
            let item = json!({"dialect": "ec2", "path": "edit", "expression": expression});
            profile("web", json!({"podSelector": {}, "metadata": [item]}))
        };
        namespace.apply(&with_expression("'valid'")).await?;
        podmeta.wait_until_programmed(namespace, "web", 1).await?;
        namespace.apply(&with_expression("'invalid' +")).await?;
        let rejected = |status: &_| has_condition(status, ACCEPTED, "False");
        podmeta.wait_for_status(namespace, "web", "the edit is not accepted", rejected).await?;
        podmeta.without_operator(async || Ok(())).await?;
        // The new operators have never seen the valid profile, and compile this pod for the first time.
        namespace.start_client("late", json!({})).await?;
        podmeta.wait_until_programmed(namespace, "web", 2).await?;
        for pod in ["web", "late"] {
            let node = namespace.node_of(pod).await?;
            let pod = format!("{}/{pod}", namespace.name);
            let served = podmeta.query_until_ok(&node, &[&pod, "ec2", "/latest/meta-data/edit"]).await?;
            ensure!(served == "valid", "pod {pod} is served {served}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn operator_started_with_undecodable_object_serves_all_others() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let node = start_pod_with_credentials(podmeta, namespace).await?;
        // The API server accepts this timestamp, but the Rust type cannot represent it.
        let name = format!("far-{}", namespace.name);
        let resource = ApiResource::erase::<Namespace>(&());
        let namespaces: Api<DynamicObject> = Api::all_with(podmeta.cluster.client.clone(), &resource);
        let manifest = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        namespaces.create(&PostParams::default(), &serde_json::from_value(manifest)?).await?;
        let condition = json!({"type": "Far", "status": "True", "lastTransitionTime": "9999-12-31T23:59:59Z"});
        let status = Patch::Merge(json!({"status": {"conditions": [condition]}}));
        let checks = async {
            namespaces.patch_status(&name, &PatchParams::default(), &status).await?;
            let typed: Api<Namespace> = Api::all(podmeta.cluster.client.clone());
            ensure!(typed.get(&name).await.is_err(), "the test can decode namespace {name}");
            let old: Vec<_> = podmeta.pods(OPERATOR_LABEL).await?.iter().map(ResourceExt::name_any).collect();
            for operator in &old {
                podmeta.system.api::<Pod>().delete(operator, &DeleteParams::default()).await?;
            }
            let (new, _) = podmeta.wait_until_ready().await?;
            ensure!(new.iter().all(|pod| !old.contains(&pod.name_any())), "an old operator pod exists");
            edit_profile(podmeta, namespace, &node, "two").await
        };
        let checked: Result<()> = checks.await;
        namespaces.delete(&name, &DeleteParams::default()).await?;
        let deleted = eventually(Duration::from_secs(60), "the namespace is deleted", async || {
            ensure!(namespaces.get_opt(&name).await?.is_none(), "namespace {name} exists");
            Ok(())
        });
        checked.and(deleted.await)
    })
    .await
}
