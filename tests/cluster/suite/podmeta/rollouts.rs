//! Leader failover and rolling updates: the status of profiles and the served metadata do not change.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use podmeta_crds::conditions::PROGRAMMED;
use podmeta_crds::metadataprofile::MetadataProfileStatus;

use super::fixtures::{check_credentials, edit_profile, start_pod_with_credentials};
use crate::kit::{self, OPERATOR_LABEL, Podmeta, eventually};

async fn leader(podmeta: &Podmeta) -> Result<String> {
    let lease = podmeta.system.api::<Lease>().get("podmeta-operator").await?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity).filter(|holder| !holder.is_empty());
    holder.context("the Lease has no holder")
}

#[tokio::test]
async fn deleted_leader_is_replaced_without_status_changes() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let node = start_pod_with_credentials(podmeta, namespace).await?;
        let before = podmeta.status(namespace, "web").await?;
        let old_leader = leader(podmeta).await?;
        podmeta.system.api::<Pod>().delete(&old_leader, &DeleteParams::default().grace_period(0)).await?;
        let deleted = Instant::now();
        eventually(Duration::from_secs(60), "another replica is the leader", async || {
            let current = leader(podmeta).await?;
            ensure!(current != old_leader, "{current} is still the leader");
            let status = podmeta.status(namespace, "web").await?;
            ensure!(status.conditions == before.conditions, "the status changed: {status:?}, before: {before:?}");
            Ok(())
        })
        .await?;
        println!("another replica became the leader {:?} after the leader was deleted", deleted.elapsed());
        edit_profile(podmeta, namespace, &node, "two").await?;
        let after = podmeta
            .wait_for_status(namespace, "web", "the new leader writes the status", |status| {
                status.observed_generation > before.observed_generation && status.programmed_pods == Some(1)
            })
            .await?;
        // An edit may set Programmed to False for a short time. All other conditions must not have changed.
        let transitions = |status: &MetadataProfileStatus| -> Vec<_> {
            let others = status.conditions.iter().filter(|condition| condition.type_ != PROGRAMMED);
            others.map(|condition| (condition.type_.clone(), condition.last_transition_time.clone())).collect()
        };
        ensure!(transitions(&after) == transitions(&before), "{after:?}, before: {before:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn rolling_update_keeps_status_and_served_metadata() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        let node = start_pod_with_credentials(podmeta, namespace).await?;
        let before = podmeta.status(namespace, "web").await?;
        let old: Vec<_> = podmeta.pods(OPERATOR_LABEL).await?.iter().map(ResourceExt::name_any).collect();
        // Another log filter changes the pod templates of the operator and of the agents.
        podmeta.upgrade(&["--set", "operator.log=debug,agent.log=info"]).await?;
        eventually(Duration::from_secs(60), "the old operator pods are deleted", async || {
            let current = podmeta.pods(OPERATOR_LABEL).await?;
            ensure!(current.iter().all(|pod| !old.contains(&pod.name_any())), "an old operator pod exists");
            let status = podmeta.status(namespace, "web").await?;
            ensure!(status == before, "the status changed: {status:?}, before: {before:?}");
            Ok(())
        })
        .await?;
        check_credentials(podmeta, namespace, &node).await?;
        edit_profile(podmeta, namespace, &node, "two").await?;
        let updated = podmeta.wait_for_status(namespace, "web", "the edit is programmed", |status| {
            status.observed_generation > before.observed_generation && status.programmed_pods == Some(1)
        });
        updated.await.map(drop)
    })
    .await
}
