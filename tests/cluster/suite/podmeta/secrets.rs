//! Secrets that profiles may use, and the operator's permissions to read them.

use anyhow::{Result, ensure};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use podmeta_crds::conditions::{ACCEPTED, CREDENTIALS_READY};
use podmeta_crds::metadataprofile::MetadataProfileStatus;
use podmeta_metadata::credentials::{USABLE_BY_LABEL, not_usable};
use serde_json::json;

use super::fixtures::{
    SECRET_ACCESS_KEY, access_key_secret, check_credentials, profile, start_pod_with_credentials, usable_by_profiles,
};
use crate::kit::{self, Podmeta, TestNamespace, client_pod, find_condition};

/// Waits until a condition of profile `web` has this reason, and returns its message.
async fn wait_for_reason(podmeta: &Podmeta, namespace: &TestNamespace, kind: &str, reason: &str) -> Result<String> {
    let has_reason = |status: &MetadataProfileStatus| {
        find_condition(status, kind).is_some_and(|condition| condition.reason == reason)
    };
    let status = podmeta.wait_for_status(namespace, "web", &format!("{kind} has reason {reason}"), has_reason).await?;
    Ok(find_condition(&status, kind).map(|condition| condition.message.clone()).unwrap_or_default())
}

/// Sets the labels of the Secret `keys`.
async fn patch_labels(namespace: &TestNamespace, labels: serde_json::Value) -> Result<()> {
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    namespace.api::<Secret>().patch("keys", &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Returns true if the operator's ServiceAccount may list Secrets in a namespace, or in all namespaces.
async fn may_list_secrets(podmeta: &Podmeta, namespace: Option<&str>) -> Result<bool> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{}:podmeta-operator", podmeta.system.name)),
            resource_attributes: Some(ResourceAttributes {
                namespace: namespace.map(str::to_owned),
                verb: Some("list".to_owned()),
                resource: Some("secrets".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews = Api::<SubjectAccessReview>::all(podmeta.cluster.client.clone());
    let status = reviews.create(&PostParams::default(), &review).await?.status;
    Ok(status.is_some_and(|status| status.allowed))
}

#[tokio::test]
async fn missing_and_unlabelled_secret_give_the_same_status_and_a_label_allows_use() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.wait_for_service_account().await?;
        namespace.apply(&client_pod("web", "web", json!({})).to_string()).await?;
        let spec = json!({
            "roles": [{"name": "r", "dialect": "ec2", "secret": {"name": "keys"}}],
            "userData": {"secretKeyRef": {"name": "keys", "key": "secretAccessKey"}},
        });
        namespace.apply(&profile("web", spec)).await?;
        let message = not_usable(&namespace.name, "keys");
        let missing = wait_for_reason(podmeta, namespace, CREDENTIALS_READY, "SecretNotOptedIn").await?;
        ensure!(missing.ends_with(&message), "{missing}");
        let node = namespace.node_of("web").await?;
        podmeta.wait_until_programmed(namespace, "web", 1).await?;

        namespace.apply(&access_key_secret()).await?;
        check_credentials(podmeta, namespace, &node).await?;
        let user_data = [&format!("{}/web", namespace.name), "ec2", "/latest/user-data"];
        ensure!(podmeta.query_until_ok(&node, &user_data).await? == SECRET_ACCESS_KEY);
        wait_for_reason(podmeta, namespace, ACCEPTED, "Accepted").await?;

        patch_labels(namespace, json!({USABLE_BY_LABEL: null})).await?;
        let unlabelled = wait_for_reason(podmeta, namespace, CREDENTIALS_READY, "SecretNotOptedIn").await?;
        ensure!(unlabelled == missing, "{unlabelled}");
        let user_data_message = wait_for_reason(podmeta, namespace, ACCEPTED, "UserDataUnavailable").await?;
        ensure!(user_data_message.ends_with(&message), "{user_data_message}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn status_does_not_reveal_a_secret_that_a_policy_forbids() -> Result<()> {
    kit::podmeta_test(async |podmeta, namespace| {
        namespace.wait_for_service_account().await?;
        let namespace_selector = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace.name}});
        let policy = json!({
            "apiVersion": "podmeta.dev/v1alpha1", "kind": "MetadataPolicy", "metadata": {"name": namespace.name},
            "spec": {"namespaceSelector": namespace_selector, "allowedSecrets": ["web-*"]},
        });
        namespace.apply(&policy.to_string()).await?;
        namespace.apply(&client_pod("web", "web", json!({})).to_string()).await?;
        let spec = json!({"roles": [{"name": "r", "dialect": "ec2", "secret": {"name": "keys"}}]});
        namespace.apply(&profile("web", spec)).await?;
        let message = wait_for_reason(podmeta, namespace, ACCEPTED, "PolicyForbids").await?;
        ensure!(message.contains("does not allow the Secret keys"), "{message}");
        podmeta.wait_until_programmed(namespace, "web", 1).await?;
        let without = podmeta.status(namespace, "web").await?;
        ensure!(
            find_condition(&without, CREDENTIALS_READY).is_some_and(|condition| condition.reason == "NotRequested")
        );
        namespace.apply(&access_key_secret()).await?;
        // The status of a second profile proves that the operator has reconciled the namespace again.
        namespace.apply(&profile("other", json!({}))).await?;
        let has_status = |status: &MetadataProfileStatus| status.observed_generation.is_some();
        podmeta.wait_for_status(namespace, "other", "the second profile has a status", has_status).await?;
        let with = podmeta.status(namespace, "web").await?;
        ensure!(with.conditions == without.conditions, "{with:?}, without the Secret: {without:?}");
        podmeta.delete_policy(&namespace.name).await
    })
    .await
}

#[tokio::test]
async fn operator_reads_secrets_of_the_listed_namespaces_only() -> Result<()> {
    kit::exclusive_podmeta_test(async |podmeta, namespace| {
        ensure!(may_list_secrets(podmeta, None).await?, "the default is all namespaces");
        let node = start_pod_with_credentials(podmeta, namespace).await?;
        let own = format!("secrets.namespaces=[\"{}\"]", namespace.name);
        podmeta.upgrade(&["--set-json", &own]).await?;
        let listed = async {
            ensure!(may_list_secrets(podmeta, Some(&namespace.name)).await?);
            for other in [None, Some("kube-system"), Some("default"), Some(podmeta.system.name.as_str())] {
                ensure!(!may_list_secrets(podmeta, other).await?, "the operator may list Secrets of {other:?}");
            }
            // A change of the Secret proves that the operator still watches it.
            patch_labels(namespace, json!({USABLE_BY_LABEL: null})).await?;
            wait_for_reason(podmeta, namespace, CREDENTIALS_READY, "SecretNotOptedIn").await?;
            patch_labels(namespace, usable_by_profiles()).await?;
            check_credentials(podmeta, namespace, &node).await?;
            podmeta.upgrade(&["--set-json", "secrets.namespaces=[]"]).await?;
            ensure!(!may_list_secrets(podmeta, Some(&namespace.name)).await?);
            wait_for_reason(podmeta, namespace, CREDENTIALS_READY, "SecretNotOptedIn").await
        };
        let listed = listed.await;
        podmeta.upgrade(&["--set-json", "secrets.namespaces=[\"*\"]"]).await?;
        listed?;
        check_credentials(podmeta, namespace, &node).await
    })
    .await
}
