//! What pods that are known go on to get while something is away, and that all is well again afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use podmeta_crds::conditions::CREDENTIALS_READY;
use serde_json::json;

use super::profile;
use crate::kit::{self, Namespace, Podmeta, condition, within};

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(20);

/// Prints the process id of a node's agent, by what every shell has.
const FIND_AGENT: &str = r#"for process in /proc/[0-9]*; do
  case "$(tr '\0' ' ' 2>/dev/null < "$process/cmdline")" in
    "/podmeta-node-agent serve "*) echo "${process#/proc/}"; exit;;
  esac
done
exit 1"#;

/// A pod with credentials that were asked for; the node it is on.
async fn pod_with_credentials(podmeta: &Podmeta, namespace: &Namespace) -> Result<String> {
    let keys = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
        "stringData": {"accessKeyId": "ASIAIOSFODNN7EXAMPLE", "secretAccessKey": "s"},
    });
    namespace.apply(&keys.to_string()).await?;
    let spec = json!({
        "roles": [{"name": "r", "dialect": "ec2", "secret": {"name": "keys"}}],
        "metadata": [{"dialect": "ec2", "path": "edit", "value": "one"}],
    });
    namespace.apply(&profile("web", spec)).await?;
    let pod = namespace.client("web", json!({})).await?;
    let node = pod.spec.and_then(|spec| spec.node_name).context("the pod is on no node")?;
    podmeta.status(namespace, "web", "it is programmed", |said| said.programmed_pods == Some(1)).await?;
    credentials(podmeta, namespace, &node).await?;
    let given = |said: &_| condition(said, CREDENTIALS_READY).is_some_and(|ready| ready.status == "True");
    podmeta.status(namespace, "web", "credentials were given", given).await?;
    Ok(node)
}

async fn credentials(podmeta: &Podmeta, namespace: &Namespace, node: &str) -> Result<()> {
    let pod = format!("{}/web", namespace.name);
    let path = "/latest/meta-data/iam/security-credentials/r";
    let given = podmeta.answer(node, &[&pod, "ec2", path]).await?;
    ensure!(given.contains("ASIAIOSFODNN7EXAMPLE"), "{given}");
    Ok(())
}

/// Edits the profile, and waits until the pod has it.
async fn edit(podmeta: &Podmeta, namespace: &Namespace, node: &str, value: &str) -> Result<()> {
    let spec = json!({
        "roles": [{"name": "r", "dialect": "ec2", "secret": {"name": "keys"}}],
        "metadata": [{"dialect": "ec2", "path": "edit", "value": value}],
    });
    namespace.apply(&profile("web", spec)).await?;
    let pod = format!("{}/web", namespace.name);
    within(Duration::from_secs(60), "the edit is there", async || {
        let served = podmeta.answer(node, &[&pod, "ec2", "/latest/meta-data/edit"]).await?;
        ensure!(served == value, "it is {served}");
        Ok(())
    })
    .await
}

async fn operators(podmeta: &Podmeta) -> Result<Vec<Pod>> {
    let all = ListParams::default().labels("app.kubernetes.io/component=operator");
    Ok(podmeta.system.api::<Pod>().list(&all).await?.items)
}

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
        podmeta.scale_operator(0).await?;
        let gone = within(Duration::from_secs(60), "no operator runs", async || {
            ensure!(operators(podmeta).await?.is_empty(), "an operator is there");
            Ok(())
        });
        let checked = async {
            gone.await?;
            credentials(podmeta, namespace, &node).await?;
            let before = podmeta.agent_on(&node).await?;
            podmeta.system.api::<Pod>().delete(&before, &DeleteParams::default().grace_period(0)).await?;
            within(Duration::from_secs(60), "a new agent serves", async || {
                ensure!(podmeta.agent_on(&node).await? != before, "the old one is still there");
                credentials(podmeta, namespace, &node).await
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
        let agent = machine.sh(FIND_AGENT).await?;
        let ask = format!(
            "nsenter --target {} --mount -- /podmeta-node-agent ask {}/web ec2 /latest/meta-data/edit /latest/meta-data/iam/security-credentials/r",
            agent.trim(),
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
        checked?;
        println!("{served} times asked in {AWAY:?} without an API server");
        ensure!(served > 10, "only {served} times");
        edit(podmeta, namespace, &node, "two").await
    })
    .await
}

#[tokio::test]
async fn a_new_serving_certificate_is_served_without_a_restart() -> Result<()> {
    kit::disturbing_podmeta_test(async |podmeta, namespace| {
        let node = pod_with_credentials(podmeta, namespace).await?;
        let restarts = async || -> Result<Vec<(String, i32)>> {
            let count = |pod: &Pod| {
                let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
                (pod.name_any(), statuses.map(|status| status.restart_count).sum())
            };
            Ok(operators(podmeta).await?.iter().map(count).collect())
        };
        let before = restarts().await?;
        let secrets = podmeta.system.api::<Secret>();
        let serving = async || -> Result<Option<Vec<u8>>> {
            let secret = secrets.get("podmeta-operator-tls").await?;
            Ok(secret.data.and_then(|mut data| data.remove("tls.crt")).map(|bytes| bytes.0))
        };
        let old = serving().await?.context("there is no certificate")?;
        // With a key that is not its own it is of no use: both are made anew, by whichever replica looks first.
        let other = json!({"stringData": {"tls.key": "no key"}});
        secrets.patch("podmeta-operator-tls", &PatchParams::default(), &Patch::Merge(&other)).await?;
        within(Duration::from_secs(90), "there is a new certificate", async || {
            ensure!(serving().await?.is_some_and(|new| new != old), "it is the old one");
            Ok(())
        })
        .await?;
        edit(podmeta, namespace, &node, "two").await?;
        ensure!(restarts().await? == before, "an operator was restarted");
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
