//! What pods that are known go on to get while something is away, and that all is well again afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use podmeta_crds::conditions::ACCEPTED;
use serde_json::json;

use super::profile;
use super::served::{all_ready, credentials, edit, operators, pod_with_credentials};
use crate::kit::{self, Podmeta, condition, within};

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(120);

async fn leader(podmeta: &Podmeta) -> Result<String> {
    let lease = podmeta.system.api::<Lease>().get("podmeta-operator").await?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity).filter(|holder| !holder.is_empty());
    holder.context("no replica leads")
}

#[tokio::test]
async fn when_the_leader_goes_the_other_leads_and_no_status_moves() -> Result<()> {
    kit::disturbing_podmeta_test(async |podmeta, namespace| {
        let node = pod_with_credentials(podmeta, namespace).await?;
        let before = podmeta.status(namespace, "web", "it is there", |_| true).await?;
        let led = leader(podmeta).await?;
        podmeta.system.api::<Pod>().delete(&led, &DeleteParams::default().grace_period(0)).await?;
        let began = Instant::now();
        within(Duration::from_secs(60), "another replica leads", async || {
            let now = leader(podmeta).await?;
            ensure!(now != led, "{now} still leads");
            let said = podmeta.status(namespace, "web", "it is there", |_| true).await?;
            ensure!(said.conditions == before.conditions, "the status moved");
            Ok(())
        })
        .await?;
        println!("another replica led {:?} after the leader was killed", began.elapsed());
        edit(podmeta, namespace, &node, "two").await?;
        let after = podmeta
            .status(namespace, "web", "the new leader says so", |said| {
                said.observed_generation > before.observed_generation && said.programmed_pods == Some(1)
            })
            .await?;
        let times = |status: &podmeta_crds::metadataprofile::MetadataProfileStatus| {
            status
                .conditions
                .iter()
                .map(|one| (one.type_.clone(), one.last_transition_time.clone()))
                .collect::<Vec<_>>()
        };
        // Programmed was false for a moment, or it was not: the others never were.
        let others = |status| times(status).into_iter().filter(|(kind, _)| kind != "Programmed").collect::<Vec<_>>();
        ensure!(others(&after) == others(&before), "{after:?} before: {before:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_agent_that_starts_while_the_operator_is_away_serves_what_it_did() -> Result<()> {
    kit::disturbing_podmeta_test(async |podmeta, namespace| {
        let node = pod_with_credentials(podmeta, namespace).await?;
        let web = format!("{}/web", namespace.name);
        let signed = [web.as_str(), "ec2", "/latest/dynamic/instance-identity/rsa2048"];
        let before = podmeta.answer(&node, &signed).await?;
        podmeta.scale_operator(0).await?;
        let gone = within(Duration::from_secs(60), "no operator runs", async || {
            ensure!(operators(podmeta).await?.is_empty(), "an operator is there");
            Ok(())
        });
        let checked = async {
            gone.await?;
            credentials(podmeta, namespace, &node).await?;
            let old = podmeta.agent_on(&node).await?;
            podmeta.system.api::<Pod>().delete(&old, &DeleteParams::default().grace_period(0)).await?;
            within(Duration::from_secs(60), "a new agent serves", async || {
                ensure!(podmeta.agent_on(&node).await? != old, "the old one is still there");
                credentials(podmeta, namespace, &node).await?;
                ensure!(podmeta.answer(&node, &signed).await? == before, "another document");
                Ok(())
            })
            .await?;
            // A pod that the operator has not told of is told to come again.
            namespace.client("late", json!({})).await?;
            let late = format!("{}/late", namespace.name);
            let asked = podmeta.ask(&node, &["--include", "--tokenless", &late, "ec2", "/latest/meta-data/"]).await?;
            let answer = asked.stdout.to_lowercase();
            ensure!(answer.contains(" 503 ") && answer.contains("retry-after: 1"), "{asked:?}");
            Ok(())
        };
        let checked: Result<()> = checked.await;
        podmeta.scale_operator(2).await?;
        checked?;
        edit(podmeta, namespace, &node, "two").await
    })
    .await
}

#[tokio::test]
async fn known_pods_are_served_while_the_api_server_is_away() -> Result<()> {
    kit::disturbing_podmeta_test(async |podmeta, namespace| {
        let node = pod_with_credentials(podmeta, namespace).await?;
        // Asked on the node itself, in the agent's own files: without the API server there is no exec.
        let machine = podmeta.cluster.node_named(&node);
        let agent = podmeta.agent_process(&node).await?;
        let ask = format!(
            "nsenter --target {agent} --mount -- /podmeta-node-agent ask {}/web ec2 /latest/meta-data/edit /latest/meta-data/iam/security-credentials/r",
            namespace.name
        );
        let asked = machine.sh(&ask).await?;
        ensure!(asked.starts_with("one") && asked.contains("ASIAIOSFODNN7EXAMPLE"), "{asked}");
        podmeta.cluster.stop_api_server().await?;
        let end = Instant::now() + AWAY;
        let mut served = 0;
        let checked = async {
            while Instant::now() < end {
                let asked = machine.sh(&ask).await?;
                ensure!(asked.starts_with("one") && asked.contains("ASIAIOSFODNN7EXAMPLE"), "{asked}");
                served += 1;
            }
            Ok(())
        };
        let checked: Result<()> = checked.await;
        podmeta.cluster.start_api_server().await?;
        println!("{served} times asked in {AWAY:?} without an API server");
        let edited = edit(podmeta, namespace, &node, "two").await;
        let awake = podmeta.cluster.wake().await;
        checked.and(edited).and(awake)?;
        ensure!(served > 10, "only {served} times");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_rolling_update_of_everything_moves_no_status_and_takes_no_answer_away() -> Result<()> {
    kit::disturbing_podmeta_test(async |podmeta, namespace| {
        let node = pod_with_credentials(podmeta, namespace).await?;
        let before = podmeta.status(namespace, "web", "it is there", |_| true).await?;
        let old: Vec<_> = operators(podmeta).await?.iter().map(ResourceExt::name_any).collect();
        // Another log filter is another pod template, for the operator and the agents.
        podmeta.upgrade(&["--set", "operator.log=debug,agent.log=info"]).await?;
        within(Duration::from_secs(60), "the old operators are gone", async || {
            let now = operators(podmeta).await?;
            ensure!(now.iter().all(|pod| !old.contains(&pod.name_any())), "an old one is there");
            let said = podmeta.status(namespace, "web", "it is there", |_| true).await?;
            ensure!(said == before, "the status moved: {said:?}, before {before:?}");
            Ok(())
        })
        .await?;
        credentials(podmeta, namespace, &node).await?;
        edit(podmeta, namespace, &node, "two").await?;
        let said = podmeta.status(namespace, "web", "it is programmed", |said| {
            said.observed_generation > before.observed_generation && said.programmed_pods == Some(1)
        });
        said.await.map(drop)
    })
    .await
}

#[tokio::test]
async fn operators_that_start_after_a_wrong_edit_serve_what_was_valid_before() -> Result<()> {
    kit::disturbing_podmeta_test(async |podmeta, namespace| {
        namespace.client("web", json!({})).await?;
        let item = |expression: &str| {
            let item = json!({"dialect": "ec2", "path": "edit", "expression": expression});
            profile("web", json!({"podSelector": {}, "metadata": [item]}))
        };
        namespace.apply(&item("'right'")).await?;
        podmeta.status(namespace, "web", "it is programmed", |said| said.programmed_pods == Some(1)).await?;
        namespace.apply(&item("'wrong' +")).await?;
        let refused = |said: &_| condition(said, ACCEPTED).is_some_and(|no| no.status == "False");
        podmeta.status(namespace, "web", "the edit is refused", refused).await?;
        podmeta.scale_operator(0).await?;
        let gone = within(Duration::from_secs(60), "no operator runs", async || {
            ensure!(operators(podmeta).await?.is_empty(), "an operator is there");
            Ok(())
        });
        let gone = gone.await;
        podmeta.scale_operator(2).await?;
        gone?;
        // A pod that no operator knew before the edit: its answer comes from one that has started since.
        namespace.client("late", json!({})).await?;
        podmeta.status(namespace, "web", "it serves both", |said| said.programmed_pods == Some(2)).await?;
        for pod in ["web", "late"] {
            let node = namespace.node_of(pod).await?;
            let pod = format!("{}/{pod}", namespace.name);
            let served = podmeta.answer(&node, &[&pod, "ec2", "/latest/meta-data/edit"]).await?;
            ensure!(served == "right", "{pod} is served {served}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn operators_that_start_beside_an_object_that_cannot_be_read_serve_all_others() -> Result<()> {
    kit::disturbing_podmeta_test(async |podmeta, namespace| {
        let node = pod_with_credentials(podmeta, namespace).await?;
        // Kubernetes holds a time that Rust's types do not.
        let far = format!("far-{}", namespace.name);
        let kind = ApiResource::erase::<Namespace>(&());
        let namespaces: Api<DynamicObject> = Api::all_with(podmeta.cluster.client.clone(), &kind);
        let wanted = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": far}});
        namespaces.create(&PostParams::default(), &serde_json::from_value(wanted)?).await?;
        let condition = json!({"type": "Far", "status": "True", "lastTransitionTime": "9999-12-31T23:59:59Z"});
        let status = Patch::Merge(json!({"status": {"conditions": [condition]}}));
        let checked = async {
            namespaces.patch_status(&far, &PatchParams::default(), &status).await?;
            let typed: Api<Namespace> = Api::all(podmeta.cluster.client.clone());
            ensure!(typed.get(&far).await.is_err(), "this test can read it too");
            let old: Vec<_> = operators(podmeta).await?.iter().map(ResourceExt::name_any).collect();
            for operator in &old {
                podmeta.system.api::<Pod>().delete(operator, &DeleteParams::default()).await?;
            }
            let (new, _) = all_ready(podmeta).await?;
            ensure!(new.iter().all(|pod| !old.contains(&pod.name_any())), "an old operator is there");
            edit(podmeta, namespace, &node, "two").await
        };
        let checked: Result<()> = checked.await;
        namespaces.delete(&far, &DeleteParams::default()).await?;
        let gone = within(Duration::from_secs(60), "it is gone", async || {
            ensure!(namespaces.get_opt(&far).await?.is_none(), "namespace {far} is there");
            Ok(())
        });
        checked.and(gone.await)
    })
    .await
}
