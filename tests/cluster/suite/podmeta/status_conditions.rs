//! Conditions of profiles, and the event of each condition.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams};
use podmeta_crds::conditions::{ACCEPTED, CONFLICTED, CREDENTIALS_READY, PODS_EXCLUDED, PROGRAMMED};
use podmeta_crds::metadataprofile::MetadataProfileStatus;
use serde_json::json;

use super::fixtures::{profile, usable_by_profiles};
use crate::kit::{self, Podmeta, TestNamespace, client_pod, eventually, find_condition, has_condition};

/// Waits until a profile has a condition and an event of the same reason. Both messages must contain `field`.
async fn expect_condition(
    podmeta: &Podmeta,
    namespace: &TestNamespace,
    name: &str,
    (kind, value, reason): (&str, &str, &str),
    field: &str,
) -> Result<()> {
    let expectation = format!("profile {name} has condition {kind}={value}, reason {reason}");
    let status = podmeta
        .wait_for_status(namespace, name, &expectation, |status| {
            find_condition(status, kind)
                .is_some_and(|condition| condition.status == value && condition.reason == reason)
        })
        .await?;
    let condition = find_condition(&status, kind).context("the condition was removed")?;
    ensure!(condition.message.contains(field), "no {field} in message {:?}", condition.message);
    ensure!(
        condition.observed_generation == status.observed_generation && status.observed_generation.is_some(),
        "{status:?}"
    );
    eventually(Duration::from_secs(20), "the profile has an event of this reason", async || {
        let events = namespace.api::<Event>().list(&ListParams::default()).await?;
        let is_expected = |event: &&Event| {
            event.regarding.as_ref().is_some_and(|object| object.name.as_deref() == Some(name))
                && event.reason.as_deref() == Some(reason)
        };
        let event = events.iter().find(is_expected).with_context(|| format!("no event {reason} of profile {name}"))?;
        ensure!(event.note.as_ref().is_some_and(|note| note.contains(field)), "{event:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn unusable_profile_reports_field_and_reason() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.wait_for_service_account().await?;
        let namespace_selector = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace.name}});
        let policy = json!({
            "apiVersion": "podmeta.dev/v1alpha1", "kind": "MetadataPolicy", "metadata": {"name": namespace.name},
            "spec": {"namespaceSelector": namespace_selector, "maxHopLimit": 1},
        });
        namespace.apply(&policy.to_string()).await?;
        let empty = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "empty", "labels": usable_by_profiles()}});
        namespace.apply(&empty.to_string()).await?;
        let item = |expression: &str| json!({"metadata": [{"dialect": "ec2", "path": "x", "expression": expression}]});
        for (name, spec, condition, field) in [
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
                (CREDENTIALS_READY, "False", "SecretNotOptedIn"),
                "spec.roles[dialect=ec2].secret.name",
            ),
            (
                "empty-secret",
                json!({"roles": [{"name": "r", "dialect": "ec2", "secret": {"name": "empty"}}]}),
                (CREDENTIALS_READY, "False", "SecretUnusable"),
                "spec.roles[dialect=ec2].secret.name",
            ),
        ] {
            namespace.apply(&client_pod(name, name, json!({})).to_string()).await?;
            namespace.apply(&profile(name, spec)).await?;
            expect_condition(podmeta, namespace, name, condition, field).await?;
        }
        podmeta.delete_policy(&namespace.name).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn younger_profile_of_same_priority_is_conflicted_until_older_is_deleted() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.wait_for_service_account().await?;
        namespace.apply(&client_pod("web", "web", json!({})).to_string()).await?;
        let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}});
        namespace.apply(&profile("older", spec.clone())).await?;
        podmeta.wait_until_programmed(namespace, "older", 1).await?;
        // Creation times have a resolution of one second. Within a second, the first by name counts as older.
        namespace.apply(&profile("younger", spec)).await?;
        expect_condition(podmeta, namespace, "younger", (CONFLICTED, "True", "Conflicted"), "MetadataProfile older")
            .await?;
        podmeta.delete_profile(namespace, "older").await?;
        let status = podmeta
            .wait_for_status(namespace, "younger", "the younger profile serves the pod", |status| {
                status.programmed_pods == Some(1) && has_condition(status, CONFLICTED, "False")
            })
            .await?;
        ensure!(has_condition(&status, PROGRAMMED, "True"), "{status:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pod_on_the_host_network_is_excluded_and_not_counted_as_programmed() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.wait_for_service_account().await?;
        namespace.apply(&client_pod("linked", "web", json!({})).to_string()).await?;
        let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "hostNetwork": "Pod"});
        namespace.apply(&profile("web", spec)).await?;
        podmeta.wait_until_programmed(namespace, "web", 1).await?;
        let status = podmeta.status(namespace, "web").await?;
        ensure!(has_condition(&status, PODS_EXCLUDED, "False"), "{status:?}");
        // A pod counts as soon as it is bound to a node. It need not run.
        namespace.apply(&client_pod("on-host", "web", json!({"hostNetwork": true})).to_string()).await?;
        let excluded = (PODS_EXCLUDED, "True", "HostNetwork");
        expect_condition(podmeta, namespace, "web", excluded, "without redirection: 1 (on-host)").await?;
        let status = podmeta.status(namespace, "web").await?;
        ensure!((status.matched_pods, status.programmed_pods) == (Some(1), Some(1)), "{status:?}");
        ensure!(has_condition(&status, PROGRAMMED, "True") && status.pods.is_empty(), "{status:?}");
        namespace.api::<Pod>().delete("on-host", &DeleteParams::default().grace_period(0)).await?;
        podmeta
            .wait_for_status(namespace, "web", "the deleted pod is not excluded", |status| {
                has_condition(status, PODS_EXCLUDED, "False")
            })
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn corrected_profile_is_accepted_and_unchanged_status_is_not_rewritten() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.wait_for_service_account().await?;
        namespace.apply(&client_pod("web", "web", json!({})).to_string()).await?;
        let item = |expression: &str| json!({"metadata": [{"dialect": "ec2", "path": "x", "expression": expression}]});
        namespace.apply(&profile("web", item("pod.metadata."))).await?;
        expect_condition(podmeta, namespace, "web", (ACCEPTED, "False", "Invalid"), "spec.metadata[0].expression")
            .await?;
        namespace.apply(&profile("web", item("pod.metadata.name"))).await?;
        let accepted = podmeta
            .wait_for_status(namespace, "web", "the profile is accepted and programmed", |status| {
                has_condition(status, ACCEPTED, "True") && status.programmed_pods == Some(1)
            })
            .await?;
        // The status of a second profile proves that the operator has reconciled the namespace again.
        namespace.apply(&profile("other", json!({}))).await?;
        let has_status = |status: &MetadataProfileStatus| status.observed_generation.is_some();
        podmeta.wait_for_status(namespace, "other", "the second profile has a status", has_status).await?;
        let current = podmeta.status(namespace, "web").await?;
        ensure!(current == accepted, "the status was rewritten: {current:?}, before: {accepted:?}");
        let node = namespace.node_of("web").await?;
        let pod = format!("{}/web", namespace.name);
        ensure!(podmeta.query_until_ok(&node, &[&pod, "ec2", "/latest/meta-data/x"]).await? == "web");
        // An invalid edit does not change what pods are served.
        namespace.apply(&profile("web", item("pod.metadata."))).await?;
        expect_condition(podmeta, namespace, "web", (ACCEPTED, "False", "Invalid"), "spec.metadata[0].expression")
            .await?;
        ensure!(podmeta.query_until_ok(&node, &[&pod, "ec2", "/latest/meta-data/x"]).await? == "web");
        Ok(())
    })
    .await
}
