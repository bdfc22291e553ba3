//! Every condition that a profile can have, and the event that goes with it, reached as a user would: by applying objects.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use podmeta_crds::conditions::{ACCEPTED, CONFLICTED, CREDENTIALS_READY, PROGRAMMED};
use serde_json::json;

use super::{pod, profile};
use crate::kit::{self, Namespace, Podmeta, condition, within};

/// Waits until a profile's condition says so, with a message that names the field, and an event has said it too.
async fn says(
    podmeta: &Podmeta,
    namespace: &Namespace,
    name: &str,
    (kind, status, reason): (&str, &str, &str),
    names: &str,
) -> Result<()> {
    let what = format!("{name} is {kind} {status}: {reason}");
    let said = podmeta
        .status(namespace, name, &what, |said| {
            condition(said, kind).is_some_and(|condition| condition.status == status && condition.reason == reason)
        })
        .await?;
    let condition = condition(&said, kind).context("it is gone")?;
    ensure!(condition.message.contains(names), "{}", condition.message);
    ensure!(
        condition.observed_generation == said.observed_generation && said.observed_generation.is_some(),
        "{said:?}"
    );
    within(Duration::from_secs(20), "there is an event", async || {
        let events = namespace.api::<Event>().list(&ListParams::default()).await?;
        let about = |event: &&Event| {
            event.regarding.as_ref().is_some_and(|object| object.name.as_deref() == Some(name))
                && event.reason.as_deref() == Some(reason)
        };
        let event = events.iter().find(about).with_context(|| format!("no event {reason} of {name}"))?;
        ensure!(event.note.as_ref().is_some_and(|note| note.contains(names)), "{event:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_profile_that_cannot_be_done_says_which_field_and_why() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.default_service_account().await?;
        let only_here = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace.name}});
        let policy = json!({
            "apiVersion": "podmeta.dev/v1alpha1", "kind": "MetadataPolicy", "metadata": {"name": namespace.name},
            "spec": {"namespaceSelector": only_here, "maxHopLimit": 1},
        });
        namespace.apply(&policy.to_string()).await?;
        let item = |expression: &str| json!({"metadata": [{"dialect": "ec2", "path": "x", "expression": expression}]});
        for (name, spec, condition, names) in [
            ("invalid", item("pod.metadata."), (ACCEPTED, "False", "Invalid"), "spec.metadata[0].expression"),
            ("runtime", item("pod.metadata.labels['none']"), (ACCEPTED, "False", "ItemUnavailable"), "spec.metadata[0]"),
            (
                "misplaced",
                json!({"metadata": [
                    {"dialect": "ec2", "path": "x", "value": "leaf"}, {"dialect": "ec2", "path": "x/y", "value": "below"},
                ]}),
                (ACCEPTED, "False", "ItemMisplaced"),
                "spec.metadata",
            ),
            (
                "tightened",
                json!({"metadataOptions": {"httpPutResponseHopLimit": 2}}),
                (ACCEPTED, "False", "PolicyTightened"),
                "spec.metadataOptions.httpPutResponseHopLimit",
            ),
            (
                "forbidden",
                json!({"roles": [{"name": "r", "dialect": "ec2", "awsAssumeRole": {"roleArn": "arn:aws:iam::123456789012:role/r"}}]}),
                (ACCEPTED, "False", "PolicyForbids"),
                "spec.roles",
            ),
            (
                "no-data",
                json!({"userData": {"configMapKeyRef": {"name": "none", "key": "k"}}}),
                (ACCEPTED, "False", "UserDataUnavailable"),
                "spec.userData",
            ),
            (
                "no-secret-data",
                json!({"userData": {"secretKeyRef": {"name": "none", "key": "k"}}}),
                (ACCEPTED, "False", "UserDataUnavailable"),
                "spec.userData.secretKeyRef",
            ),
            (
                "no-secret",
                json!({"roles": [{"name": "r", "dialect": "ec2", "secret": {"name": "none"}}]}),
                (CREDENTIALS_READY, "False", "SecretUnusable"),
                "spec.roles[dialect=ec2].secret.name",
            ),
        ] {
            namespace.apply(&pod(name, name)).await?;
            namespace.apply(&profile(name, spec)).await?;
            says(podmeta, namespace, name, condition, names).await?;
        }
        podmeta.delete_policy(&namespace.name).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn of_two_profiles_of_one_priority_the_younger_is_conflicted_until_the_elder_goes() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.default_service_account().await?;
        namespace.apply(&pod("web", "web")).await?;
        let same = json!({"podSelector": {"matchLabels": {"app": "web"}}});
        namespace.apply(&profile("elder", same.clone())).await?;
        podmeta.status(namespace, "elder", "it serves the pod", |said| said.programmed_pods == Some(1)).await?;
        // Times of creation are whole seconds: of two in the same one the first by name counts as the elder.
        namespace.apply(&profile("younger", same)).await?;
        says(podmeta, namespace, "younger", (CONFLICTED, "True", "Conflicted"), "MetadataProfile elder").await?;
        podmeta.delete_profile(namespace, "elder").await?;
        let taken_over = podmeta
            .status(namespace, "younger", "it serves the pod", |said| {
                said.programmed_pods == Some(1) && condition(said, CONFLICTED).is_some_and(|no| no.status == "False")
            })
            .await?;
        ensure!(condition(&taken_over, PROGRAMMED).is_some_and(|yes| yes.status == "True"), "{taken_over:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_mended_is_accepted_and_a_status_that_says_the_same_is_not_written_again() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.default_service_account().await?;
        namespace.apply(&pod("web", "web")).await?;
        let item = |expression: &str| json!({"metadata": [{"dialect": "ec2", "path": "x", "expression": expression}]});
        namespace.apply(&profile("web", item("pod.metadata."))).await?;
        says(podmeta, namespace, "web", (ACCEPTED, "False", "Invalid"), "spec.metadata[0].expression").await?;
        namespace.apply(&profile("web", item("pod.metadata.name"))).await?;
        let accepted = podmeta
            .status(namespace, "web", "it is accepted", |said| {
                condition(said, ACCEPTED).is_some_and(|yes| yes.status == "True") && said.programmed_pods == Some(1)
            })
            .await?;
        // A second profile shows that the operator has gone over this one's namespace again.
        namespace.apply(&profile("other", json!({}))).await?;
        podmeta.status(namespace, "other", "it has a status", |said| said.observed_generation.is_some()).await?;
        let now = podmeta.status(namespace, "web", "it is there", |_| true).await?;
        ensure!(now == accepted, "it was written again: {now:?}, before {accepted:?}");
        let node = namespace.node_of("web").await?;
        let pod = format!("{}/web", namespace.name);
        ensure!(podmeta.answer(&node, &[&pod, "ec2", "/latest/meta-data/x"]).await? == "web");
        // An edit that is wrong takes nothing away from the pods.
        namespace.apply(&profile("web", item("pod.metadata."))).await?;
        says(podmeta, namespace, "web", (ACCEPTED, "False", "Invalid"), "spec.metadata[0].expression").await?;
        ensure!(podmeta.answer(&node, &[&pod, "ec2", "/latest/meta-data/x"]).await? == "web");
        Ok(())
    })
    .await
}
