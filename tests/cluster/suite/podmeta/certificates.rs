//! The certificate that agents know the operator by: its own, or somebody else's.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use podmeta_cluster::pki::{Authority, Identity};
use serde_json::json;

use super::served::{edit, operators, pod_with_credentials};
use crate::kit::{self, Podmeta, within};

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
async fn a_certificate_of_somebody_else_s_authority_is_served_and_trusted() -> Result<()> {
    kit::disturbing_podmeta_test(async |podmeta, namespace| {
        let node = pod_with_credentials(podmeta, namespace).await?;
        let folder = std::env::temp_dir().join(&namespace.name);
        let authority = Authority::open(&folder)?;
        std::fs::remove_dir_all(&folder)?;
        let name = format!("podmeta-operator.{}.svc", podmeta.system.name);
        let identity = Identity { name: "operator", group: None, names: &[&name], addresses: &[] };
        let both = authority.issue(&identity)?;
        let key = both.find("-----BEGIN PRIVATE KEY-----").context("there is no key")?;
        let (certificate, key) = both.split_at(key);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": namespace.name}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": certificate, "tls.key": key, "ca.crt": authority.certificate()},
        });
        podmeta.system.apply(&secret.to_string()).await?;
        podmeta.upgrade(&["--set", &format!("operator.tls.secretName={}", namespace.name)]).await?;
        let theirs = async {
            agents_trust(podmeta, |bundle| bundle == authority.certificate()).await?;
            edit(podmeta, namespace, &node, "two").await
        };
        let theirs: Result<()> = theirs.await;
        podmeta.upgrade(&["--set", "operator.tls.secretName="]).await?;
        podmeta.system.api::<Secret>().delete(&namespace.name, &DeleteParams::default()).await?;
        theirs?;
        agents_trust(podmeta, |bundle| bundle != authority.certificate()).await?;
        edit(podmeta, namespace, &node, "three").await
    })
    .await
}

/// Waits until such authorities are published, and starts the agents anew: a kubelet takes a minute to show them a change.
async fn agents_trust(podmeta: &Podmeta, so: impl Fn(&str) -> bool) -> Result<()> {
    within(Duration::from_secs(90), "other authorities are published", async || {
        let published = podmeta.system.api::<ConfigMap>().get("podmeta-operator-tls").await?;
        let bundle = published.data.and_then(|mut data| data.remove("ca.crt")).unwrap_or_default();
        ensure!(so(&bundle), "they are {bundle}");
        Ok(())
    })
    .await?;
    let agents = ListParams::default().labels("app.kubernetes.io/component=agent");
    podmeta.system.api::<Pod>().delete_collection(&DeleteParams::default(), &agents).await?;
    Ok(())
}
